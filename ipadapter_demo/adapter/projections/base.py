"""The interface of a projection: the part of an image encoder's output that it reads, the embeds
that stand for "no image", and how a checkpoint is recognised as its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from ipadapter_demo.adapter.shapes import Shapes
from ipadapter_demo.errors import ModelError

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection


class Projection(nn.Module, ABC):
    """From an image encoder's output to image tokens: embeds -> (B, tokens, cross_dim).

    Parameter names are those of the published checkpoints, so a state dict needs no translation.
    """

    variant: ClassVar[str]
    title: ClassVar[str]  # for people, with its article
    encoders: ClassVar[Mapping[int, str]]  # the published encoders, by the width that is read
    reads_faces: ClassVar[bool] = False  # embeddings of faces, alone or beside the encoder's states
    joins_text: ClassVar[bool] = False  # its tokens stand behind the text's; there are no K', V'

    embed_dim: int  # channels of what it reads
    cross_dim: int  # channels of the tokens it makes
    num_tokens: int | None  # of a picture; None where there are as many as the encoder gives states

    @classmethod
    @abstractmethod
    def from_shapes(cls, shapes: Shapes) -> Self | None:
        """An empty projection of the sizes in a checkpoint; None for another variant's.

        Raises CheckpointError for sizes that contradict each other.
        """

    @classmethod
    @abstractmethod
    def for_encoder(
        cls, config: CLIPVisionConfig, cross_dim: int, tokens: int | None = None
    ) -> Self:
        """A new one to train, of the published sizes as far as the encoder lets it."""

    @staticmethod
    @abstractmethod
    def width_of(config: CLIPVisionConfig) -> int:
        """Channels of what this variant reads of such an encoder."""

    @abstractmethod
    def shape_of(self, config: CLIPVisionConfig) -> tuple[int, ...]:
        """The shape of the embeds that it reads of one picture that such an encoder saw."""

    @staticmethod
    @abstractmethod
    def embeds_from_clip_pixels(
        clip_pixels: Tensor, encoder: CLIPVisionModelWithProjection
    ) -> Tensor:
        """clip_pixels (B, 3, H, W), normalised for the encoder -> the embeds of this variant."""

    @abstractmethod
    def empty_embeds(
        self, count: int, encoder: CLIPVisionModelWithProjection | None = None
    ) -> Tensor:
        """The embeds that stand for "no image"; the projection still has to run on them."""

    def tokens_of(self, config: CLIPVisionConfig) -> int:
        """Number of tokens that it makes of one picture that such an encoder saw."""
        assert self.num_tokens is not None, "a projection without a number of its own says it here"
        return self.num_tokens

    def lost_in_checkpoint(self, file: str) -> str | None:
        """The reason for which a checkpoint of it, called `file`, could not be read again; None if
        it could."""
        return None


class EmbeddingProjection(Projection):
    """Reads the encoder's projected embedding (B, embed_dim), one for the whole picture.

    "No image" is an embedding of zeros, as in training; it needs no encoder.
    """

    encoders: ClassVar = {
        1024: "OpenCLIP ViT-H/14 (projected embeddings, 1024 wide)",
        1280: "OpenCLIP ViT-bigG/14 (projected embeddings, 1280 wide)",
    }

    @staticmethod
    def width_of(config: CLIPVisionConfig) -> int:
        return config.projection_dim

    def shape_of(self, config: CLIPVisionConfig) -> tuple[int, ...]:
        return (config.projection_dim,)

    @staticmethod
    def embeds_from_clip_pixels(
        clip_pixels: Tensor, encoder: CLIPVisionModelWithProjection
    ) -> Tensor:
        return encoder(clip_pixels).image_embeds

    def empty_embeds(
        self, count: int, encoder: CLIPVisionModelWithProjection | None = None
    ) -> Tensor:
        return next(self.parameters()).new_zeros(count, self.embed_dim)


class SequenceProjection(Projection):
    """Reads states of the encoder (B, sequence, embed_dim): a class, then the patches."""

    @staticmethod
    def width_of(config: CLIPVisionConfig) -> int:
        return config.hidden_size

    def shape_of(self, config: CLIPVisionConfig) -> tuple[int, ...]:
        # a class, then the patches
        return (config.image_size // config.patch_size) ** 2 + 1, config.hidden_size


class PatchProjection(SequenceProjection):
    """Reads the encoder's penultimate states.

    "No image" is what the encoder makes of zeroed normalised pixels (CLIP's mean colour), as in
    training. Zero states are something else, and zero embeddings must not stand here.
    """

    encoders: ClassVar = {1280: "OpenCLIP ViT-H/14 (penultimate hidden states, 1280 wide)"}

    @staticmethod
    def embeds_from_clip_pixels(
        clip_pixels: Tensor, encoder: CLIPVisionModelWithProjection
    ) -> Tensor:
        return encoder(clip_pixels, output_hidden_states=True).hidden_states[-2]

    def empty_embeds(
        self, count: int, encoder: CLIPVisionModelWithProjection | None = None
    ) -> Tensor:
        if encoder is None:
            raise ModelError(
                f"a {self.variant} adapter needs its image encoder to make an empty prompt"
            )
        size = encoder.config.image_size
        blank = torch.zeros(1, 3, size, size, device=encoder.device, dtype=encoder.dtype)
        return self.embeds_from_clip_pixels(blank, encoder).expand(count, -1, -1)
