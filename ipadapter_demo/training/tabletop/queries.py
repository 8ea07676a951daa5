"""What the UNet's cross-attention asks of a text, and what two texts' states answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ipadapter_demo.adapter import cross_attention_layers
from ipadapter_demo.models.memory import has_bfloat16
from ipadapter_demo.tabletop.caption import RICH
from ipadapter_demo.training.noise import Diffusion
from ipadapter_demo.training.tabletop.latents import SCHEDULE, Frozen, captions, scaled_latents
from ipadapter_demo.training.tabletop.pictures import Pictures

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

QUERIES = 16  # of a picture in each layer
TOGETHER = 32  # pictures of one call of the UNet


@dataclass(frozen=True, slots=True)
class Queries:
    """Queries (N, n, width) of N pictures, by cross-attention layer."""

    layers: Sequence[Attention]
    recorded: Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.recorded[0])

    def difference(self, rows: Tensor, states: Tensor, wanted: Tensor) -> Tensor:
        """Mean square by which the layers' outputs for text states (B, tokens, dim) differ from
        those for the `wanted` ones, for the queries of B pictures; 1 is as much as those of any
        two pictures differ from their mean. Mean over layers."""
        found = []
        for layer, recorded in zip(self.layers, self.recorded, strict=True):
            query = recorded[rows].to(states.device).float()
            with torch.no_grad():
                target = _attended(layer, query, wanted)
            found.append(relative_error(_attended(layer, query, states), target))
        return torch.stack(found).mean()


def relative_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean square; 1 is as much as theirs (B, ...) differ from their mean."""
    spread = (theirs - theirs.mean(dim=0)).square().mean()
    return (ours - theirs).square().mean() / spread.clamp(min=1e-8)  # 0 if all are alike


def _attended(layer: Attention, query: Tensor, states: Tensor) -> Tensor:
    """(B, n, width) queries and (B, tokens, dim) -> the layer's output (B, n, width)."""

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)

    key, value = layer.to_k(states), layer.to_v(states)
    # written out: on a CPU the fused kernel's gradients take six times as long
    scores = heads(query.to(key)) @ heads(key).transpose(-1, -2) * layer.scale
    attended = scores.softmax(dim=-1).to(value) @ heads(value)
    return layer.to_out[0](attended.transpose(1, 2).flatten(2)).float()


@torch.no_grad()
def recorded_queries(
    unet: UNet2DConditionModel, frozen: Frozen, pictures: Pictures, cache: Path
) -> Queries:
    """Queries at some places of every picture, each noisy to a degree of its own, with its caption
    beside it. The pictures' latents are kept in `cache`."""
    device = str(unet.device)
    latents = scaled_latents(frozen.vae, pictures, cache)
    diffusion, generator = Diffusion(SCHEDULE, device), torch.Generator().manual_seed(0)
    layers = list(cross_attention_layers(unet).values())
    found: list[list[Tensor]] = [[] for _ in layers]

    def keep(number: int, queries: Tensor) -> None:
        places = torch.randperm(queries.shape[1], generator=generator)[:QUERIES]
        found[number].append(queries[:, places].half().cpu())

    hooks = [
        layer.to_q.register_forward_hook(lambda _, __, output, i=number: keep(i, output))
        for number, layer in enumerate(layers)
    ]
    for indices in torch.arange(len(latents)).split(TOGETHER):
        clean = latents[indices].float().to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        timesteps = diffusion.timesteps(torch.rand(len(indices), generator=generator), "uniform")
        noisy = diffusion.noisy(clean, noise, timesteps).to(memory_format=torch.channels_last)
        states = frozen.text_states(captions(pictures, indices, RICH, generator), device)
        with torch.autocast(unet.device.type, torch.bfloat16, enabled=has_bfloat16(device)):
            unet(noisy, timesteps, states)
    for hook in hooks:
        hook.remove()
    return Queries(layers, [torch.cat(queries) for queries in found])
