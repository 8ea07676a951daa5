"""A ControlNet's first convolutions: they see the map alone, so they run once a request.

diffusers runs them at every step, for every row; of the built-in model's ControlNet they are a
fourth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import ControlNetModel, ControlNetUnionModel


class MapEmbedding(ControlNetConditioningEmbedding):
    """The same network with the same weights, which passes on what it has embedded before."""

    def forward(self, conditioning: Tensor) -> Tensor:
        embedded = conditioning.shape[1] == self.conv_out.out_channels
        return conditioning if embedded else super().forward(conditioning)


def embedded(net: ControlNetModel | ControlNetUnionModel, pixels: Tensor) -> Tensor:
    """(B, C, H, W) of a map -> (B, width, h, w), which the network takes in place of the map from
    now on."""
    net.controlnet_cond_embedding.__class__ = MapEmbedding
    if net.config.controlnet_conditioning_channel_order == "bgr":  # its forward turns it back
        return net.controlnet_cond_embedding(pixels.flip(1)).flip(1)
    return net.controlnet_cond_embedding(pixels)
