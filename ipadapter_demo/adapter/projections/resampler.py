"""The Plus variant: a resampler of the encoder's patches."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipadapter_demo.adapter.projections.base import PatchProjection
from ipadapter_demo.adapter.shapes import Shapes

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig

HEAD_DIM = 64  # of every published Plus file; the tensors do not tell it
SDXL_WIDTH = 2048  # of SDXL's text tokens


class Resampler(PatchProjection):
    """Learned queries read the encoder's states through a few blocks of attention.

    (B, sequence, embed_dim) -> (B, tokens, cross_dim). The layout and the head size of 64 are
    those of https://github.com/tencent-ailab/IP-Adapter/blob/62e4af9/ip_adapter/resampler.py
    """

    variant = "plus"
    title = "a Plus"

    def __init__(
        self,
        embed_dim: int,
        cross_dim: int,
        tokens: int = 16,
        *,
        width: int = 768,
        depth: int = 4,
        heads: int = 12,
        head_dim: int = HEAD_DIM,
        ff_mult: int = 4,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.cross_dim = cross_dim
        self.num_tokens = tokens
        self.head_dim = head_dim
        self.latents = nn.Parameter(torch.randn(1, tokens, width) / width**0.5)
        self.proj_in = nn.Linear(embed_dim, width)
        self.proj_out = nn.Linear(width, cross_dim)
        self.norm_out = nn.LayerNorm(cross_dim)
        self.layers = ResamplerBlocks(width, depth, heads, head_dim, ff_mult)

    def forward(self, hidden_states: Tensor) -> Tensor:
        patches = self.proj_in(hidden_states)
        latents = self.layers(patches, self.latents.expand(len(patches), -1, -1))
        return self.norm_out(self.proj_out(latents))

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Self | None:
        if "image_proj.latents" not in shapes:
            return None
        _, tokens, width = shapes.of("image_proj.latents", 3)
        _, embed_dim = shapes.of("image_proj.proj_in.weight", 2)
        cross_dim, _ = shapes.of("image_proj.proj_out.weight", 2)
        sizes = sizes_of_blocks(shapes, "image_proj.", width)
        return cls(embed_dim, cross_dim, tokens, width=width, **sizes)

    @classmethod
    def for_encoder(
        cls, config: CLIPVisionConfig, cross_dim: int, tokens: int | None = None
    ) -> Self:
        """768 wide for SD 1.5 and 1280 for SDXL, but never wider than what it reads."""
        width = min(1280 if cross_dim == SDXL_WIDTH else cross_dim, config.hidden_size)
        heads = max(1, width // HEAD_DIM)
        return cls(config.hidden_size, cross_dim, tokens or 16, width=width, heads=heads)

    def lost_in_checkpoint(self, file: str) -> str | None:
        if self.head_dim == HEAD_DIM:
            return None
        return (
            f"the layout does not record the head size and readers take {HEAD_DIM}, "
            f"but this adapter has {self.head_dim}"
        )


class ResamplerBlocks(nn.ModuleList):
    """(attention of latents to patches, feed-forward), `depth` times."""

    def __init__(self, width: int, depth: int, heads: int, head_dim: int, ff_mult: int) -> None:
        super().__init__(
            nn.ModuleList(
                [_LatentAttention(width, heads, head_dim), _feed_forward(width, ff_mult * width)]
            )
            for _ in range(depth)
        )

    def forward(self, patches: Tensor, latents: Tensor) -> Tensor:
        """Of patches (B, m, width) and latents (B, n, width) -> (B, n, width)."""
        for block in self:
            assert isinstance(block, nn.ModuleList)
            attention, feed_forward = block
            latents = latents + attention(patches, latents)
            latents = latents + feed_forward(latents)
        return latents


def sizes_of_blocks(shapes: Shapes, prefix: str, width: int) -> dict[str, int]:
    """`depth`, `heads` and `ff_mult` of the blocks below a prefix. Raises CheckpointError."""
    inner, _ = shapes.of(f"{prefix}layers.0.0.to_q.weight", 2)
    ff_inner, _ = shapes.of(f"{prefix}layers.0.1.1.weight", 2)
    if inner % HEAD_DIM or ff_inner % width:
        raise shapes.error(
            f"attention {inner} and feed-forward {ff_inner} wide, which must be "
            f"multiples of the head size {HEAD_DIM} and of the width {width}"
        )
    return {
        "depth": len(shapes.numbers(rf"{re.escape(prefix)}layers\.(\d+)\.")),
        "heads": inner // HEAD_DIM,
        "ff_mult": ff_inner // width,
    }


class _LatentAttention(nn.Module):
    """Latents (B, n, width) attend to patches (B, m, width) and to themselves."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.norm1 = nn.LayerNorm(width)  # of the patches
        self.norm2 = nn.LayerNorm(width)  # of the latents
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)  # K, then V
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, patches: Tensor, latents: Tensor) -> Tensor:
        latents = self.norm2(latents)
        query = self.to_q(latents)
        key, value = self.to_kv(torch.cat([self.norm1(patches), latents], dim=1)).chunk(2, dim=-1)
        heads = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        attended = F.scaled_dot_product_attention(*heads)
        return self.to_out(attended.transpose(1, 2).flatten(2))


def _feed_forward(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, inner, bias=False),
        nn.GELU(),
        nn.Linear(inner, width, bias=False),
    )
