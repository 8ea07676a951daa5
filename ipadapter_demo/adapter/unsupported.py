"""Files that are no adapter this project reads, named by their tensors' names and shapes.

Adapters that look like ours and are not come first: their own names decide. Layouts are those of
the classes that write them: tencent-ailab/IP-Adapter 62e4af9 (Portrait for SDXL),
InstantX/InstantID, Kwai-Kolors/Kolors,
TencentARC/PhotoMaker, XLabs-AI/x-flux, InstantX/FLUX.1-dev-IP-Adapter, and diffusers 0.42
`loaders/` for SD 3.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]  # of a file's tensors, under flat published names


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A kind of file: how to tell it, what to call it, and what it would need."""

    matches: Callable[[Shapes], bool]
    name: str
    needs: str


def _named(pattern: str) -> Callable[[Shapes], bool]:
    """A test for a tensor whose name matches, from its start."""
    compiled = re.compile(pattern)
    return lambda shapes: any(map(compiled.match, shapes))


def _shaped(key: str, *shape: int | None) -> Callable[[Shapes], bool]:
    """A test for a tensor of the projection of this shape; None stands for any size."""

    def matches(shapes: Shapes) -> bool:
        found = shapes.get(f"image_proj.{key}", ())
        return len(found) == len(shape) and all(
            size in (None, side) for size, side in zip(shape, found, strict=True)
        )

    return matches


_KINDS = (
    Unsupported(
        _named(r"image_proj\.time_embedding\.|ip_adapter\.\d+\.norm_ip\."),
        "an IP-Adapter for SD 3.5",
        "it reads the time step too and needs SD 3.5's transformer; this version draws "
        "with SD 1.5 and SDXL",
    ),
    Unsupported(
        _named(r"double_blocks\.\d+\.processor\.ip_adapter"),
        "an IP-Adapter for Flux (XLabs)",
        "it needs Flux's transformer; this version draws with SD 1.5 and SDXL",
    ),
    Unsupported(
        _shaped("norm.weight", 4096),
        "an IP-Adapter for Flux (InstantX)",
        "it needs Flux's transformer and the SigLIP encoder; this version draws with "
        "SD 1.5 and SDXL",
    ),
    Unsupported(
        _shaped("proj_in.weight", 1280, 512),
        "an InstantID adapter or a FaceID portrait adapter for SDXL",
        "it reads face embeddings of InsightFace that are not normalised, which this version does "
        "not read",
    ),
    Unsupported(
        _shaped("layers.0.0.to_out.weight", 2048, None),
        "an IP-Adapter for Kolors",
        "it needs Kolors' UNet and CLIP ViT-L/14 at 336 pixels; this version draws with "
        "SD 1.5 and SDXL",
    ),
    Unsupported(
        _named(r"id_encoder\."),
        "a PhotoMaker model",
        "it writes into the text's tokens and brings a LoRA; it has no image attention, "
        "which is what this version draws with",
    ),
    Unsupported(
        _named(r"(?!ip_adapter\.).*(lora[_.](up|down|A|B)\b|\.hada_w|\.lokr_w|\.alpha$)"),
        "a LoRA, not an IP-Adapter",
        "give it to --lora",
    ),
    Unsupported(
        _named(r"(control_model|controlnet_cond_embedding|input_hint_block)\."),
        "a ControlNet, not an IP-Adapter",
        "it reads a map, not a reference",
    ),
    Unsupported(
        _named(r"(adapter\.)?body\.\d+\.(resnets|in_conv|block1)"),
        "a T2I-Adapter, not an IP-Adapter",
        "it reads a map, not a reference",
    ),
    Unsupported(
        _named(r"model\.diffusion_model\."),
        "a whole base model, not an IP-Adapter",
        "give it to --base",
    ),
    Unsupported(
        _named(r"down_blocks\.\d+\."),
        "a UNet, not an IP-Adapter",
        "give the folder of its model to --base",
    ),
    Unsupported(
        _named(r"(encoder|decoder)\.(conv_in|layers\.0)\."),
        "an autoencoder (VAE), not an IP-Adapter",
        "it belongs to a base model",
    ),
    Unsupported(
        _named(r"vision_model\."), "an image encoder, not an IP-Adapter", "it belongs beside one"
    ),
)


def what_it_is(shapes: Shapes) -> str | None:
    """The kind of a file that is no image adapter of ours, and what it would need; None for what
    may be one, and for what is unknown."""
    for kind in _KINDS:
        if kind.matches(shapes):
            return f"{kind.name}: {kind.needs}"
    return None
