"""The files on the hub that make the published models, by repository.

Sizes are in half precision where the hub has it. Revisions, and SHA-256 of weights, are pinned
where public sources agree on them; a file without one is taken as the hub gives it.
"""

from __future__ import annotations

from ipadapter_demo.models.catalog import StructureEntry
from ipadapter_demo.models.sources import Hub

_H94 = "018e402774aeeddd60609b4ecdb7e298259dc729"  # of h94/IP-Adapter, Apache-2.0
_OSTRIS = "0d2ed55c441a20c20e09da4dc086097703f26b61"  # of its composition adapters, Apache-2.0
_HALF = "diffusion_pytorch_model.fp16.safetensors"
_WHOLE = "diffusion_pytorch_model.safetensors"
_PICKLE = "diffusion_pytorch_model.bin"
_TOKENS = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")

SD15 = Hub(
    repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
    revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    files=(
        "model_index.json",
        "feature_extractor/preprocessor_config.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        *(f"tokenizer/{name}" for name in _TOKENS),
        "unet/config.json",
        f"unet/{_HALF}",
        "vae/config.json",
        f"vae/{_HALF}",
    ),
    sha256={
        "text_encoder/model.fp16.safetensors": "77795e2023adcf39bc29a884661950380bd093cf0750a966d473d1718dc9ef4e",  # noqa: E501
        f"vae/{_HALF}": "4fbcf0ebe55a0984f5a5e00d8c4521d52359af7229bb4d81890039d2aa16dd7c",
    },
    megabytes=2133,
)
SDXL = Hub(
    repo="stabilityai/stable-diffusion-xl-base-1.0",
    revision="462165984030d82259a11f4367a4eed129e94a7b",
    files=(
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "text_encoder_2/config.json",
        "text_encoder_2/model.fp16.safetensors",
        *(f"tokenizer/{name}" for name in _TOKENS),
        *(f"tokenizer_2/{name}" for name in _TOKENS),
        "unet/config.json",
        f"unet/{_HALF}",
        "vae/config.json",
        f"vae/{_HALF}",
    ),
    sha256={
        "text_encoder/model.fp16.safetensors": "660c6f5b1abae9dc498ac2d21e1347d2abdb0cf6c0c0c8576cd796491d9a6cdd",  # noqa: E501
        "text_encoder_2/model.fp16.safetensors": "ec310df2af79c318e24d20511b601a591ca8cd4f1fce1d8dff822a356bcdb1f4",  # noqa: E501
        f"unet/{_HALF}": "83e012a805b84c7ca28e5646747c90a243c65c8ba4f070e2d7ddc9d74661e139",
        f"vae/{_HALF}": "bcb60880a46b63dea58e9bc591abe15f8350bde47b405f9c38f4be70c6161e68",
    },
    megabytes=6940,
)


def _encoder(folder: str, megabytes: int, sha256: str) -> Hub:
    return Hub(
        repo="h94/IP-Adapter",
        revision=_H94,
        folder=folder,
        megabytes=megabytes,
        files=("config.json", "model.safetensors"),
        sha256={"model.safetensors": sha256},
    )


VIT_H = _encoder(
    "models/image_encoder", 2528, "6ca9667da1ca9e0b0f75e46bb030f7e011f44f86cbfb8d5a36590fcd7507b030"
)
VIT_BIGG = _encoder(
    "sdxl_models/image_encoder",
    3690,
    "657723e09f46a7c3957df651601029f66b1748afb12b419816330f16ed45d64d",
)
# The same two in InvokeAI's repositories, which its adapter folders name.
ENCODERS = {
    "InvokeAI/ip_adapter_sd_image_encoder": VIT_H,
    "InvokeAI/ip_adapter_sdxl_image_encoder": VIT_BIGG,
}


def encoder_of_repository(repo: str) -> Hub:
    """The image encoder at the top of a repository."""
    return ENCODERS.get(repo) or Hub(repo=repo, files=("config.json", "model.safetensors"))


def adapter_at(path: str, megabytes: int, sha256: str) -> Hub:
    """A file of h94/IP-Adapter."""
    folder, _, name = path.rpartition("/")
    return Hub(
        repo="h94/IP-Adapter",
        revision=_H94,
        folder=folder,
        files=(name,),
        sha256={name: sha256},
        megabytes=megabytes,
    )


def composition(name: str, megabytes: int, sha256: str) -> Hub:
    """A file of ostris/ip-composition-adapter."""
    return Hub(
        repo="ostris/ip-composition-adapter",
        revision=_OSTRIS,
        files=(name,),
        sha256={name: sha256},
        megabytes=megabytes,
    )


def _controlnet(
    repo: str, revision: str | None, megabytes: int, *annotators: str, sha256: str | None = None
) -> StructureEntry:
    hub = Hub(
        repo=repo,
        revision=revision,
        files=("config.json", _HALF),
        megabytes=megabytes,
        sha256={_HALF: sha256} if sha256 else {},
    )
    return StructureEntry(folder=hub, network="controlnet", annotators=(*annotators, "none"))


def _t2i_adapter(
    repo: str, revision: str | None, megabytes: int, weights: str, annotator: str
) -> StructureEntry:
    hub = Hub(repo=repo, revision=revision, files=("config.json", weights), megabytes=megabytes)
    return StructureEntry(folder=hub, network="t2i-adapter", annotators=(annotator, "none"))


_V11 = "lllyasviel/control_v11"
SD15_STRUCTURES = {
    "canny": _controlnet(
        f"{_V11}p_sd15_canny", "115a470d547982438f70198e353a921996e2e819", 723, "canny"
    ),
    "lineart": _controlnet(
        f"{_V11}p_sd15_lineart",
        "8a158f547e031c5b8fbca19ead09a74767ff4db0",
        723,
        "lineart",
        "lineart-fine",
    ),
    "softedge": _controlnet(
        f"{_V11}p_sd15_softedge", "b5bcad0c48e9b12f091968cf5eadbb89402d6bc9", 723, "softedge"
    ),
    "depth": _controlnet(
        f"{_V11}f1p_sd15_depth", "539f99181d33db39cf1af2e517cd8056785f0a87", 723, "depth"
    ),
    "normal": _controlnet(
        f"{_V11}p_sd15_normalbae", "cb7296e6587a219068e9d65864e38729cd862aa8", 723, "normal"
    ),
    "openpose": _controlnet(
        f"{_V11}p_sd15_openpose", "9ae9f970358db89e211b87c915f9535c6686d5ba", 723, "openpose"
    ),
    "segmentation": _controlnet(f"{_V11}p_sd15_seg", None, 723, "segmentation"),
    "scribble": _controlnet(f"{_V11}p_sd15_scribble", None, 723, "scribble"),
    "shuffle": _controlnet(
        f"{_V11}e_sd15_shuffle", "8cf275970f984acf5cc0fdfa537db8be098936a3", 723, "shuffle"
    ),
    "palette": _t2i_adapter("TencentARC/t2iadapter_color_sd14v1", None, 75, _PICKLE, "palette"),
    "t2i-canny": _t2i_adapter("TencentARC/t2iadapter_canny_sd15v2", None, 308, _PICKLE, "canny"),
}
SDXL_STRUCTURES = {
    "canny": _controlnet(
        "diffusers/controlnet-canny-sdxl-1.0",
        "eb115a19a10d14909256db740ed109532ab1483c",
        2502,
        "canny",
        sha256="b2e7d3921058a442cc80430d1ec8847f42599c705e2451c95e77cf4dcf8d6c25",
    ),
    "depth": _controlnet(
        "diffusers/controlnet-depth-sdxl-1.0",
        "17bb97973f29801224cd66f192c5ffacf82648b4",
        2502,
        "depth",
        sha256="66a6813e6bd7270ecfe68206a59ddd605a011ae85321188376605c66e0a4f303",
    ),
    "t2i-canny": _t2i_adapter(
        "TencentARC/t2i-adapter-canny-sdxl-1.0",
        "2d7244ba45ded9129cfbf8e96a4befb7f6094210",
        158,
        _HALF,
        "canny",
    ),
    "t2i-lineart": _t2i_adapter(
        "TencentARC/t2i-adapter-lineart-sdxl-1.0", None, 158, _HALF, "lineart"
    ),
    # the only one of them that is published in single precision alone
    "t2i-openpose": _t2i_adapter(
        "TencentARC/t2i-adapter-openpose-sdxl-1.0", None, 316, _WHOLE, "openpose"
    ),
}
