"""What an operator adds to a model when it is loaded: LoRAs, textual inversions, where to look."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.parts import Parts
from ipadapter_demo.models.schedule import settled
from ipadapter_demo.models.sources import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """`models` is a local folder that mirrors the hub, `report` hears of downloads.

    `loras` are files with their weights; `embeddings` files of textual inversions, each called by
    the name of its file. `prediction_type` and `zero_snr` (zero terminal SNR) are for models whose
    files do not say it. `offload` keeps on the device only what is at work; `tiling` decodes large
    pictures in parts.
    """

    models: Path | None = None
    report: Report = lambda text, share: None
    loras: tuple[tuple[Path, float], ...] = ()
    embeddings: tuple[Path, ...] = ()
    prediction_type: str | None = None
    zero_snr: bool = False
    offload: bool = False
    tiling: bool = False


def with_extras(parts: Parts, extras: Extras) -> Parts:
    """The parts with LoRAs merged and new words learnt, by diffusers' own loaders.

    Raises ModelError that names the file.
    """
    config = settled(parts.scheduler_config, extras.prediction_type, extras.zero_snr)
    if extras.loras or extras.embeddings:
        pipe = _pipeline(parts)
        for path, weight in extras.loras:
            _named(path, _merge_lora, pipe, path, weight)
        for path in extras.embeddings:
            _named(path, _learn_word, pipe, path)
    return replace(parts, scheduler_config=config)


def _named(path: Path, load: Any, *arguments: Any) -> None:
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.suffix != ".safetensors":
        raise ModelError(f"{path.name} must be a .safetensors file: others may run code when they "
                         "are read")
    try:
        load(*arguments)
    except Exception as error:  # whatever the loaders like
        raise ModelError(f"{path.name} does not fit this model: {error}") from error


def _pipeline(parts: Parts) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    scheduler = DDIMScheduler.from_config(parts.scheduler_config)
    common = {"vae": parts.vae, "unet": parts.unet, "scheduler": scheduler,
              "text_encoder": parts.text_encoders[0], "tokenizer": parts.tokenizers[0]}
    if len(parts.text_encoders) > 1:
        return StableDiffusionXLPipeline(**common, text_encoder_2=parts.text_encoders[1],
                                         tokenizer_2=parts.tokenizers[1])
    return StableDiffusionPipeline(**common, safety_checker=None, feature_extractor=None,
                                   requires_safety_checker=False)


def _merge_lora(pipe: Any, path: Path, weight: float) -> None:
    """Into the weights, for good: the UNet stays an ordinary one."""
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, local_files_only=True)
    if not pipe.get_list_adapters():
        raise ValueError("none of its layers is one of this model's")
    pipe.fuse_lora(lora_scale=weight)
    pipe.unload_lora_weights()


def _learn_word(pipe: Any, path: Path) -> None:
    """An SDXL file holds a vector for each text encoder."""
    from safetensors.torch import load_file

    vectors = load_file(path)
    if "clip_g" not in vectors:
        pipe.load_textual_inversion(str(path), token=path.stem, local_files_only=True)
        return
    for key, end in (("clip_l", ""), ("clip_g", "_2")):
        pipe.load_textual_inversion(vectors[key], token=path.stem,
                                    text_encoder=getattr(pipe, f"text_encoder{end}"),
                                    tokenizer=getattr(pipe, f"tokenizer{end}"))
