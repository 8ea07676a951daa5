"""Memory that image adapters add to SD 1.5 at full size: base, Plus and Plus-Face, 512 x 512.

    python -m benchmarks.adapters_memory --dtype bfloat16

All weights are made up, in the precision named and without files. In turn are measured: SD 1.5 with
its image encoder, the same with the base adapter, and with all three. Memory is what Linux says
that the process holds in RAM; a step is one call of the UNet, both halves of guidance in it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from benchmarks.full_size import SD15_UNET
from ipadapter_demo.adapter import (
    ImageAdapter,
    ImagePrompt,
    LinearProjection,
    Projection,
    Resampler,
    attach,
    cross_attention_layers,
    fill_kv_cache,
)
from ipadapter_demo.models.compiled import unet_output

Network = TypeVar("Network", bound=nn.Module)

CELLS, CROSS_DIM = 64, 768  # of 512 pixels a side
REFERENCES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    dtype = getattr(torch, parser.parse_args().dtype)
    vision, unet, others = _networks(dtype)
    widths = [attn.to_k.out_features for attn in cross_attention_layers(unet).values()]
    adapters: list[ImageAdapter] = []
    for added in ((), (_base,), (_plus, _plus)):  # Plus-Face has the sizes of Plus
        with torch.device("meta"):
            new = [ImageAdapter(make(), widths) for make in added]
        adapters += [_filled(adapter, dtype) for adapter in new]
        loaded = _settled()
        prompts = _prompts(adapters, vision)
        _forget_peak()
        _step(unet, adapters, prompts, dtype)
        print(
            json.dumps(
                {
                    "dtype": str(dtype).removeprefix("torch."),
                    "adapters": len(adapters),
                    "references": len(prompts) // 2,
                    "weights_mib": _mib(_bytes(unet, vision, *others, *adapters)),
                    "adapter_weights_mib": _mib(_bytes(*adapters)),
                    "loaded_mib": _mib(loaded),
                    "peak_of_a_step_mib": _mib(_held("VmHWM")),
                }
            ),
            flush=True,
        )


def _base() -> Projection:
    return LinearProjection(1024, CROSS_DIM)


def _plus() -> Projection:
    return Resampler(1280, CROSS_DIM)


def _networks(dtype: torch.dtype) -> tuple[Any, Any, list[nn.Module]]:
    """The image encoder ViT-H, SD 1.5's UNet, and what only takes room: text encoder and VAE."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    encoder = CLIPVisionConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=1024,
    )
    text = CLIPTextConfig(
        hidden_size=CROSS_DIM,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
    )
    with torch.device("meta"):
        vision, unet = CLIPVisionModelWithProjection(encoder), UNet2DConditionModel(**SD15_UNET)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        others = [CLIPTextModel(text), vae]
    positions = vision.vision_model.embeddings.position_ids.shape[-1]
    vision = _filled(vision, dtype)
    vision.vision_model.embeddings.position_ids.copy_(torch.arange(positions))
    return vision, _filled(unet, dtype), [_filled(other, dtype) for other in others]


def _filled(network: Network, dtype: torch.dtype) -> Network:
    """From the meta device, with memory that is written to, so that it is held."""
    network = network.to(dtype).to_empty(device="cpu").eval().requires_grad_(False)
    for tensor in network.state_dict().values():
        tensor.fill_(0.001)
    return network


def _prompts(adapters: list[ImageAdapter], vision: Any) -> list[tuple[int, slice, Tensor]]:
    """Of each reference and of the empty picture in its place: the number of its adapter, its row,
    and its tokens. References go to the adapters in turn."""
    if not adapters:
        return []
    prompts = []
    with torch.no_grad():
        for number in range(REFERENCES):
            index = number % len(adapters)
            adapter = adapters[index]
            pixels = torch.randn(1, 3, 224, 224).to(vision.dtype)
            seen = adapter.embeds_from_clip_pixels(pixels, vision)
            nothing = adapter.empty_embeds(1, vision)
            for row, embeds in enumerate((nothing, seen)):
                tokens = adapter.tokens_from_embeds(embeds)
                prompts.append((index, slice(row, row + 1), tokens))
    return prompts


@torch.no_grad()
def _step(
    unet: Any,
    adapters: list[ImageAdapter],
    read: list[tuple[int, slice, Tensor]],
    dtype: torch.dtype,
) -> None:
    attach(unet, *adapters)
    prompts = [
        ImagePrompt(rows=rows, tokens=tokens, scale=1.0, adapter_index=index)
        for index, rows, tokens in read
    ]
    fill_kv_cache(unet, prompts)
    latents = torch.randn(2, 4, CELLS, CELLS).to(dtype)
    text = torch.randn(2, 77, CROSS_DIM).to(dtype)
    unet_output(unet, latents, torch.tensor(500), prompts, encoder_hidden_states=text)


def _bytes(*networks: nn.Module) -> int:
    return sum(t.nbytes for network in networks for t in network.parameters())


def _settled() -> int:
    """Bytes held once what was given back has gone to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _held("VmRSS")


def _held(field: str) -> int:
    """VmRSS, the bytes that the process holds in RAM, or VmHWM, the most since `_forget_peak`."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"/proc/self/status says no {field}"
    return 1024 * int(found[1])


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _mib(count: int) -> float:
    return round(count / 2**20, 1)


if __name__ == "__main__":
    main()
