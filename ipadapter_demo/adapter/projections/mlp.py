"""The full variant: an image token for every state of the encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from torch import Tensor, nn

from ipadapter_demo.adapter.projections.base import PatchProjection
from ipadapter_demo.adapter.shapes import Shapes

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig


class MLPProjection(PatchProjection):
    """Each state, of the class and of every patch, becomes a token through the same two layers.

    (B, sequence, embed_dim) -> (B, sequence, cross_dim): 257 tokens of ViT-H/14 at 224 pixels, a
    class and 16 x 16 patches. `MLPProjModel` in
    https://github.com/tencent-ailab/IP-Adapter/blob/62e4af9/ip_adapter/ip_adapter.py
    """

    variant = "full"
    title = "a full"
    num_tokens = None

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

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Self | None:
        if "image_proj.proj.3.weight" not in shapes:
            return None
        _, embed_dim = shapes.of("image_proj.proj.0.weight", 2)
        (cross_dim,) = shapes.of("image_proj.proj.3.weight", 1)
        return cls(embed_dim, cross_dim)

    @classmethod
    def for_encoder(
        cls, config: CLIPVisionConfig, cross_dim: int, tokens: int | None = None
    ) -> Self:
        return cls(config.hidden_size, cross_dim)

    def tokens_of(self, config: CLIPVisionConfig) -> int:
        return self.shape_of(config)[0]
