"""From an image encoder's output to image tokens of the text tokens' width.

Parameter names are those of the published checkpoints, so a state dict needs no translation.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Variant = Literal["base", "plus", "full"]


class LinearProjection(nn.Module):
    """Base variant (arXiv 2308.06721, section 3.2.1): one global embedding makes a few tokens.

    (B, embed_dim) -> (B, tokens, cross_dim). The LayerNorm's bias is why a zero embedding does
    not make zero tokens: for an empty image prompt the projection still has to run.
    """

    variant: Variant = "base"

    def __init__(self, embed_dim: int, cross_dim: int, tokens: int = 4) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.cross_dim = cross_dim
        self.num_tokens = tokens
        self.proj = nn.Linear(embed_dim, tokens * cross_dim)
        self.norm = nn.LayerNorm(cross_dim)

    def forward(self, image_embeds: Tensor) -> Tensor:
        tokens = self.proj(image_embeds).unflatten(-1, (self.num_tokens, self.cross_dim))
        return self.norm(tokens)


class Resampler(nn.Module):
    """Plus variant: learned queries read the encoder's patch tokens through a few blocks.

    (B, sequence, embed_dim) -> (B, tokens, cross_dim). The layout and the head size of 64 are
    those of https://github.com/tencent-ailab/IP-Adapter/blob/62e4af9/ip_adapter/resampler.py
    """

    variant: Variant = "plus"

    def __init__(
        self,
        embed_dim: int,
        cross_dim: int,
        tokens: int = 16,
        *,
        width: int = 768,
        depth: int = 4,
        heads: int = 12,
        head_dim: int = 64,
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
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [_LatentAttention(width, heads, head_dim), _feed_forward(width, ff_mult * width)]
            )
            for _ in range(depth)
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        patches = self.proj_in(hidden_states)
        latents = self.latents.expand(len(patches), -1, -1)
        for block in self.layers:
            assert isinstance(block, nn.ModuleList)
            attention, feed_forward = block
            latents = latents + attention(patches, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))


class MLPProjection(nn.Module):
    """Full variant: every state of the encoder becomes a token, each through the same two layers.

    (B, sequence, embed_dim) -> (B, sequence, cross_dim): 257 tokens of ViT-H/14 at 224 pixels, a
    class and 16 x 16 patches. `MLPProjModel` in
    https://github.com/tencent-ailab/IP-Adapter/blob/62e4af9/ip_adapter/ip_adapter.py
    """

    variant: Variant = "full"
    num_tokens = None  # as many as the encoder gives

    def __init__(self, embed_dim: int, cross_dim: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.cross_dim = cross_dim
        self.proj = nn.Sequential(
            nn.Linear(embed_dim, embed_dim),
            nn.GELU(),
            nn.Linear(embed_dim, cross_dim),
            nn.LayerNorm(cross_dim),
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.proj(hidden_states)


Projection = LinearProjection | Resampler | MLPProjection


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
