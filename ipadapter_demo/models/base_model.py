"""The frozen parts of one model, loaded once and shared by every request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ipadapter_demo.adapter import ImageAdapter, attach, check_fits, load_image_adapter
from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.codec import Codec
from ipadapter_demo.models.structure import (
    ControlNetStructure,
    StructureNet,
    T2IAdapterStructure,
)

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import (
        CLIPImageProcessor,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionModelWithProjection,
    )

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True, eq=False)
class BaseModel:
    """Everything that does not change between requests, on one device in one precision.

    The adapters are attached to the UNet, in their order; without image prompts in a call that
    changes nothing.
    """

    entry: CatalogEntry
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    image_encoder: CLIPVisionModelWithProjection
    image_processor: CLIPImageProcessor
    unet: UNet2DConditionModel
    adapters: dict[str, ImageAdapter]  # by name, the one to use unless told otherwise first
    codec: Codec
    scheduler_config: dict[str, Any]
    structures: dict[str, StructureNet]
    hashes: dict[str, str]  # SHA-256 of the weight files, by path inside the folder

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def native_size(self) -> int:
        return self.unet.config.sample_size * self.codec.factor


def load_base_model(entry: CatalogEntry, device: str, dtype: torch.dtype) -> BaseModel:
    """Load a model folder in diffusers' layout. Raises ModelError or CheckpointError."""
    from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
    from transformers import (
        CLIPImageProcessor,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionModelWithProjection,
    )

    folder = entry.folder
    if not folder.is_dir():
        raise ModelError(f"model {entry.name}: no folder {folder}")

    def frozen(load: Callable[..., Any], part: str) -> Any:
        model = _network(load, folder, part, dtype)
        return model.to(device).eval().requires_grad_(False)

    tiny = "AutoencoderTiny" in _read(folder, "vae/config.json")
    unet = frozen(UNet2DConditionModel.from_pretrained, "unet")
    image_encoder = frozen(CLIPVisionModelWithProjection.from_pretrained, "image_encoder")
    adapters: dict[str, ImageAdapter] = {}
    for name, file in entry.adapters.items():
        adapter = load_image_adapter(folder / file)
        check_fits(adapter, unet, adapter.width_read_from(image_encoder), file)
        adapters[name] = adapter.to(device, dtype).eval().requires_grad_(False)
    attach(unet, *adapters.values())
    return BaseModel(
        entry=entry,
        tokenizer=_part(CLIPTokenizer.from_pretrained, folder, "tokenizer"),
        text_encoder=frozen(CLIPTextModel.from_pretrained, "text_encoder"),
        image_encoder=image_encoder,
        image_processor=_part(CLIPImageProcessor.from_pretrained, folder, "feature_extractor"),
        unet=unet,
        adapters=adapters,
        codec=Codec(frozen((AutoencoderTiny if tiny else AutoencoderKL).from_pretrained, "vae")),
        scheduler_config=dict(_part(DDIMScheduler.from_pretrained, folder, "scheduler").config),
        structures=_load_structures(entry, frozen),
        hashes=_hashes(folder),
    )


def _load_structures(
    entry: CatalogEntry, frozen: Callable[[Callable[..., Any], str], Any]
) -> dict[str, StructureNet]:
    from diffusers import ControlNetModel, T2IAdapter

    nets: dict[str, StructureNet] = {}
    for kind, structure in entry.structures.items():
        if structure.network == "controlnet":
            nets[kind] = ControlNetStructure(
                frozen(ControlNetModel.from_pretrained, structure.folder)
            )
        else:
            nets[kind] = T2IAdapterStructure(frozen(T2IAdapter.from_pretrained, structure.folder))
    return nets


def _network(load: Callable[..., Any], folder: Path, part: str, dtype: torch.dtype) -> Any:
    """A part with weights. One that the file lacks would silently stay random; extra ones, such as
    the position_ids of old CLIP files, do no harm."""
    network, report = _part(load, folder, part, torch_dtype=dtype, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{folder.name}: the weights of {part!r} lack {missing[:3]}")
    return network


def _part(load: Callable[..., Part], folder: Path, part: str, **options: Any) -> Part:
    """One part of the folder; local only, so that a missing file never turns into a download."""
    if not (folder / part).is_dir():
        raise ModelError(f"{folder.name}: the part {part!r} is missing, looked in {folder / part}")
    try:
        return load(folder / part, local_files_only=True, **options)
    except Exception as error:  # a damaged file raises whatever its reader likes
        raise ModelError(f"{folder.name}: the part {part!r} cannot be loaded: {error}") from error


def _read(folder: Path, name: str) -> str:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{folder.name}: {name} is missing, looked in {path}")
    return path.read_text()


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.safetensors"))
    return {str(path.relative_to(folder)): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
