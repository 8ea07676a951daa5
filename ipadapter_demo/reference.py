"""A picture, or what an image encoder made of one, as a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from ipadapter_demo import checks
from ipadapter_demo.embeds import ImageEmbeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.fit import REFERENCE_FITS, ReferenceFit, square_boxes
from ipadapter_demo.imaging import flatten_image
from ipadapter_demo.layer_presets import LayerPreset, checked_layers
from ipadapter_demo.masks import flatten_mask, folded

Window = tuple[float, float]

MAX_WEIGHT = 2.0
MAX_COUNT = 16
MAX_ADAPTER = 200  # characters of its name
MAX_FACE = 100
MAX_STRETCH = 0.02  # by which the proportions of a mask may differ from the picture's


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A picture used as a prompt: `image`, or in its place the `embeds` that were made of one.

    A FaceID adapter reads a face of the picture: the largest, or number `face` of those found, from
    left to right from 1. Embeds of a face may stand beside a picture of it, for the adapters that
    read both.
    `fit` says how a picture that is not square reaches the image encoder; "tile" as up to 4
    squares along its longer side, with image tokens of their own. The black part of `clip_mask` is
    hidden from the encoder, which sees its mean colour there; `noise` is the share of noise, from 0
    to 1, that is mixed into what it sees. `mask` (white = here) confines the reference's influence
    to a region of the output. A `negative` reference takes the place of the empty image prompt in
    the unconditional half of guidance: results move away from it. `window` is the part of the
    sampling steps, in fractions, during which it acts; `only_image` the one image of the request,
    from 0, that it is for, None all of them. `adapter` names the image adapter that reads it, and
    `layers` where it acts, as `image_layers` of the request: None is what the request says.
    """

    image: Image.Image | None = None
    embeds: ImageEmbeds | None = None
    face: int = 0
    weight: float = 1.0
    fit: ReferenceFit = "crop"
    clip_mask: Image.Image | None = None
    noise: float = 0.0
    mask: Image.Image | None = None
    negative: bool = False
    window: Window = (0.0, 1.0)
    only_image: int | None = None
    adapter: str | None = None
    layers: LayerPreset | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.embeds is not None and not isinstance(self.embeds, ImageEmbeds):
            raise RequestError(
                f"reference.embeds must be ImageEmbeds, got {type(self.embeds).__name__}"
            )
        if self.embeds is None or self.image is not None:
            _set(self, "image", flatten_image(self.image, "reference.image"))
        if self.embeds is not None and self.image is not None and not self.embeds.of_faces:
            raise RequestError(
                "reference.image and reference.embeds exclude each other, but for those of a face"
            )
        _set(self, "face", checks.integer("reference.face", self.face, 0, MAX_FACE))
        if self.face and self.embeds is not None:
            raise RequestError("reference.face chooses a face of a picture, and embeds are given")
        _set(self, "weight", checks.number("reference.weight", self.weight, 0.0, MAX_WEIGHT))
        checks.one_of("reference.fit", self.fit, REFERENCE_FITS)
        _set(self, "noise", checks.number("reference.noise", self.noise, 0.0, 1.0))
        if self.image is None and (self.noise or self.clip_mask is not None):
            field = "noise" if self.noise else "clip_mask"
            raise RequestError(f"reference.{field} needs a picture, and embeds are none")
        if self.clip_mask is not None:
            hidden = flatten_mask(self.clip_mask, "reference.clip_mask")
            _set(self, "clip_mask", folded(hidden))
            _check_proportions(self.clip_mask.size, self.picture.size)
        checks.flag("reference.negative", self.negative)
        _set(self, "window", checks.window("reference.window", self.window))
        if self.only_image is not None:
            only = checks.integer("reference.only_image", self.only_image, 0, MAX_COUNT - 1)
            _set(self, "only_image", only)
        if self.adapter is not None:
            checks.text("reference.adapter", self.adapter, MAX_ADAPTER)
        if self.layers is not None:
            _set(self, "layers", checked_layers("reference.layers", self.layers))
        if self.mask is not None:
            _set(self, "mask", folded(flatten_mask(self.mask, "reference.mask")))

    @property
    def picture(self) -> Image.Image:
        """Raises RequestError where there are embeds in its place."""
        if self.image is None:
            raise RequestError("reference.embeds hold no picture")
        return self.image

    @property
    def squares(self) -> int:
        """How many pictures the adapter reads of it, each with image tokens of its own."""
        if self.embeds is not None:
            return self.embeds.squares
        return len(square_boxes(self.picture.size)) if self.fit == "tile" else 1


def negative_noise(first: Reference, share: float) -> Reference:
    """The picture of a reference, faded into noise, as a negative one: read by the same adapter,
    for the same layers."""
    return Reference(
        image=first.image,
        fit=first.fit,
        noise=share,
        negative=True,
        adapter=first.adapter,
        layers=first.layers,
    )


def _check_proportions(mask: tuple[int, int], picture: tuple[int, int]) -> None:
    ours, theirs = mask[0] * picture[1], mask[1] * picture[0]
    if abs(ours - theirs) > MAX_STRETCH * max(ours, theirs):
        raise RequestError(
            f"reference.clip_mask must have the proportions of the picture, "
            f"{picture[0]}x{picture[1]}, got {mask[0]}x{mask[1]}"
        )


def _set(target: object, field: str, value: object) -> None:
    object.__setattr__(target, field, value)  # the one way to normalise a frozen dataclass
