"""Published files of which no SHA-256 is known here, and a revision of a few: by the names that
public code asks for them by. They are not checked against a hash; each picture names the hashes of
those that made it."""

from __future__ import annotations

from dataclasses import dataclass

from ipadapter_demo.models.catalog import StructureEntry
from ipadapter_demo.models.hub_files import VIT_H
from ipadapter_demo.models.sources import Hub
from ipadapter_demo.models.union import TYPES

UNPINNED = (
    "Its files are not checked against a hash, as none is known here; each picture names the "
    "hashes of those that made it."
)
CLIP_VIT_L = Hub(
    repo="openai/clip-vit-large-patch14",
    files=("config.json", "model.safetensors"),  # with its text encoder, which is left out
    megabytes=1711,
)
_WHOLE = "diffusion_pytorch_model.safetensors"
_PICKLE = "diffusion_pytorch_model.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpinnedModel:
    """An image adapter, and what it is for, in words that follow its base's."""

    name: str
    files: Hub
    note: str
    encoder: Hub = VIT_H
    licence: str = "Apache-2.0 (adapter)"
    image_scale: float = 1.0


def _face(name: str, file: str, megabytes: int, note: str) -> UnpinnedModel:
    return UnpinnedModel(
        name=name,
        files=Hub(repo="h94/IP-Adapter-FaceID", files=(file,), megabytes=megabytes),
        note=f"{note} Faces in pictures are found by InsightFace, which you install; its weights, "
        "and this adapter, are for non-commercial research.",
        licence="non-commercial research (adapter)",
    )


MODELS = (
    UnpinnedModel(
        name="sd15-style",
        files=Hub(
            repo="TencentARC/T2I-Adapter",
            folder="models",
            files=("t2iadapter_style_sd14v1.pth",),
            megabytes=154,
        ),
        note="with T2I-Adapter's style adapter, to hold against IP-Adapter: 8 tokens that are read "
        "as words are.",
        encoder=CLIP_VIT_L,
    ),
    _face(
        "sd15-faceid",
        "ip-adapter-faceid_sd15.bin",
        97,
        "that keeps a face by its embedding alone.",
    ),
    _face(
        "sd15-faceid-plus",
        "ip-adapter-faceid-plus_sd15.bin",
        157,
        "that keeps a face by its embedding, and how it looks in the picture.",
    ),
    _face(
        "sd15-faceid-plusv2",
        "ip-adapter-faceid-plusv2_sd15.bin",
        157,
        "that keeps a face by its embedding first, and how it looks in the picture second.",
    ),
    _face(
        "sd15-faceid-portrait",
        "ip-adapter-faceid-portrait_sd15.bin",
        65,
        "that draws portraits of a person from several pictures, with 16 image tokens each.",
    ),
    _face(
        "sdxl-faceid",
        "ip-adapter-faceid_sdxl.bin",
        1071,
        "that keeps a face by its embedding alone.",
    ),
    _face(
        "sdxl-faceid-plusv2",
        "ip-adapter-faceid-plusv2_sdxl.bin",
        1488,
        "that keeps a face by its embedding first, and how it looks in the picture second.",
    ),
)


def _structure(
    repo: str,
    weights: str,
    megabytes: int,
    *annotators: str,
    note: str,
    t2i: bool = False,
    revision: str | None = None,
) -> StructureEntry:
    return StructureEntry(
        folder=Hub(
            repo=repo, revision=revision, files=("config.json", weights), megabytes=megabytes
        ),
        network="t2i-adapter" if t2i else "controlnet",
        annotators=(*annotators, "none"),
        note=note,
    )


SD15_STRUCTURES = {
    "tile": _structure(
        "lllyasviel/control_v11f1e_sd15_tile",
        _PICKLE,
        1445,
        revision="3f877705c37010b7221c3d10743307d6b5b6efac",
        note="details drawn anew over a small or blurred picture",
    ),
    "inpaint": _structure(
        "lllyasviel/control_v11p_sd15_inpaint",
        _WHOLE,
        1445,
        note="the picture around the mask, so that what is drawn goes with it",
    ),
    "t2i-sketch": StructureEntry(
        folder=Hub(
            repo="TencentARC/T2I-Adapter",
            folder="models",
            files=("t2iadapter_sketch_sd15v2.pth",),
            megabytes=308,
        ),
        network="t2i-adapter",
        annotators=("softedge", "none"),
        note="a sketch, by a T2I-Adapter",
    ),
    "t2i-depth": _structure(
        "TencentARC/t2iadapter_depth_sd15v2",
        _PICKLE,
        308,
        "depth",
        note="near and far, by a T2I-Adapter",
        t2i=True,
    ),
}
_UNION = Hub(
    repo="xinsir/controlnet-union-sdxl-1.0",
    files=("diffusion_pytorch_model_promax.safetensors",),
    megabytes=2513,
)
_DETECTED = ("openpose", "depth", "softedge", "scribble", "canny", "normal", "segmentation")
SDXL_STRUCTURES = {
    "openpose": _structure(
        "xinsir/controlnet-openpose-sdxl-1.0", _WHOLE, 2502, "openpose", note="poses of people"
    ),
    "tile": _structure(
        "xinsir/controlnet-tile-sdxl-1.0",
        _WHOLE,
        2502,
        revision="1ae8d9529efe58f7362a987363ff86a7904dc84f",
        note="details drawn anew over a small or blurred picture",
    ),
    "scribble": _structure(
        "xinsir/controlnet-scribble-sdxl-1.0", _WHOLE, 2502, "scribble", note="rough lines"
    ),
    **{
        f"union-{kind}": StructureEntry(
            folder=_UNION,
            network="controlnet",
            annotators=((kind, "none") if kind in _DETECTED else ("none",)),
            note="one network of several kinds, fetched and loaded once",
        )
        for kind in TYPES
        if kind not in ("lineart-fine", "mlsd")
    },
}
