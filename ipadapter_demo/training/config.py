"""Configuration of a training on captioned pictures. Defaults are the papers', with their sources.

IP-Adapter, arXiv 2308.06721, section 4.1.2, unless another source is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.request import MAX_SEED

Precision = Literal["", "auto", "no", "bf16", "fp16"]
Timesteps = Literal["uniform", "cubic"]
LrSchedule = Literal["constant", "cosine"]
Network = Literal["controlnet", "t2i-adapter"]
MIN_SCALE = 0.3  # λ of the weakest image prompt in distillation


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """The fields of every training on pictures with captions."""

    data: Annotated[
        tuple[str, ...],
        (
            "where the pictures are: shards.tar, {000..099}.tar, https://.../{000..099}.tar, a "
            "folder with metadata.jsonl, or datasets:NAME_OR_FOLDER[:split]"
        ),
    ]
    held_out: Annotated[
        tuple[str, ...], ("pictures for previews, held-out loss and scores [none]")
    ] = ()
    run: Annotated[Path, "folder for checkpoints, previews and logs"]
    out: Annotated[Path, "folder for what was trained"]
    base: Annotated[
        str,
        ("sd15, sdxl or tabletop, a folder, a .safetensors checkpoint, or a repository on the hub"),
    ] = "sd15"
    models_dir: Annotated[Path | None, "folder that mirrors the hub"] = None
    start: Annotated[Path | None, "what an earlier training made, to go on from"] = None
    size: Annotated[int, "pixels: the short side, then the centre crop"] = 512
    batch: Annotated[int, "pictures a step and process"] = 8
    accumulate: Annotated[int, "batches a step"] = 1
    steps: Annotated[int, "of the optimiser"] = 1_000_000
    lr: Annotated[float, "of AdamW"] = 1e-4
    lr_schedule: Annotated[LrSchedule, "constant, or cosine down to a twentieth"] = "constant"
    warmup: Annotated[int, "steps of linear lr warm-up"] = 0
    weight_decay: Annotated[float, "of AdamW"] = 0.01
    drop_text: Annotated[float, "share of pictures that lose their caption alone"] = 0.05
    timesteps: Annotated[
        Timesteps,
        ("uniform, or cubic: t = (1 - u³)·T, towards noise (arXiv 2302.08453, section 3.4)"),
    ] = "uniform"
    min_snr: Annotated[float, "γ of min-SNR weights, 5 in arXiv 2303.09556; 0: off"] = 0.0
    truncated_snr: Annotated[
        float,
        (
            "weights max(1, 1/SNR), which dwell on noisy steps (arXiv 2202.00512, section 4), but "
            "at most this; 0: off"
        ),
    ] = 0.0
    noise_offset: Annotated[
        float, ("of https://www.crosslabs.org/blog/diffusion-with-offset-noise, 0.1 there; 0: off")
    ] = 0.0
    ema: Annotated[float, "decay of the EMA weights, such as 0.999; 0: off"] = 0.0
    clip_grad: Annotated[float, "largest norm of the gradient; 0: off"] = 0.0
    gradient_checkpointing: Annotated[bool, "less memory, a third more time"] = False
    adam_8bit: Annotated[bool, "optimiser states in 8 bits, by bitsandbytes"] = False
    compile: Annotated[bool, "fuse the UNet with torch.compile"] = False
    precision: Annotated[
        Precision,
        "auto (bf16 where the device has it), no, bf16 or fp16 [what accelerate was launched with]",
    ] = ""
    device: Annotated[Literal["", "cpu"], "cpu: no accelerator [the best there is]"] = ""
    seed: Annotated[int, "of order, noise and initial weights"] = 0
    workers: Annotated[int, "processes that read and decode, for each that trains"] = 2
    cache: Annotated[Path | None, "folder to keep latents and image embeddings in"] = None
    log_every: Annotated[int, "steps"] = 50
    save_every: Annotated[int, "steps"] = 1000
    preview_every: Annotated[int, "steps between previews and held-out figures; 0: never"] = 1000
    held_out_count: Annotated[int, "held-out pictures to evaluate on"] = 16
    clip: Annotated[Path | None, ("CLIP model to score previews with, in transformers' layout")] = (
        None
    )
    resume: Annotated[bool, "go on with the run in the run folder"] = False

    def __post_init__(self) -> None:
        """Raises TrainingError that names the field, its limit and the value."""
        self._check("data", bool(self.data), "at least one place")
        for name in (
            "size",
            "batch",
            "accumulate",
            "steps",
            "log_every",
            "save_every",
            "held_out_count",
        ):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in (
            "warmup",
            "weight_decay",
            "min_snr",
            "truncated_snr",
            "noise_offset",
            "clip_grad",
            "workers",
            "preview_every",
        ):
            self._check(name, getattr(self, name) >= 0, "at least 0")
        self._check("seed", 0 <= self.seed <= MAX_SEED, f"from 0 to {MAX_SEED}")
        self._check("size", self.size % 8 == 0, "a multiple of 8")
        self._check("lr", 0 < self.lr < 1, "between 0 and 1")
        self._check("ema", 0 <= self.ema < 1, "from 0 to below 1")
        self._check("drop_text", 0 <= self.drop_text <= 1, "from 0 to 1")
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal:
                known = get_args(kind)
                self._check(
                    name,
                    getattr(self, name) in known,
                    f"one of {', '.join(k or 'nothing' for k in known)}",
                )

    def _check(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise TrainingError(f"{name} must be {expected}, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePromptConfig(TrainingConfig):
    """The fields of every training under image prompts.

    A dropped picture is a zero embedding, for a Plus adapter the encoder's view of a blank one:
    https://github.com/tencent-ailab/IP-Adapter/blob/62e4af9/tutorial_train_plus.py"""

    image_encoder: Annotated[
        str, ("a folder, or a repository and its folder, owner/name/folder [ViT-H/14]")
    ] = ""
    own_pictures: Annotated[
        bool, ("show the image encoder the picture itself, where a shard has a reference beside it")
    ] = False
    drop_image: Annotated[float, "share that lose the picture alone"] = 0.05
    drop_both: Annotated[float, "share that lose both"] = 0.05

    def __post_init__(self) -> None:
        # the zero-argument super() does not find the class that slots=True makes anew
        super(ImagePromptConfig, self).__post_init__()
        for name in ("drop_image", "drop_both"):
            self._check(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        total = self.drop_text + self.drop_image + self.drop_both
        if total > 1:
            raise TrainingError(
                f"drop_text + drop_image + drop_both must be at most 1, got {total:g}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAdapterConfig(ImagePromptConfig):
    variant: Annotated[
        Literal["base", "plus"], ("base: 4 tokens from the embedding; plus: 16 from the patches")
    ] = "base"
    tokens: Annotated[int, "that stand for a picture; 0: 4, or 16 for plus"] = 0

    def __post_init__(self) -> None:
        super(ImageAdapterConfig, self).__post_init__()
        self._check("tokens", self.tokens >= 0, "at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class FewStepConfig(ImagePromptConfig):
    """Consistency distillation into a LoRA (arXiv 2311.05556), by the values of its script:
    https://github.com/huggingface/diffusers/tree/main/examples/consistency_distillation"""

    adapter: Annotated[str, "file of the image adapter [the base's own]"] = ""
    rank: Annotated[int, "of the LoRA"] = 64
    teacher_guidance: Annotated[float, "of the base, which the LoRA learns to do without"] = 7.5
    teacher_steps: Annotated[int, "of DDIM, of which the base takes one"] = 50
    image_scale: Annotated[float, "largest λ of an image prompt; each has its own, from 0.3"] = 1.2
    drop_text: Annotated[float, "share of pictures that lose their caption alone"] = 0.35
    drop_image: Annotated[float, "share that lose the picture alone"] = 0.3

    def __post_init__(self) -> None:
        super(FewStepConfig, self).__post_init__()
        self._check("rank", self.rank >= 1, "at least 1")
        self._check("teacher_guidance", self.teacher_guidance >= 1, "at least 1")
        self._check("teacher_steps", 2 <= self.teacher_steps <= 1000, "from 2 to 1000")
        self._check("image_scale", self.image_scale >= MIN_SCALE, f"at least {MIN_SCALE}")
        for name in ("min_snr", "truncated_snr", "noise_offset"):
            self._check(name, getattr(self, name) == 0, "0: a distillation has a loss of its own")


@dataclass(frozen=True, slots=True, kw_only=True)
class StructureConfig(TrainingConfig):
    """Half of the captions empty: arXiv 2302.05543, section 3.4. T2I-Adapters take lr 1e-5 and
    cubic time steps: arXiv 2302.08453, sections 3.4 and 4.1."""

    network: Annotated[Network, "which of the two"] = "t2i-adapter"
    annotator: Annotated[str, "what draws the maps: canny, palette, depth, ..."] = "canny"
    lr: Annotated[float, "of AdamW"] = 1e-5
    timesteps: Annotated[Timesteps, ("as for the adapter; cubic is the T2I-Adapter paper's")] = (
        "cubic"
    )
    drop_text: Annotated[float, "share of captions left empty"] = 0.5
