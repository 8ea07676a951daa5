"""The frozen model that a training stands on: any base the demo can draw with, without adapters."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor

from ipadapter_demo.adapter import attach
from ipadapter_demo.errors import TrainingError
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.base_model import BaseModel, load_base_model
from ipadapter_demo.models.catalog import TABLETOP, CatalogEntry
from ipadapter_demo.models.hub_files import VIT_H
from ipadapter_demo.models.local_entry import base_path
from ipadapter_demo.models.own_parts import encoder_folder
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.models.recommended import Recommended
from ipadapter_demo.models.sources import Hub, announced, fetched, local_folder
from ipadapter_demo.pipeline.denoiser import reads_mask
from ipadapter_demo.training.config import ImagePromptConfig, TrainingConfig

_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_XL_KEY = re.compile(r"conditioner\.").match
_SMALL = 32  # latent cells a side


def frozen_base(config: TrainingConfig, device: str, precision: str) -> BaseModel:
    """The base of a config, nothing of it learning. On a GPU in the training's precision, but the
    autoencoder in float32 under fp16, in which SDXL's overflows. Raises ModelError."""
    half = torch.float32 if device == "cpu" else _DTYPES[precision]
    model = load_base_model(
        _entry(config), device, half, LoadOptions(models_dir=config.models_dir), announced(print)
    )
    if reads_mask(model):
        raise TrainingError(
            f"base: {config.base} is for inpainting, whose UNet reads a mask as well; train on the "
            "base that it was made of"
        )
    if half == torch.float16:
        model.vae.autoencoder.float()
    if device == "cpu":
        for network in (model.unet, model.vae.autoencoder):
            network.to(memory_format=torch.channels_last)
        if config.size // model.vae.factor <= _SMALL:  # where the fused kernel is the slower one
            model.unet.set_attn_processor(AttnProcessor())
            attach(model.unet)
    if config.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
        model.unet.train()  # which switches it on, and in a UNet without dropout nothing else
    if config.compile:
        model.unet.compile(dynamic=False)
    return model


def _entry(config: TrainingConfig) -> CatalogEntry:
    base, models, report = config.base, config.models_dir, announced(print)
    folder = TABLETOP.folder if base == TABLETOP.name else Path(base)
    configs, xl = None, (folder / "text_encoder_2").is_dir()
    if not folder.is_dir():
        xl = _is_xl(base, models)
        family = PUBLISHED["sdxl" if xl else "sd15"]
        folder, configs = base_path(family, None if base in PUBLISHED else base, models, report)
    encoder = None
    if isinstance(config, ImagePromptConfig):
        encoder = str(_encoder(config, folder, VIT_H))
    return CatalogEntry(
        name=base,
        folder=folder,
        configs=configs,
        image_encoder=encoder,
        adapters={},
        recommended=Recommended(guidance=5.0 if xl else 7.5),
    )


def model_options(config: TrainingConfig, base: BaseModel) -> list[str]:
    """The flags with which `app.py` and the commands load the base of a training, and for an image
    adapter the encoder that it reads."""
    if config.base == TABLETOP.name:
        return ["--model", config.base]
    xl = len(base.text.encoders) > 1
    family = [m for m in PUBLISHED.values() if m.base == PUBLISHED["sdxl" if xl else "sd15"].base]
    encoder = ""
    if isinstance(config, ImagePromptConfig):
        own = Path(config.base) / "image_encoder"
        encoder = config.image_encoder or (str(own) if own.is_dir() else "")
        family = [m for m in family if encoder or m.image_encoder == VIT_H]
    named = config.base in PUBLISHED
    model = config.base if config.base in {m.name for m in family} else family[0].name
    options = ["--model", model, *([] if named else ["--base", config.base])]
    if config.models_dir is not None:
        options += ["--models-dir", str(config.models_dir)]
    return [*options, *(["--image-encoder", encoder] if encoder else [])]


def _encoder(config: ImagePromptConfig, base: Path, default: Hub) -> Path:
    """The one named, the base's own, or the one the published adapters read."""
    named = config.image_encoder
    if not named:
        own = base / "image_encoder"
        if own.is_dir():
            return own.resolve()
        return fetched(default, config.models_dir, announced(print))
    return encoder_folder(named, config.models_dir, announced(print))


def _is_xl(base: str, models: Path | None) -> bool:
    """True for a catalogue name, a checkpoint file or a repository of SDXL's family."""
    if base in PUBLISHED:
        return PUBLISHED[base].base == PUBLISHED["sdxl"].base
    if Path(base).is_file():
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(base, "pt") as file:
                return any(map(_XL_KEY, file.keys()))
        except (SafetensorError, OSError) as error:
            raise TrainingError(f"base: {base} cannot be read: {error}") from error
    second = Hub(repo=base, files=("text_encoder_2/config.json",))
    if local_folder(second, models) is not None:
        return True
    if local_folder(Hub(repo=base, files=("model_index.json",)), models) is not None:
        return False
    from huggingface_hub import HfApi

    try:
        return "text_encoder_2/config.json" in HfApi().list_repo_files(base)
    except Exception as error:  # the hub's client raises errors of many libraries
        raise TrainingError(
            f"base: {base} is no folder, no file, and cannot be looked at on the "
            f"hub ({type(error).__name__})"
        ) from error
