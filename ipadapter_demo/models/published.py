"""The published models: which files of which repositories, and what is recommended with them.

Sizes are in half precision. Revisions are pinned where one is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from ipadapter_demo.models.catalog import TABLETOP, CatalogEntry, StructureEntry
from ipadapter_demo.models.sources import (
    Hub,
    Report,
    fetched,
    file_at,
    local_folder,
    megabytes_of,
    of_repository,
)

_ADAPTERS = "018e402774aeeddd60609b4ecdb7e298259dc729"  # of h94/IP-Adapter, Apache-2.0
_HALF = "diffusion_pytorch_model.fp16.safetensors"
_TOKENS = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")

SD15 = Hub(
    repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
    revision="451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    files=(
        "model_index.json", "feature_extractor/preprocessor_config.json",
        "scheduler/scheduler_config.json", "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors", *(f"tokenizer/{name}" for name in _TOKENS),
        "unet/config.json", f"unet/{_HALF}", "vae/config.json", f"vae/{_HALF}",
    ),
    megabytes=2133,
)
SDXL = Hub(
    repo="stabilityai/stable-diffusion-xl-base-1.0",
    revision="462165984030d82259a11f4367a4eed129e94a7b",
    files=(
        "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors", "text_encoder_2/config.json",
        "text_encoder_2/model.fp16.safetensors", *(f"tokenizer/{name}" for name in _TOKENS),
        *(f"tokenizer_2/{name}" for name in _TOKENS), "unet/config.json", f"unet/{_HALF}",
        "vae/config.json", f"vae/{_HALF}",
    ),
    megabytes=6940,
)
VIT_H = Hub(repo="h94/IP-Adapter", revision=_ADAPTERS, folder="models/image_encoder",
            files=("config.json", "model.safetensors"), megabytes=2528)
VIT_BIGG = Hub(repo="h94/IP-Adapter", revision=_ADAPTERS, folder="sdxl_models/image_encoder",
               files=("config.json", "model.safetensors"), megabytes=3690)


def _adapter(file: str, megabytes: int) -> Hub:
    folder, _, name = file.partition("/")
    return Hub(repo="h94/IP-Adapter", revision=_ADAPTERS, folder=folder, files=(name,),
               megabytes=megabytes)


def _network(repo: str, megabytes: int, weights: str = _HALF) -> Hub:
    return Hub(repo=repo, files=("config.json", weights), megabytes=megabytes)


def _controlnet(repo: str, megabytes: int, *annotators: str) -> StructureEntry:
    return StructureEntry(folder=_network(repo, megabytes), network="controlnet",
                          annotators=(*annotators, "none"))


def _t2i_adapter(repo: str, megabytes: int, weights: str, *annotators: str) -> StructureEntry:
    return StructureEntry(folder=_network(repo, megabytes, weights), network="t2i-adapter",
                          annotators=(*annotators, "none"))


_V11 = "lllyasviel/control_v11"
SD15_STRUCTURES = {
    "canny": _controlnet(f"{_V11}p_sd15_canny", 723, "canny"),
    "lineart": _controlnet(f"{_V11}p_sd15_lineart", 723, "lineart", "lineart-fine"),
    "softedge": _controlnet(f"{_V11}p_sd15_softedge", 723, "softedge"),
    "depth": _controlnet(f"{_V11}f1p_sd15_depth", 723, "depth"),
    "normal": _controlnet(f"{_V11}p_sd15_normalbae", 723, "normal"),
    "openpose": _controlnet(f"{_V11}p_sd15_openpose", 723, "openpose"),
    "segmentation": _controlnet(f"{_V11}p_sd15_seg", 723, "segmentation"),
    "scribble": _controlnet(f"{_V11}p_sd15_scribble", 723, "scribble"),
    "shuffle": _controlnet(f"{_V11}e_sd15_shuffle", 723, "shuffle"),
    "palette": _t2i_adapter("TencentARC/t2iadapter_color_sd14v1", 75,
                            "diffusion_pytorch_model.bin", "palette"),
    "t2i-canny": _t2i_adapter("TencentARC/t2iadapter_canny_sd15v2", 309,
                              "diffusion_pytorch_model.bin", "canny"),
}
SDXL_STRUCTURES = {
    "canny": _controlnet("diffusers/controlnet-canny-sdxl-1.0", 2502, "canny"),
    "depth": _controlnet("diffusers/controlnet-depth-sdxl-1.0", 2502, "depth"),
    "t2i-canny": _t2i_adapter("TencentARC/t2i-adapter-canny-sdxl-1.0", 158, _HALF, "canny"),
    "t2i-lineart": _t2i_adapter("TencentARC/t2i-adapter-lineart-sdxl-1.0", 158, _HALF, "lineart"),
    "t2i-openpose": _t2i_adapter("TencentARC/t2i-adapter-openpose-sdxl-1.0", 158, _HALF,
                                 "openpose"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A model of the hub: its base, an image adapter and the encoder that adapter reads."""

    name: str
    base: Hub
    image_encoder: Hub
    adapter: Hub
    structures: dict[str, StructureEntry] = field(default_factory=dict)
    licence: str
    image_scale: float = 1.0
    text_image_scale: float = 0.6
    guidance: float = 7.5
    steps: int = 30
    note: str = ""

    @property
    def needed(self) -> tuple[Hub, ...]:
        """What a first picture takes; structure networks follow when they are asked for."""
        return self.base, self.image_encoder, self.adapter


_SD = "CreativeML Open RAIL-M (base), Apache-2.0 (adapter)"
_XL = "CreativeML Open RAIL++-M (base), Apache-2.0 (adapter)"
PUBLISHED = {
    model.name: model
    for model in (
        Published(
            name="sd15", base=SD15, image_encoder=VIT_H, structures=SD15_STRUCTURES, licence=_SD,
            adapter=_adapter("models/ip-adapter_sd15.safetensors", 45),
            note="Stable Diffusion 1.5 with 4 image tokens: the look and the gist of a picture.",
        ),
        Published(
            name="sd15-plus", base=SD15, image_encoder=VIT_H, structures=SD15_STRUCTURES,
            licence=_SD, adapter=_adapter("models/ip-adapter-plus_sd15.safetensors", 98),
            image_scale=0.9,
            note="Stable Diffusion 1.5 with 16 image tokens: closer to the picture, less free.",
        ),
        Published(
            name="sd15-plus-face", base=SD15, image_encoder=VIT_H, structures=SD15_STRUCTURES,
            licence=_SD, adapter=_adapter("models/ip-adapter-plus-face_sd15.safetensors", 98),
            image_scale=0.8,
            note="Stable Diffusion 1.5 for faces: give it a picture cropped to the face.",
        ),
        Published(
            name="sdxl", base=SDXL, image_encoder=VIT_BIGG, structures=SDXL_STRUCTURES,
            licence=_XL, adapter=_adapter("sdxl_models/ip-adapter_sdxl.safetensors", 703),
            guidance=5.0, note="SDXL with 4 image tokens.",
        ),
        Published(
            name="sdxl-plus", base=SDXL, image_encoder=VIT_H, structures=SDXL_STRUCTURES,
            licence=_XL,
            adapter=_adapter("sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors", 848),
            image_scale=0.9, guidance=5.0, note="SDXL with 16 image tokens.",
        ),
    )
}


def listing(models: Path | None) -> list[dict[str, object]]:
    """The catalogue, a row for each published model: what it is, and what of it is at hand."""
    rows: list[dict[str, object]] = []
    for model in PUBLISHED.values():
        missing = [hub for hub in model.needed if local_folder(hub, models) is None]
        rows.append({
            "name": model.name,
            "note": model.note,
            "licence": model.licence,
            "base": model.base.repo,
            "adapter": f"{model.adapter.repo}/{model.adapter.paths[0]}",
            "image_encoder": f"{model.image_encoder.repo}/{model.image_encoder.folder}",
            "megabytes": megabytes_of(model.needed),
            "missing_megabytes": megabytes_of(missing),
            "present": not missing,
            "image_scale": model.image_scale,
            "text_image_scale": model.text_image_scale,
            "guidance": model.guidance,
            "steps": model.steps,
            "structures": {
                kind: local_folder(s.folder, models) is not None
                for kind, s in model.structures.items() if isinstance(s.folder, Hub)
            },
        })
    return rows


def base_place(model: Published, base: str | None, models: Path | None,
               report: Report = lambda text, share: None) -> tuple[Path, Path | None]:
    """Where the base of a published model is, or another `base` of its family; and a folder with
    configurations and tokenizers, where that is a checkpoint of weights alone."""
    place = Path(base) if base is not None and Path(base).exists() else None
    if base is None:
        place = fetched(model.base, models, report)
    elif place is None:
        place = fetched(of_repository(base, model.base, models), models, report)
    if not place.is_file():
        return place, None
    light = tuple(f for f in model.base.files if not f.endswith(".safetensors"))
    return place, fetched(replace(model.base, files=light, megabytes=2), models, report)


def labels(models: str | None) -> dict[str, str]:
    """What to call every model where people choose one: its name, and what it still takes."""
    found = {TABLETOP.name: f"{TABLETOP.name} (built in)"}
    for row in listing(None if models is None else Path(models)):
        missing = row["missing_megabytes"]
        assert isinstance(missing, int)
        to_fetch = f" (fetches {missing / 1000:.1f} GB)" if missing else ""
        found[str(row["name"])] = f"{row['name']}{to_fetch}"
    return found


def local_entry(model: Published, base: str | None, models: Path | None,
                report: Report = lambda text, share: None,
                own_adapter: Path | None = None,
                own_encoder: str | None = None) -> CatalogEntry:
    """The entry with everything that a first picture takes at hand, fetched if need be.

    `base` replaces the base model: a folder in diffusers' layout, a single .safetensors file, or a
    repository on the hub. `own_adapter` and `own_encoder` replace the adapter and its image
    encoder: the published ones are then not fetched. Raises ModelError.
    """
    place, configs = base_place(model, base, models, report)
    adapter = own_adapter
    if adapter is None:
        folder, wanted = fetched(model.adapter, models, report), model.adapter.files[0]
        adapter = file_at(folder, wanted) or folder / wanted
    return CatalogEntry(
        name=model.name,
        folder=place,
        configs=configs,
        image_encoder=own_encoder or str(fetched(model.image_encoder, models, report)),
        adapters={own_adapter.stem if own_adapter else "base": str(adapter)},
        structures=model.structures,
        image_scale=model.image_scale,
        text_image_scale=model.text_image_scale,
        guidance=model.guidance,
        steps=model.steps,
        note=model.note,
    )

