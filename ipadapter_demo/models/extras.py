"""Additions to a model when it is loaded: LoRAs and textual inversions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from torch import Tensor

from ipadapter_demo.errors import ModelError, some_of
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models import lycoris
from ipadapter_demo.models.embeddings import learn_word
from ipadapter_demo.models.parts import Parts
from ipadapter_demo.models.schedule import settled
from ipadapter_demo.models.weights import reason, tensors_from_file, weights_from_file

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# a key of the first LoRA files, which held nothing but the UNet's attention processors
_OLD_PROCESSOR = re.compile(r"\.processor\.to_\w+_lora\.(up|down)\.weight$")
# how diffusers' and peft's names of one tensor of a layer end
_OF_A_LAYER = re.compile(
    r"\.(lora_[AB]|lora\.(up|down)|lora_linear_layer\.(up|down)|"
    r"processor\.(to_\w+)_lora\.(up|down))(\.default)?\.weight$"
)


def with_extras(parts: Parts, options: LoadOptions) -> Parts:
    """The parts with LoRAs merged and new words learnt, by diffusers' own loaders.

    Raises ModelError that names the file.
    """
    config = settled(parts.scheduler_config, options.prediction_type, options.zero_snr)
    if options.loras or options.embeddings:
        pipe = _pipeline(parts)
        for path, weight in options.loras:
            if path.suffix.lower() != ".safetensors":
                raise ModelError(
                    f"{path.name} must be a .safetensors file: others may run code "
                    "when they are read"
                )
            _named(path, _merge_lora, pipe, parts, path, weight, tensors_from_file(path))
        for path in options.embeddings:
            _named(path, learn_word, pipe, parts, path.stem, weights_from_file(path))
    return replace(parts, scheduler_config=config)


def _named(path: Path, load: Callable[..., None], *arguments: object) -> None:
    try:
        load(*arguments)
    except ModelError as error:
        raise ModelError(f"{path.name} does not fit this model: {error}") from error
    except Exception as error:  # whatever the loaders like
        raise ModelError(f"{path.name} does not fit this model: {reason(error)}") from error


def _pipeline(parts: Parts) -> DiffusionPipeline:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    scheduler = DDIMScheduler.from_config(parts.scheduler_config)
    common = {
        "vae": parts.vae,
        "unet": parts.unet,
        "scheduler": scheduler,
        "text_encoder": parts.text_encoders[0],
        "tokenizer": parts.tokenizers[0],
    }
    if len(parts.text_encoders) > 1:
        return StableDiffusionXLPipeline(
            **common, text_encoder_2=parts.text_encoders[1], tokenizer_2=parts.tokenizers[1]
        )
    return StableDiffusionPipeline(
        **common, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def _merge_lora(
    pipe: DiffusionPipeline, parts: Parts, path: Path, weight: float, tensors: dict[str, Tensor]
) -> None:
    """Into the weights, for good: the UNet stays an ordinary one. Trainers' names are read by our
    own hand, diffusers' and peft's by diffusers, which wants the file itself for what its header
    says."""
    changes, rest = lycoris.split(tensors)
    lycoris.merge(parts, changes, weight)
    if not rest:
        return
    bare = all(_OLD_PROCESSOR.search(key) for key in rest)
    if bare:
        rest = {f"unet.{key.removeprefix('unet.')}": tensor for key, tensor in rest.items()}
    _check_layers(pipe, rest)
    if bare or changes:
        pipe.load_lora_weights(rest)
    elif path.suffix == ".safetensors":
        pipe.load_lora_weights(str(path.parent), weight_name=path.name, local_files_only=True)
    else:
        with TemporaryDirectory() as folder:  # diffusers knows the suffix in small letters alone
            file = Path(folder) / "lora.safetensors"
            file.symlink_to(path.absolute())
            pipe.load_lora_weights(folder, weight_name=file.name, local_files_only=True)
    if not pipe.get_list_adapters():
        raise ModelError("none of its layers is one of this model's")
    pipe.fuse_lora(lora_scale=weight)
    pipe.unload_lora_weights()


def _check_layers(pipe: DiffusionPipeline, tensors: dict[str, Tensor]) -> None:
    """Raise ModelError that names layers which the model lacks: diffusers passes over them."""
    there = {
        f"{part}.{name.removeprefix('text_model.')}"
        for part in ("unet", "text_encoder", "text_encoder_2")
        if (network := getattr(pipe, part, None)) is not None
        for name, _ in network.named_modules()
    }
    alien = []
    for key in tensors:
        part, _, rest = key.partition(".")
        ending = _OF_A_LAYER.search(rest)
        if ending is None or part not in ("unet", "text_encoder", "text_encoder_2"):
            continue  # another layout, which diffusers converts or refuses
        old = (ending[4] or "").replace("to_out", "to_out.0")
        name = rest[: ending.start()] + (f".{old}" if old else "")
        if f"{part}.{name.removeprefix('text_model.')}" not in there:
            alien.append(f"{part}.{name}")
    if names := list(dict.fromkeys(alien)):
        raise ModelError(
            f"it changes {some_of(names)}, which "
            f"{'are no layers' if names[1:] else 'is no layer'} of this model's"
        )
