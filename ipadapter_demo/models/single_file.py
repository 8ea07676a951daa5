"""One checkpoint file of a whole model under the names of the first Stable Diffusion code, as
community models are published: its parts, under the names that diffusers knows.

The renaming is diffusers' own; which parts there are, and that none lacks a weight, is seen to
here. Configurations are those of a folder of the same family.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.weights import Network, network_from_weights, tensors_from_file

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ConfigMixin, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

Tensors = Mapping[str, Tensor]

_UNET = "model.diffusion_model."
_VAE = ("first_stage_model.", "vae.")
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_TEXT = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
_SECOND_TEXT = "conditioner.embedders.1.model."

# a key that begins so -> what the file is; the first that fits
_OTHERS = {
    f"{_UNET}double_blocks.": "a Flux model",
    f"{_UNET}joint_blocks.": "a Stable Diffusion 3 model",
    "cond_stage_model.model.": "a Stable Diffusion 2 model",
    "conditioner.embedders.0.model.": "an SDXL refiner",
    "down_blocks.": "a UNet alone, in diffusers' layout",
    "input_blocks.": "a UNet alone",
    "control_model.": "a ControlNet",
    "lora_": "a LoRA",
    "image_proj.": "an IP-Adapter",
    "encoder.": "a VAE alone",
    "first_stage_model.": "a VAE alone",
    "text_model.": "a text encoder alone",
}


def tensors_of_family(path: Path, xl: bool) -> dict[str, Tensor]:
    """The tensors of a checkpoint of SD 1.5's family, or SDXL's. Raises ModelError that says what
    the file is instead."""
    tensors = tensors_from_file(path)
    if is_xl(tensors) == xl:
        return tensors
    raise ModelError(
        "it holds a model of SD 1.5's family: take one of SD 1.5's models with --model"
        if xl
        else "it holds an SDXL model: take one of SDXL's models with --model"
    )


def is_xl(tensors: Mapping[str, object]) -> bool:
    """Whether a checkpoint with these keys is of SDXL's family, or SD 1.5's. Raises ModelError that
    says what it is instead."""
    if f"{_UNET}input_blocks.0.0.weight" in tensors and _begins(tensors, *_TEXT):
        return _begins(tensors, "conditioner.embedders.1.")
    if _begins(tensors, _UNET) and not any(_begins(tensors, k) for k in list(_OTHERS)[:4]):
        kind = "a UNet without a text encoder"
    else:
        kind = next(
            (what for start, what in _OTHERS.items() if _begins(tensors, start)),
            f"something else, with keys as {sorted(tensors)[:2]}",
        )
    raise ModelError(f"it holds {kind}")


def has_vae(tensors: Tensors) -> bool:
    return _begins(tensors, *_VAE)


def unet_of(tensors: Tensors, configs: Path, dtype: torch.dtype, name: str) -> UNet2DConditionModel:
    """One for inpainting reads 9 channels, which its first convolution tells."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = _config(UNet2DConditionModel, configs, "unet")
    config["in_channels"] = tensors[f"{_UNET}input_blocks.0.0.weight"].shape[1]
    own = {key: tensor for key, tensor in tensors.items() if key.startswith(_UNET)}
    converted = _converted(
        convert_ldm_unet_checkpoint, f"{name}: the weights of 'unet'", own, config
    )
    return network_from_weights(
        lambda: UNet2DConditionModel.from_config(config),
        converted,
        dtype,
        f"{name}: the weights of 'unet'",
    )


def unet_alone(
    tensors: Tensors, configs: Path, dtype: torch.dtype, name: str
) -> UNet2DConditionModel:
    """From a file of the UNet alone under diffusers' own names, as few-step ones are published."""
    from diffusers import UNet2DConditionModel

    first = tensors.get("conv_in.weight")
    if first is None:
        kind = next((what for start, what in _OTHERS.items() if _begins(tensors, start)), None)
        kind = kind or (
            "a whole model: give it with --base" if _begins(tensors, _UNET) else "something else"
        )
        raise ModelError(f"{name} holds {kind}, where a UNet in diffusers' layout is needed")
    config = _config(UNet2DConditionModel, configs, "unet")
    config["in_channels"] = first.shape[1]
    return network_from_weights(
        lambda: UNet2DConditionModel.from_config(config), tensors, dtype, f"{name}: the weights"
    )


def vae_of(tensors: Tensors, configs: Path, dtype: torch.dtype, name: str) -> AutoencoderKL:
    """From a whole checkpoint, or a file of the autoencoder alone, in either layout."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    config = _config(AutoencoderKL, configs, "vae")
    label = f"{name}: the weights of 'vae'"
    prefix = next((p for p in _VAE if _begins(tensors, p)), "")
    own = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    if _begins(own, "encoder.down_blocks."):
        own = {_attention_of_today(key): tensor for key, tensor in own.items()}
    else:
        own = _converted(convert_ldm_vae_checkpoint, label, own, config)
    return network_from_weights(lambda: AutoencoderKL.from_config(config), own, dtype, label)


def text_encoder_of(
    tensors: Tensors, configs: Path, dtype: torch.dtype, name: str
) -> CLIPTextModel:
    """The first or only one. Old files lack the `text_model.` within the names."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig.from_pretrained(configs / "text_encoder", local_files_only=True)
    prefix = next(p for p in _TEXT if _begins(tensors, p))
    own = {
        key.removeprefix(prefix).removeprefix("text_model."): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }
    return _text_network(
        CLIPTextModel, config, own, dtype, f"{name}: the weights of 'text_encoder'"
    )


def second_text_encoder_of(
    tensors: Tensors, configs: Path, dtype: torch.dtype, name: str
) -> CLIPTextModelWithProjection:
    """SDXL's second, which comes from OpenCLIP."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig.from_pretrained(configs / "text_encoder_2", local_files_only=True)
    label = f"{name}: the weights of 'text_encoder_2'"
    with torch.device("meta"):
        shapes = CLIPTextModelWithProjection(config)
    own = _converted(
        lambda t, model: convert_open_clip_checkpoint(model, t, _SECOND_TEXT),
        label,
        dict(tensors),
        shapes,
    )
    plain = {key.removeprefix("text_model."): tensor for key, tensor in own.items()}
    return _text_network(CLIPTextModelWithProjection, config, plain, dtype, label)


def _text_network(
    kind: type[Network], config: CLIPTextConfig, own: Tensors, dtype: torch.dtype, label: str
) -> Network:
    """transformers has the encoder behind `text_model.` in one class and bare in the other."""
    with torch.device("meta"):
        keys = kind(config).state_dict()
    named = {key: own[bare] for key in keys if (bare := key.removeprefix("text_model.")) in own}
    return network_from_weights(lambda: kind(config), named, dtype, label)


def _config(kind: type[ConfigMixin], configs: Path, part: str) -> dict[str, object]:
    return dict(kind.load_config(configs, subfolder=part, local_files_only=True))


def _converted(
    convert: Callable[..., dict[str, Tensor | None]], label: str, tensors: Tensors, config: object
) -> dict[str, Tensor]:
    """diffusers' converters look some keys up without asking whether they are there."""
    try:
        found = convert(dict(tensors), config)
    except KeyError as error:
        raise ModelError(f"{label} lack {error.args[0]}") from error
    return {key: tensor for key, tensor in found.items() if tensor is not None}


def _attention_of_today(key: str) -> str:
    """A name within an autoencoder's attention, which diffusers called otherwise until 2023."""
    before, attention, name = key.partition("attentions.0.")
    for theirs, ours in _ATTENTION.items():
        name = re.sub(rf"^{theirs}\.", f"{ours}.", name)
    return before + attention + name


def _begins(tensors: Iterable[str], *starts: str) -> bool:
    return any(key.startswith(starts) for key in tensors)
