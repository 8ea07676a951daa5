"""The LoRA inside an adapter's file: changes of the UNet's own attention layers, which FaceID was
trained with.

`ip_adapter.<n>.to_<q|k|v|out>_lora.<down|up>.weight`: n counts all layers of
`unet.attn_processors`, and a change is up @ down.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_KEY = re.compile(r"ip_adapter\.(\d+)\.(to_[qkv]|to_out)_lora\.(down|up)\.weight$")
LayerLora = tuple[Tensor, Tensor]  # down (rank, in), up (out, rank)


def without_lora(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of an adapter's file, and apart from them those of its LoRA."""
    lora = {key: tensor for key, tensor in tensors.items() if _KEY.match(key)}
    return {key: tensor for key, tensor in tensors.items() if key not in lora}, lora


def lora_by_layer(lora: Mapping[str, Tensor], unet: UNet2DConditionModel) -> dict[str, LayerLora]:
    """The LoRA of each layer of a UNet that it changes, by the layer's name. Raises ValueError that
    says what does not fit."""
    processors = [name.removesuffix(".processor") for name in unet.attn_processors]
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in lora.items():
        match = _KEY.match(key)
        assert match is not None, "without_lora takes out no other keys"
        number = int(match[1])
        if number >= len(processors):
            raise ValueError(f"{key} is of layer {number}, the UNet has {len(processors)}")
        layer = match[2].replace("to_out", "to_out.0")
        found.setdefault(f"{processors[number]}.{layer}", {})[match[3]] = tensor
    return {name: _pair(name, parts, unet) for name, parts in found.items()}


def _pair(name: str, parts: Mapping[str, Tensor], unet: UNet2DConditionModel) -> LayerLora:
    if len(parts) < 2:
        raise ValueError(f"its LoRA of {name} lacks {'up' if 'down' in parts else 'down'}")
    down, up, layer = parts["down"], parts["up"], unet.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    wanted = (layer.out_features, layer.in_features)
    if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
        raise ValueError(f"its LoRA of {name} is {tuple(up.shape)} x {tuple(down.shape)}")
    if (len(up), down.shape[1]) != wanted:
        raise ValueError(
            f"its LoRA changes {down.shape[1]} to {len(up)} channels in {name}, "
            f"where the UNet maps {wanted[1]} to {wanted[0]}"
        )
    return down, up
