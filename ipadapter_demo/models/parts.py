"""The parts of a base model, from a folder in diffusers' layout or from one checkpoint file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ipadapter_demo.errors import ModelError, some_of
from ipadapter_demo.models import single_file
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.json_files import json_object
from ipadapter_demo.models.quiet import errors_only
from ipadapter_demo.models.schedule import SchedulerConfig, made_of_betas, marked, saying
from ipadapter_demo.models.sources import served_by, weights_at
from ipadapter_demo.models.weights import header_of, reason, tensors_from_file

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, ConfigMixin, UNet2DConditionModel
    from transformers import (
        CLIPImageProcessor,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        PreTrainedModel,
    )

# diffusers' networks and schedulers are ConfigMixins
Part = TypeVar("Part", bound="ConfigMixin | PreTrainedModel | CLIPTokenizer | CLIPImageProcessor")


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The parts of a base model, in one precision, on the CPU."""

    tokenizers: tuple[CLIPTokenizer, ...]
    text_encoders: tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]
    unet: UNet2DConditionModel
    vae: AutoencoderTiny | AutoencoderKL
    scheduler_config: SchedulerConfig
    image_processor: CLIPImageProcessor
    zeros_for_nothing: bool


def read_parts(
    entry: CatalogEntry,
    dtype: torch.dtype,
    files: list[Path],
    vae: Path | None = None,
    prediction_type: str | None = None,
    unet: Path | None = None,
) -> Parts:
    """`vae` replaces the base's autoencoder: a folder in diffusers' layout, or one file; `unet` its
    UNet, or else the entry's own does. The files that were read are added to `files`. A
    `prediction_type` settles what a file contradicts itself about. Raises ModelError."""
    if unet is None and entry.unet is not None:
        unet = Path(entry.unet)
    if entry.folder.is_file():
        parts = _from_single_file(entry, dtype, files, vae, prediction_type, unet)
    elif entry.folder.is_dir():
        parts = _from_folder(entry.folder, dtype, files, vae, unet)
    else:
        raise ModelError(f"model {entry.name}: no folder {entry.folder}")
    _check_channels(entry, parts)
    return parts


def _from_folder(
    folder: Path, dtype: torch.dtype, files: list[Path], vae: Path | None, unet: Path | None
) -> Parts:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    two = (folder / "text_encoder_2").is_dir()
    tokenizers = [part_of(CLIPTokenizer, folder / "tokenizer")]
    encoders = [part_of(CLIPTextModel, folder / "text_encoder", dtype, files)]
    if two:
        tokenizers.append(part_of(CLIPTokenizer, folder / "tokenizer_2"))
        encoders.append(
            part_of(CLIPTextModelWithProjection, folder / "text_encoder_2", dtype, files)
        )
    return Parts(
        tokenizers=tuple(tokenizers),
        text_encoders=tuple(encoders),
        unet=part_of(UNet2DConditionModel, folder / "unet", dtype, files)
        if unet is None
        else _unet(unet, folder, dtype, files),
        vae=vae_at(vae or folder / "vae", folder, dtype, files),
        scheduler_config=_scheduler_config(folder),
        image_processor=_image_processor(folder),
        zeros_for_nothing=two and _zeros_for_nothing(folder),
    )


def _from_single_file(
    entry: CatalogEntry,
    dtype: torch.dtype,
    files: list[Path],
    vae: Path | None,
    prediction_type: str | None,
    unet: Path | None,
) -> Parts:
    """A checkpoint of weights alone, as community models are often published. Configuration and
    tokenizers are those of the family's base."""
    from transformers import CLIPTokenizer

    path, configs = entry.folder, entry.configs
    if configs is None:
        raise ModelError(f"model {entry.name}: {path.name} needs a folder with its configuration")
    if path.suffix.lower() != ".safetensors":
        raise ModelError(
            f"model {entry.name}: {path.name} must be a .safetensors file: others may "
            "run code when they are read"
        )
    xl = (configs / "text_encoder_2").is_dir()
    try:
        tensors = single_file.tensors_of_family(path, xl)
        said = marked(tensors, header_of(path), prediction_type)
    except ModelError as error:
        raise ModelError(
            f"model {entry.name}: {path.name} cannot be read as a checkpoint of this "
            f"family: {error}"
        ) from error
    if vae is None and not single_file.has_vae(tensors):
        raise ModelError(f"model {entry.name}: {path.name} holds no VAE: give one with --vae")
    files.append(path)
    where = (tensors, configs, dtype, path.name)
    encoders = [single_file.text_encoder_of(*where)]
    tokenizers = [part_of(CLIPTokenizer, configs / "tokenizer")]
    if xl:
        encoders.append(single_file.second_text_encoder_of(*where))
        tokenizers.append(part_of(CLIPTokenizer, configs / "tokenizer_2"))
    return Parts(
        tokenizers=tuple(tokenizers),
        text_encoders=tuple(encoders),
        unet=single_file.unet_of(*where) if unet is None else _unet(unet, configs, dtype, files),
        vae=single_file.vae_of(*where) if vae is None else vae_at(vae, configs, dtype, files),
        scheduler_config=saying(_scheduler_config(configs), said),
        image_processor=_image_processor(configs),
        zeros_for_nothing=xl and _zeros_for_nothing(configs),
    )


def _unet(path: Path, base: Path, dtype: torch.dtype, files: list[Path]) -> UNet2DConditionModel:
    """The UNet in one file, configured as the one of `base`."""
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        raise ModelError(f"unet must be a .safetensors file that is there, got {path}")
    files.append(path)
    tensors = tensors_from_file(path)
    return single_file.unet_alone(tensors, base, dtype, f"unet: {path.name}")


def vae_at(
    path: Path, base: Path, dtype: torch.dtype, files: list[Path] | None = None
) -> AutoencoderKL | AutoencoderTiny:
    """The autoencoder in a folder, or in one file, which is then configured as the one of `base`:
    its family's scale of latents cannot be read from weights."""
    from diffusers import AutoencoderKL, AutoencoderTiny

    if path.is_file():
        if _object(base, "vae/config.json").get("_class_name") != "AutoencoderKL":
            raise ModelError(
                f"vae: {path.name} is one file, which needs a base of SD 1.5's or "
                "SDXL's family: give a folder in diffusers' layout"
            )
        if files is not None:
            files.append(path)
        return single_file.vae_of(tensors_from_file(path), base, dtype, path.name)
    kinds = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny)}
    name = str(_object(path, "config.json").get("_class_name", "AutoencoderKL"))
    if name not in kinds:
        raise ModelError(
            f"vae: {path.name} holds a network of kind {name:.80}; {' or '.join(kinds)} is needed"
        )
    return part_of(kinds[name], path, dtype, files)


def _check_channels(entry: CatalogEntry, parts: Parts) -> None:
    """A UNet reads latents; one for inpainting a mask and the latents of what is left as well."""
    latents, reads = parts.vae.config.latent_channels, parts.unet.config.in_channels
    if reads not in (latents, 2 * latents + 1):
        raise ModelError(
            f"model {entry.name}: the UNet reads {reads} channels, where a VAE of "
            f"{latents} gives {latents}, and {2 * latents + 1} with a mask"
        )


def part_of(
    kind: type[Part],
    folder: Path,
    dtype: torch.dtype | None = None,
    files: list[Path] | None = None,
) -> Part:
    """One part of a model, with weights if a `dtype` is given; local only, so that a missing file
    never turns into a download. Raises ModelError that names it.

    Weights that the file lacks would silently stay random; extra ones, such as the position_ids of
    old CLIP files, do no harm.
    """
    name = f"{folder.parent.name}: the part {folder.name!r}"
    if not folder.is_dir():
        raise ModelError(f"{name} is missing, looked in {folder}")
    clip = kind.__module__.startswith("transformers.") and dtype is not None
    options: dict[str, object] = {"local_files_only": True}
    if dtype is not None:
        variant, weights = _weights(folder, "model" if clip else "diffusion_pytorch_model")
        options |= {"torch_dtype": dtype, "output_loading_info": True, "variant": variant}
    if clip:
        options["ignore_mismatched_sizes"] = True  # else only its log says which they are
    from transformers.utils import logging

    try:
        # transformers' table of keys: what is missing or does not fit is said below, and CLIP's own
        # file has a text encoder beside the image encoder
        with errors_only(logging):
            loaded = kind.from_pretrained(folder, **options)
    except Exception as error:  # a damaged file raises whatever its reader likes
        raise ModelError(f"{name} cannot be loaded: {reason(error)}") from error
    if dtype is None:
        return loaded
    network, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{folder.parent.name}: the weights of {folder.name!r} lack {some_of(missing)}"
        )
    if other := sorted(report.get("mismatched_keys", ())):
        key, found, wanted = other[0]
        raise ModelError(
            f"{folder.parent.name}: the weights of {folder.name!r} hold {key} of "
            f"shape {tuple(found)}, where {tuple(wanted)} is needed"
        )
    if files is not None:
        files.extend(weights)
    return network


def _weights(folder: Path, stem: str) -> tuple[str | None, list[Path]]:
    """The variant to ask for, and the files it stands for: full names first, else fp16. Others
    that lie beside them (`non_ema`, OpenVINO's) are no weights of this part."""
    for name in sorted(served_by(f"{stem}.safetensors"), key=lambda name: ".fp16." in name):
        if found := weights_at(folder, name):
            return ("fp16" if ".fp16." in name else None), found
    return None, []  # the loader says what it misses


def _scheduler_config(folder: Path) -> SchedulerConfig:
    """With what its own class fills in. Latents are never clipped, though DDIM's default is to."""
    import diffusers

    name = "scheduler/scheduler_config.json"
    kind = getattr(diffusers, str(_object(folder, name).get("_class_name")), None)
    if kind is None:
        raise ModelError(f"{folder.name}: {name} names no scheduler that diffusers has")
    config = dict(part_of(kind, folder / "scheduler").config)
    if not made_of_betas(config):
        raise ModelError(
            f"{folder.name}: {name} names {kind.__name__}, over noise levels that no betas give: "
            "models over EDM's, such as Playground v2.5 and CosXL, or over those of flow matching "
            "are not read"
        )
    # first, as it always was: of equal requests the records are equal
    return {"clip_sample": False} | saying(config, {"clip_sample": False})


def _image_processor(folder: Path) -> CLIPImageProcessor:
    """CLIP's own where the model says nothing of it: SDXL's folders do not, nor do some others."""
    from transformers import CLIPImageProcessor

    if (folder / "feature_extractor" / "preprocessor_config.json").is_file():
        return part_of(CLIPImageProcessor, folder / "feature_extractor")
    return CLIPImageProcessor()


def _zeros_for_nothing(folder: Path) -> bool:
    return bool(_object(folder, "model_index.json").get("force_zeros_for_empty_prompt"))


def _object(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{folder.name}: {name} is missing, looked in {path}")
    return json_object(path)
