"""What the first code of Stable Diffusion calls the layers of a UNet.

https://github.com/CompVis/latent-diffusion, ldm/modules/diffusionmodules/openaimodel.py: blocks are
numbered through, each with its ResNet at 0 and its transformer at 1, an upsampler behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_ALONE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_OF_A_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def first_code_names(unet: UNet2DConditionModel) -> dict[str, str]:
    """diffusers' name of a layer -> the first code's."""
    parts, names = _parts(unet), {}
    for name, _ in unet.named_modules():
        part = next((part for part in parts if f"{name}.".startswith(f"{part}.")), None)
        if part is None:
            continue
        rest = name.removeprefix(part).removeprefix(".")
        if ".resnets." in part:
            rest = _OF_A_RESNET.get(rest, rest)
        names[name] = f"{parts[part]}.{rest}".rstrip(".")
    return names


def _parts(unet: UNet2DConditionModel) -> dict[str, str]:
    parts, number = dict(_ALONE), 0
    for i, block in enumerate(unet.down_blocks):
        for j in range(len(block.resnets)):
            number += 1
            parts[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{number}.0"
            parts[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{number}.1"
        if block.downsamplers:
            number += 1
            parts[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
    number = 0
    for i, block in enumerate(unet.up_blocks):
        for j in range(len(block.resnets)):
            parts[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{number}.0"
            parts[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{number}.1"
            number += 1
        if block.upsamplers:
            place = 1 + hasattr(block, "attentions")
            parts[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{place}.conv"
    return parts
