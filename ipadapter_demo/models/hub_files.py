"""The files on the hub that make the published models, by repository.

Sizes are in half precision where the hub has it. Every revision is pinned, and the SHA-256 of
weights where the hub's own page of the file, or another public source, tells it. Others are in
`unpinned`.
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


def one_file(repo: str, revision: str, path: str, megabytes: int, sha256: str) -> Hub:
    """A file of a repository."""
    folder, _, name = path.rpartition("/")
    return Hub(
        repo=repo,
        revision=revision,
        folder=folder,
        files=(name,),
        sha256={name: sha256},
        megabytes=megabytes,
    )


def adapter_at(path: str, megabytes: int, sha256: str) -> Hub:
    """A file of h94/IP-Adapter."""
    return one_file("h94/IP-Adapter", _H94, path, megabytes, sha256)


def composition(name: str, megabytes: int, sha256: str) -> Hub:
    """A file of ostris/ip-composition-adapter."""
    return one_file("ostris/ip-composition-adapter", _OSTRIS, name, megabytes, sha256)


def _controlnet(
    repo: str, revision: str, megabytes: int, *annotators: str, sha256: str | None = None
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
    repo: str,
    revision: str,
    megabytes: int,
    weights: str,
    annotator: str,
    sha256: str | None = None,
) -> StructureEntry:
    hub = Hub(
        repo=repo,
        revision=revision,
        files=("config.json", weights),
        megabytes=megabytes,
        sha256={weights: sha256} if sha256 else {},
    )
    return StructureEntry(folder=hub, network="t2i-adapter", annotators=(annotator, "none"))


_V11 = "lllyasviel/control_v11"
SD15_STRUCTURES = {
    "canny": _controlnet(
        f"{_V11}p_sd15_canny",
        "115a470d547982438f70198e353a921996e2e819",
        723,
        "canny",
        sha256="9ed3a7f834aca0d2b26f9c7f186b3ee29465de1d13e152459e8c9cbb25a0c0bc",
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
        f"{_V11}f1p_sd15_depth",
        "539f99181d33db39cf1af2e517cd8056785f0a87",
        723,
        "depth",
        sha256="838f3e848cb93231d41084d858d117416ab32907a5c8c80c421a131d101ba1ef",
    ),
    "normal": _controlnet(
        f"{_V11}p_sd15_normalbae",
        "cb7296e6587a219068e9d65864e38729cd862aa8",
        723,
        "normal",
        sha256="66a52e9e9c0d371796175e35351a8d5794ce0cce7b7e72f31d9785df591110ed",
    ),
    "openpose": _controlnet(
        f"{_V11}p_sd15_openpose",
        "9ae9f970358db89e211b87c915f9535c6686d5ba",
        723,
        "openpose",
        sha256="b25b1125e870275550b2a7de289056cb3c236c01c293bd5ba883657b1c006e3e",
    ),
    "segmentation": _controlnet(
        f"{_V11}p_sd15_seg",
        "210682041b41097834006a910b8773f423343900",
        723,
        "segmentation",
        sha256="23809d298edb48bf97ce95c6b8c4a69a749e57bf3838d866fbdc45f8fa11f6f4",
    ),
    "scribble": _controlnet(
        f"{_V11}p_sd15_scribble",
        "3564ec7b87dd706d5fc760d21c9e90bb160d1e9f",
        723,
        "scribble",
        sha256="46be9cc44d61ed0a0bed0b34746541c1b274e7194f2262dca7671048562bdfa1",
    ),
    "shuffle": _controlnet(
        f"{_V11}e_sd15_shuffle", "8cf275970f984acf5cc0fdfa537db8be098936a3", 723, "shuffle"
    ),
    "palette": _t2i_adapter(
        "TencentARC/t2iadapter_color_sd14v1",
        "e8acd1d54c8bf50a3d92b348231bc1a0ce2a8c99",
        75,
        _PICKLE,
        "palette",
    ),
    "t2i-canny": _t2i_adapter(
        "TencentARC/t2iadapter_canny_sd15v2",
        "a18baf4f0ff002f34dc2f19c4b93fe00d4cce9ee",
        308,
        _PICKLE,
        "canny",
        "d4a953500f5d5e2a97481a74660728a554a41d12553fa7c654b81756ac7fa2c5",
    ),
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
        "e3db0d9cb3dd54c116a429a1de067d952780047944dd7dba8be032dd2e737f81",
    ),
    "t2i-lineart": _t2i_adapter(
        "TencentARC/t2i-adapter-lineart-sdxl-1.0",
        "5f1f33b049b96fa599f0aa3d77b31dbef5095e97",
        158,
        _HALF,
        "lineart",
        "c19e9e1038c7c53b238185d8dc9fad87f95aa3124d211e19f39f1165bfb7230f",
    ),
    # the only one of them that is published in single precision alone
    "t2i-openpose": _t2i_adapter(
        "TencentARC/t2i-adapter-openpose-sdxl-1.0",
        "f90998885600ed3627cedc305316edff47b8b03f",
        316,
        _WHOLE,
        "openpose",
        "24c55f4b4f4903a50caaae7e3e11f4008bd51d24041385a5ca94e8d05be6311e",
    ),
}
