"""A ControlNet or a T2I-Adapter of one's own, from a folder or from one file of any layout, and
whether it fits the model's UNet."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.json_files import json_object
from ipadapter_demo.models.union import is_union, union_of
from ipadapter_demo.models.weights import network_from_weights

if TYPE_CHECKING:
    from diffusers import (
        ControlNetModel,
        ControlNetUnionModel,
        T2IAdapter,
        UNet2DConditionModel,
    )

# The published ControlNet that reads a map as a whole: its weights do not tell, its name or what it
# is given for does.
_POOLED = re.compile(r"(?<![a-z])shuffle(?![a-z])")


def controlnet_of(
    tensors: Mapping[str, Tensor],
    unet: UNet2DConditionModel,
    dtype: torch.dtype,
    name: str,
    kind: str = "",
) -> ControlNetModel | ControlNetUnionModel:
    """From the tensors of the file `name`, in diffusers' layout or the first code's
    (https://github.com/lllyasviel/ControlNet), given for maps of a `kind`. What they do not tell is
    as in the UNet that the network was copied from. Raises ModelError."""
    from diffusers import ControlNetModel
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    if "lora_controlnet" in tensors:  # a mark of its files
        raise ModelError(
            f"{name} is a Control-LoRA, which changes a copy of the UNet and is not read: give a "
            "whole ControlNet"
        )
    if is_union(tensors):
        return union_of(tensors, unet, dtype, name)
    taken = inspect.signature(ControlNetModel.__init__).parameters
    config = {key: value for key, value in unet.config.items() if key in taken}
    converted = {
        key: t
        for key, t in convert_controlnet_checkpoint(dict(tensors), config).items()
        if t is not None
    }
    for key, t in tensors.items():  # of SDXL, which diffusers' converter leaves out
        if match := re.fullmatch(r"(?:control_model\.)?label_emb\.0\.([02])\.(weight|bias)", key):
            converted[f"add_embedding.linear_{1 + int(match[1]) // 2}.{match[2]}"] = t
    first = converted.get("conv_in.weight")
    hint = converted.get("controlnet_cond_embedding.conv_in.weight")
    if first is None or hint is None:
        raise ModelError(f"{name} is no ControlNet: it holds {sorted(tensors)[:2]}")
    wider = [
        converted[key].shape[0]
        for key in _in_order(converted, r"controlnet_cond_embedding\.blocks\.(\d*[13579])\.weight")
    ]
    config |= {
        "in_channels": first.shape[1],
        "conditioning_channels": hint.shape[1],
        "conditioning_embedding_out_channels": (hint.shape[0], *wider),
        "global_pool_conditions": any(map(_POOLED.search, (name.lower(), kind))),
    }
    return network_from_weights(
        lambda: ControlNetModel(**config),
        converted,
        dtype,
        f"{name}: the weights of the ControlNet",
    )


def t2i_adapter_of(
    tensors: Mapping[str, Tensor],
    unet: UNet2DConditionModel,
    factor: int,
    dtype: torch.dtype,
    name: str,
) -> T2IAdapter:
    """Likewise; the first code's is https://github.com/TencentARC/T2I-Adapter.
    `factor` is how many pixels a latent cell is wide. Raises ModelError."""
    from diffusers import T2IAdapter

    tensors = {key.removeprefix("adapter."): t for key, t in tensors.items()}
    light = "body.0.out_conv.weight" in tensors
    first = tensors.get("body.0.in_conv.weight" if light else "conv_in.weight")
    # Where the UNet's first block has no attention it halves the grid before features are added.
    late = not unet.config.down_block_types[0].startswith("CrossAttn")
    levels, blocks = len(unet.config.block_out_channels), len(_blocks(tensors))
    if late and blocks % (levels + 1) == 0:
        levels += 1  # the published ones have features for the middle block as well
    named = {_t2i_key(key, light, blocks // levels): t for key, t in tensors.items()}
    cells = factor * (2 if late else 1)
    ends = "out_conv" if light else r"resnets\.0\.block1"
    channels = [named[key].shape[0] for key in _in_order(named, rf"body\.(\d+)\.{ends}\.weight")]
    if first is None or not channels:
        raise ModelError(f"{name} is no T2I-Adapter: it holds {sorted(tensors)[:2]}")
    if first.shape[1] % cells**2:
        raise ModelError(
            f"{name} does not fit this model: it reads {first.shape[1]} values a "
            f"cell, which is no multiple of {cells**2}"
        )
    config = {
        "in_channels": first.shape[1] // cells**2,
        "channels": channels[:-1] if light else channels,
        "num_res_blocks": len(_in_order(named, r"body\.0\.resnets\.(\d+)\.block1\.weight")),
        "downscale_factor": cells,
        "adapter_type": "light_adapter" if light else "full_adapter_xl" if late else "full_adapter",
    }
    return network_from_weights(
        lambda: T2IAdapter(**config),
        {f"adapter.{key}": t for key, t in named.items()},
        dtype,
        f"{name}: the weights of the T2I-Adapter",
    )


def class_in(folder: Path, kind: type) -> type:
    """The class that a folder says it holds: `kind`, or a union where that is a ControlNet. Raises
    ModelError for another."""
    from diffusers import ControlNetModel, ControlNetUnionModel

    path = folder / "config.json"
    found = json_object(path).get("_class_name") if path.is_file() else None
    if kind is ControlNetModel and found == ControlNetUnionModel.__name__:
        return ControlNetUnionModel
    if found not in (None, kind.__name__):
        raise ModelError(f"{folder} holds a {found}, where a {kind.__name__} is needed")
    return kind


def check_controlnet_fits(
    network: ControlNetModel | ControlNetUnionModel, unet: UNet2DConditionModel, name: str
) -> None:
    """Raises ModelError for a ControlNet of another base."""
    ours, theirs = unet.config, network.config
    widths, wanted = list(theirs.block_out_channels), list(ours.block_out_channels)
    if widths != wanted:
        raise ModelError(
            f"{name} does not fit this model: its blocks are {widths} wide, the model's {wanted}"
        )
    if theirs.cross_attention_dim != ours.cross_attention_dim:
        raise ModelError(
            f"{name} does not fit this model: it reads text "
            f"{theirs.cross_attention_dim} wide, the model {ours.cross_attention_dim}"
        )


def check_t2i_adapter_fits(
    network: T2IAdapter, unet: UNet2DConditionModel, factor: int, name: str
) -> None:
    """Raises ModelError for a T2I-Adapter whose features the UNet has no place for. `factor` is how
    many pixels a latent cell is wide."""
    from diffusers import T2IAdapter

    *wanted, middle = _places(unet)
    side = (
        wanted[0][1]
        * factor
        * (1 if unet.config.down_block_types[0].startswith("CrossAttn") else 2)
    )
    with torch.device("meta"):  # shapes only
        outline = T2IAdapter.from_config(network.config)
        pixels = torch.empty(1, network.config.in_channels, side, side)
        found = [(features.shape[1], features.shape[2]) for features in outline(pixels)]
    if found not in (wanted, [*wanted, middle]):
        raise ModelError(
            f"{name} does not fit this model: of {side} pixels it makes features "
            f"{_said(found)}, the model has places for {_said(wanted)}"
        )


def _places(unet: UNet2DConditionModel) -> list[tuple[int, int]]:
    """(channels, cells a side) of what diffusers adds features to, one for each down block and then
    the middle block, with 2 cells in the middle: a block with attention takes them before it halves
    the grid, another one after."""
    config = unet.config
    last = len(config.block_out_channels) - 1
    places, side = [], 2 ** (last + 1)
    for i, (kind, width) in enumerate(
        zip(config.down_block_types, config.block_out_channels, strict=True)
    ):
        after = side // 2 if i < last else side
        places.append((width, side if kind.startswith("CrossAttn") else after))
        side = after
    return [*places, (config.block_out_channels[-1], side)]


def _said(features: list[tuple[int, int]]) -> str:
    return ", ".join(f"{width} x {side} x {side}" for width, side in features)


def _blocks(tensors: dict[str, Tensor]) -> list[str]:
    """Of the first code's full adapter, whose levels are not distinguished."""
    return _in_order(tensors, r"body\.(\d+)\.block1\.weight")


def _t2i_key(key: str, light: bool, each: int) -> str:
    """The first code's name as diffusers', which has the blocks of a level in one list; `each` is
    how many there are in a level."""
    if light:
        return re.sub(r"^(body\.\d+)\.body\.", r"\1.resnets.", key)
    match = re.fullmatch(r"body\.(\d+)\.(in_conv|block[12])\.(weight|bias)", key)
    if match is None or not each:
        return key
    level, number = divmod(int(match[1]), each)
    inner = "" if match[2] == "in_conv" else f"resnets.{number}."
    return f"body.{level}.{inner}{match[2]}.{match[3]}"


def _in_order(tensors: dict[str, Tensor], pattern: str) -> list[str]:
    """The keys that fit a pattern, by the number in it."""
    found = {int(match[1]): key for key in tensors if (match := re.fullmatch(pattern, key))}
    return [found[number] for number in sorted(found)]
