"""Files that are no adapter this project reads, named by their tensors' names and shapes.

Adapters that look like ours and are not come first: their own names decide. Layouts are those of
the classes that write them: tencent-ailab/IP-Adapter 62e4af9 (FaceID), InstantX/InstantID,
Kwai-Kolors/Kolors, TencentARC/PhotoMaker, XLabs-AI/x-flux, InstantX/FLUX.1-dev-IP-Adapter, and
diffusers 0.42 `loaders/` for SD 3.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

Shapes = Mapping[str, tuple[int, ...]]  # of a file's tensors, under flat published names

_FACE = "which this version does not read"


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A kind of file: how to tell it, what to call it, and what it would need."""

    matches: Callable[[Shapes], bool]
    name: str
    needs: str


def _named(pattern: str, shapes: Shapes) -> bool:
    """True where any tensor's name matches, from its start."""
    return any(re.match(pattern, name) for name in shapes)


def _shaped(key: str, first: tuple[int, ...], shapes: Shapes) -> bool:
    """True where a tensor of the projection has these sizes on its first axes."""
    return shapes.get(f"image_proj.{key}", ())[: len(first)] == first


def _face_id(shapes: Shapes) -> bool:
    """Two layers and a norm of its own; in the full variant the norm is the fourth layer."""
    return {"image_proj.proj.2.weight", "image_proj.norm.weight"} <= shapes.keys()


_KINDS = (
    Unsupported(
        partial(_named, r"image_proj\.time_embedding\.|ip_adapter\.\d+\.norm_ip\."),
        "an IP-Adapter for SD 3.5",
        "it reads the time step too and needs SD 3.5's transformer; this version draws "
        "with SD 1.5 and SDXL",
    ),
    Unsupported(
        partial(_named, r"double_blocks\.\d+\.processor\.ip_adapter"),
        "an IP-Adapter for Flux (XLabs)",
        "it needs Flux's transformer; this version draws with SD 1.5 and SDXL",
    ),
    Unsupported(
        partial(_shaped, "norm.weight", (4096,)),
        "an IP-Adapter for Flux (InstantX)",
        "it needs Flux's transformer and the SigLIP encoder; this version draws with "
        "SD 1.5 and SDXL",
    ),
    Unsupported(
        partial(_named, r"image_proj\.perceiver_resampler\."),
        "a FaceID Plus adapter",
        f"it reads face embeddings of InsightFace (512 wide) beside CLIP's, {_FACE}",
    ),
    Unsupported(
        _face_id, "a FaceID adapter", f"it reads face embeddings of InsightFace (512 wide), {_FACE}"
    ),
    Unsupported(
        partial(_shaped, "proj_in.weight", (1280, 512)),
        "an InstantID adapter or a FaceID portrait adapter for SDXL",
        f"it reads face embeddings of InsightFace (512 wide), {_FACE}",
    ),
    Unsupported(
        partial(_shaped, "layers.0.0.to_out.weight", (2048,)),
        "an IP-Adapter for Kolors",
        "it needs Kolors' UNet and CLIP ViT-L/14 at 336 pixels; this version draws with "
        "SD 1.5 and SDXL",
    ),
    Unsupported(
        partial(_named, r"ip_adapter\.\d+\.to_\w+_lora\."),
        "an adapter with a LoRA of the UNet inside",
        "this version reads projections and to_k_ip, to_v_ip only",
    ),
    Unsupported(
        partial(_named, r"id_encoder\."),
        "a PhotoMaker model",
        "it writes into the text's tokens and brings a LoRA; it has no image attention, "
        "which is what this version draws with",
    ),
    Unsupported(
        partial(_named, r".*(lora[_.](up|down|A|B)\b|\.hada_w|\.lokr_w|\.alpha$)"),
        "a LoRA, not an IP-Adapter",
        "give it to --lora",
    ),
    Unsupported(
        partial(_named, r"(control_model|controlnet_cond_embedding|input_hint_block)\."),
        "a ControlNet, not an IP-Adapter",
        "it reads a map, not a reference",
    ),
    Unsupported(
        partial(_named, r"(adapter\.)?body\.\d+\.(resnets|in_conv|block1)"),
        "a T2I-Adapter, not an IP-Adapter",
        "it reads a map, not a reference",
    ),
    Unsupported(
        partial(_named, r"model\.diffusion_model\."),
        "a whole base model, not an IP-Adapter",
        "give it to --base",
    ),
    Unsupported(
        partial(_named, r"down_blocks\.\d+\."),
        "a UNet, not an IP-Adapter",
        "give the folder of its model to --base",
    ),
    Unsupported(
        partial(_named, r"(encoder|decoder)\.(conv_in|layers\.0)\."),
        "an autoencoder (VAE), not an IP-Adapter",
        "it belongs to a base model",
    ),
    Unsupported(
        partial(_named, r"vision_model\."),
        "an image encoder, not an IP-Adapter",
        "it belongs beside one",
    ),
)


def what_it_is(shapes: Shapes) -> str | None:
    """The kind of a file that is no image adapter of ours, and what it would need; None for what
    may be one, and for what is unknown."""
    for kind in _KINDS:
        if kind.matches(shapes):
            return f"{kind.name}: {kind.needs}"
    return None
