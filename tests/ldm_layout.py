"""A model's weights under the names of the first Stable Diffusion code, in one file, as community
models are published. diffusers translates such files back; here is the way there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel

UNET_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0",
               "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
               "conv_shortcut": "skip_connection"}
UNET_ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v",
                 "to_out.0": "proj_out"}


def write_checkpoint(path: Path, unet: UNet2DConditionModel, vae: AutoencoderKL,
                     text: CLIPTextModel) -> None:
    tensors = {f"model.diffusion_model.{k}": t for k, t in _unet(unet)}
    tensors |= {f"first_stage_model.{k}": t for k, t in _vae(vae)}
    tensors |= {f"cond_stage_model.transformer.text_model.{k.removeprefix('text_model.')}": t
                for k, t in text.state_dict().items()}
    save_file({k: t.half().contiguous() for k, t in tensors.items()}, path)


def _renamed(key: str, names: dict[str, str]) -> str:
    for theirs, ours in names.items():
        if key.startswith(f"{theirs}."):
            return ours + key.removeprefix(theirs)
    return key


def _unet(unet: UNet2DConditionModel) -> Iterator[tuple[str, Tensor]]:
    levels = len(unet.down_blocks)
    for key, tensor in unet.state_dict().items():
        part, _, rest = key.partition(".")
        if part == "mid_block":
            kind, number, inner = rest.split(".", 2)
            place = {"resnets": 2 * int(number), "attentions": 1}[kind]
            yield f"middle_block.{place}.{_renamed(inner, UNET_RESNET)}", tensor
        elif part in ("down_blocks", "up_blocks"):
            level, kind, number, inner = rest.split(".", 3)
            first = 3 * int(level) + int(number)
            down = part == "down_blocks"
            blocks, first = ("input_blocks", first + 1) if down else ("output_blocks", first)
            if kind == "resnets":
                yield f"{blocks}.{first}.0.{_renamed(inner, UNET_RESNET)}", tensor
            elif kind == "attentions":
                yield f"{blocks}.{first}.1.{inner}", tensor
            elif kind == "downsamplers":
                yield f"input_blocks.{3 * int(level) + 3}.0.op.{inner.split('.')[-1]}", tensor
            else:
                after = 2 if hasattr(unet.up_blocks[int(level)], "attentions") else 1
                yield f"output_blocks.{3 * int(level) + 2}.{after}.{inner}", tensor
        else:
            yield _renamed(key, UNET_ENDS), tensor
    assert levels == 4


def _vae(vae: AutoencoderKL) -> Iterator[tuple[str, Tensor]]:
    levels = len(vae.encoder.down_blocks)
    for key, tensor in vae.state_dict().items():
        if key.startswith(("quant_conv", "post_quant_conv")):
            yield key, tensor
            continue
        half, part, rest = key.split(".", 2)
        if part in ("down_blocks", "up_blocks"):
            level, kind, number, inner = rest.split(".", 3)
            place = int(level) if part == "down_blocks" else levels - 1 - int(level)
            way = part.removesuffix("_blocks")
            if kind == "resnets":
                inner = _renamed(inner, {"conv_shortcut": "nin_shortcut"})
                yield f"{half}.{way}.{place}.block.{number}.{inner}", tensor
            else:
                yield f"{half}.{way}.{place}.{way}sample.{inner}", tensor
        elif part == "mid_block":
            kind, number, inner = rest.split(".", 2)
            if kind == "resnets":
                yield f"{half}.mid.block_{int(number) + 1}.{inner}", tensor
            else:
                inner = _renamed(inner, VAE_ATTENTION)
                matrix = inner.endswith(".weight") and not inner.startswith("norm")
                yield (f"{half}.mid.attn_1.{inner}",
                       tensor[:, :, None, None] if matrix else tensor)
        else:
            yield f"{half}.{_renamed(f'{part}.{rest}', {'conv_norm_out': 'norm_out'})}", tensor

