"""The parts of a base model, from a folder in diffusers' layout or from one checkpoint file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.schedule import marked, saying

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import (
        CLIPImageProcessor,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
    )

_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What a base model consists of, in one precision, on the CPU."""

    tokenizers: tuple[CLIPTokenizer, ...]
    text_encoders: tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]
    unet: UNet2DConditionModel
    vae: AutoencoderTiny | AutoencoderKL
    scheduler_config: dict[str, Any]
    image_processor: CLIPImageProcessor
    zeros_for_nothing: bool


def read_parts(entry: CatalogEntry, dtype: torch.dtype, files: list[Path]) -> Parts:
    """The files that were read are added to `files`. Raises ModelError."""
    if entry.folder.is_file():
        return _from_single_file(entry, dtype, files)
    if not entry.folder.is_dir():
        raise ModelError(f"model {entry.name}: no folder {entry.folder}")
    return _from_folder(entry.folder, dtype, files)


def _from_folder(folder: Path, dtype: torch.dtype, files: list[Path]) -> Parts:
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    two = (folder / "text_encoder_2").is_dir()
    tokenizers = [part_of(CLIPTokenizer, folder / "tokenizer")]
    encoders = [part_of(CLIPTextModel, folder / "text_encoder", dtype, files)]
    if two:
        tokenizers.append(part_of(CLIPTokenizer, folder / "tokenizer_2"))
        encoders.append(part_of(CLIPTextModelWithProjection, folder / "text_encoder_2", dtype,
                                files))
    tiny = "AutoencoderTiny" in _read(folder, "vae/config.json")
    return Parts(
        tokenizers=tuple(tokenizers),
        text_encoders=tuple(encoders),
        unet=part_of(UNet2DConditionModel, folder / "unet", dtype, files),
        vae=part_of(AutoencoderTiny if tiny else AutoencoderKL, folder / "vae", dtype, files),
        scheduler_config=_scheduler_config(folder),
        image_processor=_image_processor(folder, needed=not two),
        zeros_for_nothing=two and _zeros_for_nothing(folder),
    )


def _from_single_file(entry: CatalogEntry, dtype: torch.dtype, files: list[Path]) -> Parts:
    """A checkpoint of weights alone, as community models are often published. diffusers' own
    reader translates it; configuration and tokenizers are those of the family's base."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    path, configs = entry.folder, entry.configs
    if configs is None:
        raise ModelError(f"model {entry.name}: {path.name} needs a folder with its configuration")
    if path.suffix != ".safetensors":
        raise ModelError(f"model {entry.name}: {path.name} must be a .safetensors file: others may "
                         "run code when they are read")
    xl = (configs / "text_encoder_2").is_dir()
    kind = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    options: dict[str, Any] = {} if xl else {"safety_checker": None,
                                             "requires_safety_checker": False}
    try:
        said = marked(_keys(path))
        pipe = kind.from_single_file(str(path), config=str(configs), local_files_only=True,
                                     torch_dtype=dtype, **options)
    except Exception as error:  # whatever its reader likes
        raise ModelError(f"model {entry.name}: {path.name} cannot be read as a checkpoint of this "
                         f"family: {error}") from error
    files.append(path)
    encoders = [pipe.text_encoder, pipe.text_encoder_2] if xl else [pipe.text_encoder]
    tokenizers = [pipe.tokenizer, pipe.tokenizer_2] if xl else [pipe.tokenizer]
    return Parts(
        tokenizers=tuple(tokenizers),
        text_encoders=tuple(encoders),
        unet=pipe.unet,
        vae=pipe.vae,
        scheduler_config=saying({"clip_sample": False} | dict(pipe.scheduler.config), said),
        image_processor=_image_processor(configs, needed=False),
        zeros_for_nothing=xl and _zeros_for_nothing(configs),
    )


def _keys(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())


def part_of(kind: Any, folder: Path, dtype: torch.dtype | None = None,
            files: list[Path] | None = None) -> Any:
    """One part of a model, with weights if a `dtype` is given; local only, so that a missing file
    never turns into a download. Raises ModelError that names it.

    Weights that the file lacks would silently stay random; extra ones, such as the position_ids of
    old CLIP files, do no harm.
    """
    name = f"{folder.parent.name}: the part {folder.name!r}"
    if not folder.is_dir():
        raise ModelError(f"{name} is missing, looked in {folder}")
    options: dict[str, Any] = {"local_files_only": True}
    if dtype is not None:
        variant, weights = _weights(folder)
        options |= {"torch_dtype": dtype, "output_loading_info": True, "variant": variant}
    try:
        loaded = kind.from_pretrained(folder, **options)
    except Exception as error:  # a damaged file raises whatever its reader likes
        raise ModelError(f"{name} cannot be loaded: {error}") from error
    if dtype is None:
        return loaded
    network, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{folder.parent.name}: the weights of {folder.name!r} lack {missing[:3]}")
    if files is not None:
        files.extend(weights)
    return network


def _weights(folder: Path) -> tuple[str | None, list[Path]]:
    """The variant to ask for, and the files it stands for: full names first, else fp16."""
    found = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS)
    half = [path for path in found if ".fp16." in path.name]
    plain = [path for path in found if path not in half]
    chosen = plain or half
    safe = [path for path in chosen if path.suffix == ".safetensors"]
    return ("fp16" if half and not plain else None), safe or chosen


def _scheduler_config(folder: Path) -> dict[str, Any]:
    """With what its own class fills in. Latents are never clipped, though DDIM's default is to."""
    import diffusers

    name = "scheduler/scheduler_config.json"
    kind = getattr(diffusers, str(json.loads(_read(folder, name)).get("_class_name")), None)
    if kind is None:
        raise ModelError(f"{folder.name}: {name} names no scheduler that diffusers has")
    return {"clip_sample": False} | dict(part_of(kind, folder / "scheduler").config)


def _image_processor(folder: Path, needed: bool) -> Any:
    """CLIP's own where the model says nothing of it: SDXL's folders do not."""
    from transformers import CLIPImageProcessor

    if needed or (folder / "feature_extractor").is_dir():
        return part_of(CLIPImageProcessor, folder / "feature_extractor")
    return CLIPImageProcessor()


def _zeros_for_nothing(folder: Path) -> bool:
    return bool(json.loads(_read(folder, "model_index.json")).get("force_zeros_for_empty_prompt"))


def _read(folder: Path, name: str) -> str:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{folder.name}: {name} is missing, looked in {path}")
    return path.read_text()
