"""The linear variant, which files and pages call "base"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from torch import Tensor, nn

from ipadapter_demo.adapter.projections.base import EmbeddingProjection
from ipadapter_demo.adapter.shapes import Shapes

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig


class LinearProjection(EmbeddingProjection):
    """One global embedding makes a few tokens (arXiv 2308.06721, section 3.2.1).

    (B, embed_dim) -> (B, tokens, cross_dim). The LayerNorm's bias is why a zero embedding does
    not make zero tokens: for an empty image prompt the projection still has to run.
    """

    variant = "linear"
    title = "a base"

    def __init__(self, embed_dim: int, cross_dim: int, tokens: int = 4) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.cross_dim = cross_dim
        self.num_tokens = tokens
        self.proj = nn.Linear(embed_dim, tokens * cross_dim)
        self.norm = nn.LayerNorm(cross_dim)

    def forward(self, image_embeds: Tensor) -> Tensor:
        return self.norm(self.proj(image_embeds).unflatten(1, (-1, self.cross_dim)))

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Self | None:
        if "image_proj.proj.weight" not in shapes:
            return None
        rows, embed_dim = shapes.of("image_proj.proj.weight", 2)
        (cross_dim,) = shapes.of("image_proj.norm.weight", 1)
        if rows % cross_dim:
            raise shapes.error(
                f"image_proj.proj.weight has {rows} rows, "
                f"which is no multiple of the token width {cross_dim}"
            )
        return cls(embed_dim, cross_dim, rows // cross_dim)

    @classmethod
    def for_encoder(
        cls, config: CLIPVisionConfig, cross_dim: int, tokens: int | None = None
    ) -> Self:
        return cls(config.projection_dim, cross_dim, tokens or 4)
