"""One request: everything that belongs to one generation, frozen and validated where it is built.

The same object stands behind the page, the command line, Python and the PNG metadata. It holds
pictures as flattened RGB PIL images (masks as "L") and never a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from PIL import Image

from ipadapter_demo import checks
from ipadapter_demo.errors import RequestError
from ipadapter_demo.fit import FITS, Fit
from ipadapter_demo.imaging import flatten_image
from ipadapter_demo.layer_presets import LayerPreset, checked_layers
from ipadapter_demo.lora import MAX_LORAS, Lora
from ipadapter_demo.masks import flatten_mask
from ipadapter_demo.prompt_syntax import PROMPT_SYNTAXES, PromptSyntax, check_weights
from ipadapter_demo.reference import MAX_COUNT, MAX_WEIGHT, Reference, Window
from ipadapter_demo.sampling import SAMPLERS, NoiseSchedule, Sampler, check_sampling
from ipadapter_demo.size_limits import check_shape, check_side
from ipadapter_demo.upscale import Upscale

Combine = Literal["concat", "average"]

COMBINES: tuple[Combine, ...] = get_args(Combine)

MAX_IMAGE_SCALE = 2.0
MAX_GUIDANCE = 30.0
MAX_STEPS = 200
MAX_SEED = 2**32 - 1
MAX_PROMPT = 2000
MAX_CLIP_SKIP = 11
MAX_REFERENCES = 8
MAX_STRUCTURES = 8
MAX_FEATHER = 64
MAX_REPAINT_PASSES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A picture that fixes where things are.

    `kind` names the network that reads the map ("canny", "palette", ...), `annotator` the detector
    that draws the map from `image`; "none" when `image` already is the map. `fit` says how a
    picture of other proportions than the output becomes one of its size: its middle is cropped, it
    is padded with black (colours with grey), or squashed.
    `window` is the part of the sampling steps, in fractions, during which it acts.
    """

    kind: str
    image: Image.Image
    annotator: str = "none"
    weight: float = 1.0
    window: Window = (0.0, 1.0)
    fit: Fit = "crop"

    @property
    def resampling(self) -> Image.Resampling:
        """The filter that brings `image` to another size: the colours of a segmentation map are
        classes, and one between two of them would be a third."""
        is_classes = self.kind.endswith("segmentation") and self.annotator == "none"
        return Image.Resampling.NEAREST if is_classes else Image.Resampling.BICUBIC

    def __post_init__(self) -> None:
        checks.text("structure.kind", self.kind, MAX_PROMPT)
        checks.text("structure.annotator", self.annotator, MAX_PROMPT)
        checks.one_of("structure.fit", self.fit, FITS)
        _set(self, "image", flatten_image(self.image, "structure.image"))
        _set(self, "weight", checks.number("structure.weight", self.weight, 0.0, MAX_WEIGHT))
        _set(self, "window", checks.window("structure.window", self.window))


@dataclass(frozen=True, slots=True, kw_only=True)
class Inpaint:
    """Replace the white part of `mask` in `image`; every other pixel stays exactly as it is.

    The result has the size of `image`. `feather` softens the seam over that many pixels, measured
    inwards from the edge of the mask. `strength` 1 forgets what was under the mask. With
    `repaint_passes` above 1 every step is taken as often, its noise put back in between, so that
    inside and outside settle on one picture (RePaint, arXiv 2201.09865, section 4.2); then the
    sampler is DDIM. `context` says how much of the picture the model sees and draws, at its own
    resolution: 1 all of it, 0 a square around the mask; at 0.5 the width is the geometric mean of
    both. With `background_weight` above 0, references that have no region act inside the mask, and
    around it the picture itself is an image prompt of this weight. A model with a network that
    reads what is left around a mask uses it, and references act inside in any case."""

    image: Image.Image
    mask: Image.Image
    strength: float = 1.0
    feather: int = 2
    repaint_passes: int = 1
    context: float = 1.0
    background_weight: float = 0.0

    def __post_init__(self) -> None:
        _set(self, "image", flatten_image(self.image, "inpaint.image"))
        _set(self, "mask", flatten_mask(self.mask, "inpaint.mask"))
        _set(self, "strength", checks.strength("inpaint.strength", self.strength))
        _set(self, "feather", checks.integer("inpaint.feather", self.feather, 0, MAX_FEATHER))
        _set(
            self,
            "repaint_passes",
            checks.integer("inpaint.repaint_passes", self.repaint_passes, 1, MAX_REPAINT_PASSES),
        )
        _set(self, "context", checks.number("inpaint.context", self.context, 0.0, 1.0))
        around = checks.number("inpaint.background_weight", self.background_weight, 0.0, MAX_WEIGHT)
        _set(self, "background_weight", around)
        if self.mask.size != self.image.size:
            raise RequestError(
                "inpaint.mask must have the size of inpaint.image, "
                f"{_size(self.image)}, got {_size(self.mask)}"
            )
        if self.mask.getbbox() is None:
            raise RequestError("inpaint.mask is empty: paint the part of the picture to replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One generation. Image i of `count` starts from seed + i.

    `prompt_syntax` says how prompts are read: "plain" as they stand, as far as the model reads, or
    "weighted", of any length, with the weights and BREAK of `prompt_syntax.py`. SDXL's second text
    encoder reads `prompt_2` and `negative_prompt_2`, where they are given. `clip_skip` is the
    number of last layers of the text encoders that the prompt leaves out.
    `image_scale` is the paper's λ (arXiv 2308.06721, section 3.2), `image_window` the part of the
    steps during which it applies, `image_layers` where: a preset, or a factor for each
    cross-attention layer in the UNet's order. `combine` says how several references become one
    prompt: all their tokens beside each other, or the tokens of their mean. `adapter` names one of
    the model's image adapters, None the first of them; `loras` its LoRAs, None those that it was
    loaded with; `vae` an autoencoder in the folder of models, None the model's own.
    `guidance_window` is the part of the steps in which there is guidance: outside of it the
    conditional prediction is taken alone, and the other is not computed (arXiv 2404.07724).
    `guidance_rescale` is the φ of arXiv 2305.08891, section 3.4, for models that guidance
    overexposes. `noise_schedule` says at which noise levels steps are taken, "default" at the
    model's own; each sampler has those of `sampling.noise_schedules_of`. `width` and `height` of
    None mean the base model's own size, in the proportions of the picture that is inpainted or
    started from, if there is one; one of them alone lets the other follow. Together they may have
    MAX_AREA pixels and be MAX_ASPECT to 1.
    `init_image` with `strength` starts from a noised picture instead of pure noise (SDEdit); it is
    cropped to the proportions of the output. With `upscale` the picture is drawn at this size,
    enlarged, and drawn again from there, with all else as in the first pass: windows are parts of
    the steps of either pass.
    """

    prompt: str = ""
    negative_prompt: str = ""
    prompt_2: str = ""
    negative_prompt_2: str = ""
    prompt_syntax: PromptSyntax = "plain"
    clip_skip: int = 0
    references: tuple[Reference, ...] = ()
    image_scale: float = 1.0
    image_window: Window = (0.0, 1.0)
    image_layers: LayerPreset | tuple[float, ...] = "all"
    combine: Combine = "concat"
    adapter: str | None = None
    loras: tuple[Lora, ...] | None = None
    vae: str | None = None
    guidance: float = 7.5
    guidance_window: Window = (0.0, 1.0)
    guidance_rescale: float = 0.0
    steps: int = 20
    sampler: Sampler = "dpm++"
    noise_schedule: NoiseSchedule = "default"
    seed: int = 0
    count: int = 1
    width: int | None = None
    height: int | None = None
    structures: tuple[Structure, ...] = ()
    inpaint: Inpaint | None = None
    init_image: Image.Image | None = None
    strength: float = 0.6
    upscale: Upscale | None = None

    def __post_init__(self) -> None:
        checks.one_of("prompt_syntax", self.prompt_syntax, PROMPT_SYNTAXES)
        for name in ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2"):
            checks.text(name, getattr(self, name), MAX_PROMPT)
            if self.prompt_syntax == "weighted":
                check_weights(name, getattr(self, name))
        _set(self, "clip_skip", checks.integer("clip_skip", self.clip_skip, 0, MAX_CLIP_SKIP))
        references = checks.all_of("references", self.references, Reference, MAX_REFERENCES)
        _set(self, "references", references)
        structures = checks.all_of("structures", self.structures, Structure, MAX_STRUCTURES)
        _set(self, "structures", structures)
        image_scale = checks.number("image_scale", self.image_scale, 0.0, MAX_IMAGE_SCALE)
        _set(self, "image_scale", image_scale)
        _set(self, "image_window", checks.window("image_window", self.image_window))
        for name in ("adapter", "vae"):
            if getattr(self, name) is not None:
                checks.text(name, getattr(self, name), MAX_PROMPT)
        if self.loras is not None:
            _set(self, "loras", checks.all_of("loras", self.loras, Lora, MAX_LORAS))
        _set(self, "image_layers", checked_layers("image_layers", self.image_layers))
        checks.one_of("combine", self.combine, COMBINES)
        _set(self, "guidance", checks.number("guidance", self.guidance, 1.0, MAX_GUIDANCE))
        _set(self, "guidance_window", checks.window("guidance_window", self.guidance_window))
        rescale = checks.number("guidance_rescale", self.guidance_rescale, 0.0, 1.0)
        _set(self, "guidance_rescale", rescale)
        _set(self, "steps", checks.integer("steps", self.steps, 1, MAX_STEPS))
        checks.one_of("sampler", self.sampler, SAMPLERS)
        check_sampling(self.sampler, self.noise_schedule, self.steps)
        _set(self, "count", checks.integer("count", self.count, 1, MAX_COUNT))
        _set(self, "seed", checks.integer("seed", self.seed, 0, MAX_SEED))
        if self.seed + self.count - 1 > MAX_SEED:
            raise RequestError(
                f"seed must be at most {MAX_SEED - self.count + 1} for {self.count} images, "
                f"got {self.seed}"
            )
        for reference in self.references:
            if reference.only_image is not None and reference.only_image >= self.count:
                raise RequestError(
                    f"reference.only_image must lie below count, {self.count}, "
                    f"got {reference.only_image}"
                )
        for name in ("width", "height"):
            if getattr(self, name) is not None:
                _set(self, name, check_side(name, getattr(self, name)))
        if self.width is not None and self.height is not None:
            check_shape(self.width, self.height)
        _set(self, "strength", checks.strength("strength", self.strength))
        if self.inpaint is not None and not isinstance(self.inpaint, Inpaint):
            raise RequestError(f"inpaint must be an Inpaint, got {type(self.inpaint).__name__}")
        if self.init_image is not None:
            _set(self, "init_image", flatten_image(self.init_image, "init_image"))
            if self.inpaint is not None:
                raise RequestError("init_image and inpaint exclude each other: give one of them")
        if self.upscale is not None:
            self._check_upscale(self.upscale)

    def _check_upscale(self, upscale: object) -> None:
        if not isinstance(upscale, Upscale):
            raise RequestError(f"upscale must be an Upscale, got {type(upscale).__name__}")
        if self.inpaint is not None:
            raise RequestError("upscale and inpaint exclude each other: give one of them")
        if self.width is not None and self.height is not None:
            upscale.size_of((self.width, self.height))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(self.seed, self.seed + self.count))


def _set(target: object, field: str, value: object) -> None:
    object.__setattr__(target, field, value)  # the one way to normalise a frozen dataclass


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"
