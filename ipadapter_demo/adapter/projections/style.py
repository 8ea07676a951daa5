"""T2I-Adapter's style adapter (arXiv 2302.08453): image tokens that are read as words."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from ipadapter_demo.adapter.projections.base import SequenceProjection
from ipadapter_demo.adapter.shapes import Shapes
from ipadapter_demo.errors import ModelError

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

HEADS = 8  # of the published file; the tensors do not tell it
_BLOCKS = "transformer_layes"  # as it is spelt in the published file


class StyleProjection(SequenceProjection):
    """Learnt tokens go through a small transformer behind the encoder's last states.

    (B, sequence, embed_dim) -> (B, tokens, cross_dim). They have no K' and V': they stand behind
    the text's own tokens. `StyleAdapter` in
    https://github.com/TencentARC/T2I-Adapter/blob/168f87f/ldm/modules/encoders/adapter.py
    """

    variant = "style"
    title = "T2I-Adapter's style"
    encoders: ClassVar = {1024: "CLIP ViT-L/14 (last hidden states, 1024 wide)"}
    joins_text = True

    def __init__(
        self, embed_dim: int, cross_dim: int, tokens: int = 8, *, depth: int = 3, inner: int
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.cross_dim = cross_dim
        self.num_tokens = tokens
        self.style_embedding = nn.Parameter(torch.randn(1, tokens, embed_dim) / embed_dim**0.5)
        self.ln_pre = nn.LayerNorm(embed_dim)
        blocks = nn.Sequential(*(_Block(embed_dim, inner) for _ in range(depth)))
        self.add_module(_BLOCKS, blocks)
        self.ln_post = nn.LayerNorm(embed_dim)
        self.proj = nn.Parameter(torch.randn(embed_dim, cross_dim) / embed_dim**0.5)

    def forward(self, hidden_states: Tensor) -> Tensor:
        learnt = self.style_embedding.expand(len(hidden_states), -1, -1)
        states = self.ln_pre(torch.cat([hidden_states, learnt], dim=1))
        states = self.get_submodule(_BLOCKS)(states)
        return self.ln_post(states[:, -self.style_embedding.shape[1] :]) @ self.proj

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Self | None:
        if "image_proj.style_embedding" not in shapes:
            return None
        _, tokens, embed_dim = shapes.of("image_proj.style_embedding", 3)
        _, cross_dim = shapes.of("image_proj.proj", 2)
        inner, _ = shapes.of(f"image_proj.{_BLOCKS}.0.mlp.c_fc.weight", 2)
        if embed_dim % HEADS:
            raise shapes.error(f"{embed_dim} channels wide, which is no multiple of {HEADS} heads")
        depth = len(shapes.numbers(rf"image_proj\.{_BLOCKS}\.(\d+)\."))
        return cls(embed_dim, cross_dim, tokens, depth=depth, inner=inner)

    @classmethod
    def for_encoder(
        cls, config: CLIPVisionConfig, cross_dim: int, tokens: int | None = None
    ) -> Self:
        raise ModelError("T2I-Adapter's style adapter is not trained here")

    @staticmethod
    def embeds_from_clip_pixels(
        clip_pixels: Tensor, encoder: CLIPVisionModelWithProjection
    ) -> Tensor:
        return encoder(clip_pixels).last_hidden_state

    def empty_embeds(
        self, count: int, encoder: CLIPVisionModelWithProjection | None = None
    ) -> Tensor:
        raise ModelError("T2I-Adapter's style adapter has the text's own tokens for no image")

    def lost_in_checkpoint(self, file: str) -> str | None:
        return "T2I-Adapter's style adapter has no place in the layout of IP-Adapter's files"


class _Block(nn.Module):
    """CLIP's residual block, (B, n, width) -> the same, under its first authors' names."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, inner), gelu=_QuickGELU(), c_proj=nn.Linear(inner, width)
            )
        )
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, states: Tensor) -> Tensor:
        normed = self.ln_1(states)
        states = states + self.attn(normed, normed, normed, need_weights=False)[0]
        return states + self.mlp(self.ln_2(states))


class _QuickGELU(nn.Module):
    def forward(self, states: Tensor) -> Tensor:
        return states * torch.sigmoid(1.702 * states)
