"""A model's weights under the names of the first Stable Diffusion code, in one file, as community
models are published. diffusers translates such files back; here is the way there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, T2IAdapter, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tests.published import tiny_kl
from tests.tiny import tiny_sdxl_text_encoder, tiny_sdxl_unet

UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
OPEN_CLIP_ENDS = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def write_checkpoint(
    path: Path,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL | None,
    text: CLIPTextModel | None,
    second: CLIPTextModelWithProjection | None = None,
    old: bool = False,
    without: str = "",
) -> None:
    """`second` is SDXL's second text encoder, which comes from another code base. `old` names of
    the text encoder lack "text_model."; the key that holds `without` is left out."""
    tensors = {f"model.diffusion_model.{k}": t for k, t in _unet(unet)}
    if vae is not None:
        tensors |= {f"first_stage_model.{k}": t for k, t in _vae(vae)}
    place = "cond_stage_model" if second is None else "conditioner.embedders.0"
    inner = "" if old else "text_model."
    if text is not None:
        tensors |= {
            f"{place}.transformer.{inner}{k.removeprefix('text_model.')}": t
            for k, t in text.state_dict().items()
        }
    if second is not None:
        tensors |= {f"conditioner.embedders.1.model.{k}": t for k, t in _open_clip(second)}
    kept = {k: t.half().contiguous() for k, t in tensors.items() if not without or without not in k}
    assert len(kept) == len(tensors) - bool(without)
    save_file(kept, path)


def write_sdxl_checkpoint(path: Path, without: str = "") -> None:
    """A whole SDXL checkpoint with the tiny parts of `tests.published`."""
    texts = [tiny_sdxl_text_encoder(21 + i, second=bool(i)) for i in range(2)]
    write_checkpoint(path, tiny_sdxl_unet(), tiny_kl(), *texts, without=without)  # type: ignore[misc]


def controlnet_tensors(net: ControlNetModel) -> dict[str, Tensor]:
    """As in lllyasviel's control_*.pth, but for the "control_model." before every name."""
    found: dict[str, Tensor] = {}
    for key, tensor in net.state_dict().items():
        part, _, rest = key.partition(".")
        if part == "controlnet_cond_embedding":
            place, end = rest.rsplit(".", 1)
            number = {"conv_in": 0, "conv_out": 14}.get(place)
            if number is None:
                number = 2 * int(place.removeprefix("blocks.")) + 2
            found[f"input_hint_block.{number}.{end}"] = tensor
        elif part == "controlnet_down_blocks":
            number, end = rest.split(".")
            found[f"zero_convs.{number}.0.{end}"] = tensor
        elif part == "controlnet_mid_block":
            found[f"middle_block_out.0.{rest}"] = tensor
    own = ("controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block")
    return found | {k: t for k, t in _unet(net) if not k.startswith(own)}


def t2i_adapter_tensors(net: T2IAdapter) -> dict[str, Tensor]:
    """As in TencentARC's t2iadapter_*.pth: the blocks of a full adapter's levels in one list."""
    light, each = net.config.adapter_type == "light_adapter", net.config.num_res_blocks
    found = {}
    for key, tensor in net.state_dict().items():
        key = key.removeprefix("adapter.")
        if light:
            key = key.replace(".resnets.", ".body.")
        elif key.startswith("body."):
            _, level, rest = key.split(".", 2)
            number, rest = rest.split(".", 2)[1:] if rest.startswith("resnets.") else (0, rest)
            key = f"body.{each * int(level) + int(number)}.{rest}"
        found[key] = tensor
    return found


def unet_tensors(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    return dict(_unet(unet))


def vae_tensors(vae: AutoencoderKL) -> dict[str, Tensor]:
    return dict(_vae(vae))


def _renamed(key: str, names: dict[str, str]) -> str:
    for theirs, ours in names.items():
        if key.startswith(f"{theirs}."):
            return ours + key.removeprefix(theirs)
    return key


def _unet(unet: UNet2DConditionModel | ControlNetModel) -> Iterator[tuple[str, Tensor]]:
    each = unet.config.layers_per_block + 1  # blocks of a level, its sampler among them
    for key, tensor in unet.state_dict().items():
        part, _, rest = key.partition(".")
        if part == "mid_block":
            kind, number, inner = rest.split(".", 2)
            place = {"resnets": 2 * int(number), "attentions": 1}[kind]
            yield f"middle_block.{place}.{_renamed(inner, UNET_RESNET)}", tensor
        elif part in ("down_blocks", "up_blocks"):
            level, kind, number, inner = rest.split(".", 3)
            first = each * int(level) + int(number)
            down = part == "down_blocks"
            blocks, first = ("input_blocks", first + 1) if down else ("output_blocks", first)
            if kind == "resnets":
                yield f"{blocks}.{first}.0.{_renamed(inner, UNET_RESNET)}", tensor
            elif kind == "attentions":
                yield f"{blocks}.{first}.1.{inner}", tensor
            elif kind == "downsamplers":
                yield f"input_blocks.{each * int(level) + each}.0.op.{inner[5:]}", tensor
            else:
                after = 2 if hasattr(unet.up_blocks[int(level)], "attentions") else 1
                yield f"output_blocks.{each * int(level) + each - 1}.{after}.{inner}", tensor
        else:
            yield _renamed(key, UNET_ENDS), tensor


def _open_clip(text: CLIPTextModelWithProjection) -> Iterator[tuple[str, Tensor]]:
    """OpenCLIP's names: query, key and value in one matrix, the projection the other way round."""
    state = text.state_dict()
    for key, tensor in state.items():
        key = key.removeprefix("text_model.")
        if key == "text_projection.weight":
            yield "text_projection", tensor.T
        elif key.startswith("encoder.layers."):
            number, rest = key.removeprefix("encoder.layers.").split(".", 1)
            place = f"transformer.resblocks.{number}"
            if rest.startswith("self_attn.q_proj."):
                kind = rest.rsplit(".", 1)[1]
                three = [
                    state[f"text_model.encoder.layers.{number}.self_attn.{x}_proj.{kind}"]
                    for x in "qkv"
                ]
                yield f"{place}.attn.in_proj_{kind}", torch.cat(three)
            elif not rest.startswith(("self_attn.k_proj.", "self_attn.v_proj.")):
                yield f"{place}.{_renamed(rest, OPEN_CLIP_LAYER)}", tensor
        elif "position_ids" not in key:
            yield OPEN_CLIP_ENDS.get(key) or _renamed(key, OPEN_CLIP_ENDS), tensor


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
                yield (f"{half}.mid.attn_1.{inner}", tensor[:, :, None, None] if matrix else tensor)
        else:
            yield f"{half}.{_renamed(f'{part}.{rest}', {'conv_norm_out': 'norm_out'})}", tensor
