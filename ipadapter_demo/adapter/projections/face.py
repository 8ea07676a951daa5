"""The FaceID variants: they read the embedding of a face, as InsightFace makes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from ipadapter_demo.adapter.projections.base import PatchProjection, Projection
from ipadapter_demo.adapter.projections.resampler import (
    HEAD_DIM,
    ResamplerBlocks,
    sizes_of_blocks,
)
from ipadapter_demo.adapter.shapes import Shapes
from ipadapter_demo.embeds import FACE, FACE_WIDTH
from ipadapter_demo.errors import ModelError

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

_NOT_TRAINED = "a FaceID adapter is not trained here"


class FaceProjection(Projection):
    """The embedding of a face makes a few tokens: 4, or 16 of FaceID Portrait.

    (faces, 512) -> (faces, tokens, cross_dim). "No face" is an embedding of zeros. `MLPProjModel`
    in https://github.com/tencent-ailab/IP-Adapter/blob/62e4af9/ip_adapter/ip_adapter_faceid.py
    """

    variant = FACE
    title = "a FaceID"
    encoders: ClassVar[Mapping[int, str]] = {
        FACE_WIDTH: f"InsightFace (embeddings of faces, {FACE_WIDTH} wide)"
    }
    reads_faces = True

    def __init__(self, embed_dim: int, cross_dim: int, tokens: int = 4, *, inner: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.cross_dim = cross_dim
        self.num_tokens = tokens
        self.proj = _face_layers(embed_dim, inner, tokens * cross_dim)
        self.norm = nn.LayerNorm(cross_dim)

    def forward(self, face_embeds: Tensor) -> Tensor:
        return self.norm(self.proj(face_embeds).unflatten(-1, (-1, self.cross_dim)))

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Self | None:
        if not _is_face_id(shapes):
            return None
        (cross_dim,) = shapes.of("image_proj.norm.weight", 1)
        inner, embed_dim, tokens = _sizes(shapes, cross_dim)
        return cls(embed_dim, cross_dim, tokens, inner=inner)

    @classmethod
    def for_encoder(
        cls, config: CLIPVisionConfig, cross_dim: int, tokens: int | None = None
    ) -> Self:
        raise ModelError(_NOT_TRAINED)

    @staticmethod
    def width_of(config: CLIPVisionConfig) -> int:
        return FACE_WIDTH  # whatever image encoder is beside it: it reads none

    def shape_of(self, config: CLIPVisionConfig) -> tuple[int, ...]:
        return (FACE_WIDTH,)

    @staticmethod
    def embeds_from_clip_pixels(
        clip_pixels: Tensor, encoder: CLIPVisionModelWithProjection
    ) -> Tensor:
        raise ModelError("a FaceID adapter reads embeddings of faces, and no pixels")

    def empty_embeds(
        self, count: int, encoder: CLIPVisionModelWithProjection | None = None
    ) -> Tensor:
        return next(self.parameters()).new_zeros(count, self.embed_dim)


class FacePlusProjection(PatchProjection):
    """The tokens of a face, which then read the encoder's states of a picture of it.

    A face is one vector, its embedding and then all states, row after row: (faces, 512 + sequence *
    embed_dim) -> (faces, tokens, cross_dim). In the second version, PlusV2, the tokens of the
    embedding are added to the result. "No face" is an embedding of zeros with the states of zeroed
    pixels. `ProjPlusModel` in
    https://github.com/tencent-ailab/IP-Adapter/blob/62e4af9/ip_adapter/ip_adapter_faceid.py
    """

    variant = "face-plus"
    title = "a FaceID Plus"
    reads_faces = True

    def __init__(
        self,
        embed_dim: int,
        cross_dim: int,
        tokens: int = 4,
        *,
        inner: int,
        width: int,
        depth: int = 4,
        heads: int = 12,
        ff_mult: int = 4,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.cross_dim = cross_dim
        self.num_tokens = tokens
        self.shortcut = shortcut
        self.proj = _face_layers(FACE_WIDTH, inner, tokens * width)
        self.norm = nn.LayerNorm(width)
        self.perceiver_resampler = _FaceResampler(
            embed_dim, cross_dim, width, depth, heads, ff_mult
        )

    def forward(self, faces: Tensor) -> Tensor:
        embeds, states = faces[:, :FACE_WIDTH], faces[:, FACE_WIDTH:]
        width = self.norm.normalized_shape[0]
        tokens = self.norm(self.proj(embeds).unflatten(-1, (-1, width)))
        read = self.perceiver_resampler(tokens, states.unflatten(-1, (-1, self.embed_dim)))
        return tokens + read if self.shortcut else read

    @staticmethod
    def joined(face_embeds: Tensor, states: Tensor) -> Tensor:
        """face_embeds (faces, 512) and states (faces, sequence, embed_dim) as it reads them."""
        return torch.cat([face_embeds.to(states), states.flatten(1)], dim=1)

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> Self | None:
        prefix = "image_proj.perceiver_resampler."
        if f"{prefix}proj_in.weight" not in shapes:
            return None
        width, embed_dim = shapes.of(f"{prefix}proj_in.weight", 2)
        cross_dim, _ = shapes.of(f"{prefix}proj_out.weight", 2)
        sizes = sizes_of_blocks(shapes, prefix, width)
        inner, _, tokens = _sizes(shapes, width)
        return cls(
            embed_dim,
            cross_dim,
            tokens,
            inner=inner,
            width=width,
            shortcut=has_shortcut(shapes.file),
            **sizes,
        )

    @classmethod
    def for_encoder(
        cls, config: CLIPVisionConfig, cross_dim: int, tokens: int | None = None
    ) -> Self:
        raise ModelError(_NOT_TRAINED)

    def shape_of(self, config: CLIPVisionConfig) -> tuple[int, ...]:
        sequence, width = super().shape_of(config)
        return (FACE_WIDTH + sequence * width,)

    def empty_embeds(
        self, count: int, encoder: CLIPVisionModelWithProjection | None = None
    ) -> Tensor:
        states = super().empty_embeds(count, encoder)
        return self.joined(states.new_zeros(count, FACE_WIDTH), states)

    def lost_in_checkpoint(self, file: str) -> str | None:
        if has_shortcut(file) == self.shortcut:
            return None
        return (
            "the layout does not record the version, and readers look for plusv2 in the file's "
            f"name, which must {'have' if self.shortcut else 'not have'} it"
        )


class _FaceResampler(nn.Module):
    """Tokens (B, n, width) read states (B, sequence, embed_dim) -> (B, n, cross_dim)."""

    def __init__(
        self, embed_dim: int, cross_dim: int, width: int, depth: int, heads: int, ff_mult: int
    ) -> None:
        super().__init__()
        self.proj_in = nn.Linear(embed_dim, width)
        self.proj_out = nn.Linear(width, cross_dim)
        self.norm_out = nn.LayerNorm(cross_dim)
        self.layers = ResamplerBlocks(width, depth, heads, HEAD_DIM, ff_mult)

    def forward(self, tokens: Tensor, states: Tensor) -> Tensor:
        return self.norm_out(self.proj_out(self.layers(self.proj_in(states), tokens)))


def has_shortcut(file: str) -> bool:
    """True for the file of a PlusV2 adapter: its name alone tells it from a Plus one."""
    return "plusv2" in file.lower()


def _face_layers(embed_dim: int, inner: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(embed_dim, inner), nn.GELU(), nn.Linear(inner, out))


def _is_face_id(shapes: Shapes) -> bool:
    """Two layers and a norm of its own; in the full variant the norm is the fourth layer."""
    return "image_proj.proj.2.weight" in shapes and "image_proj.norm.weight" in shapes


def _sizes(shapes: Shapes, width: int) -> tuple[int, int, int]:
    """The inner width, the width of what is read, and the number of tokens of this width."""
    inner, embed_dim = shapes.of("image_proj.proj.0.weight", 2)
    rows, _ = shapes.of("image_proj.proj.2.weight", 2)
    if embed_dim != FACE_WIDTH:
        raise shapes.error(
            f"it reads embeddings {embed_dim} wide, where those of faces are {FACE_WIDTH} wide"
        )
    if rows % width:
        raise shapes.error(
            f"image_proj.proj.2.weight has {rows} rows, which is no multiple of the token width "
            f"{width}"
        )
    return inner, embed_dim, rows // width
