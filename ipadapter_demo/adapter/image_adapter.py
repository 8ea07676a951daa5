"""The trained part of IP-Adapter: a projection and one pair of K', V' per cross-attention layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ipadapter_demo.adapter.attach import cross_attention_layers
from ipadapter_demo.adapter.attention import ImageKeyValue
from ipadapter_demo.adapter.projections.base import PatchProjection, Projection
from ipadapter_demo.errors import ModelError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPVisionModelWithProjection


class ImageAdapter(nn.Module):
    """The content of an IP-Adapter checkpoint, independent of any UNet it is attached to.

    `layers[i]` belongs to the i-th cross-attention layer in `unet.attn_processors` order, of
    `layer_widths[i]` channels. Device and precision follow `projection`; on the meta device an
    adapter of any size costs nothing.
    """

    def __init__(self, projection: Projection, layer_widths: Sequence[int]) -> None:
        super().__init__()
        like = next(projection.parameters())
        self.projection = projection
        # of the UNet's own layers, by published names; merged where the model keeps its LoRAs
        self.lora: dict[str, Tensor] = {}
        self.layers = nn.ModuleList(
            ImageKeyValue(projection.cross_dim, width, device=like.device, dtype=like.dtype)
            for width in layer_widths
        )

    @classmethod
    def for_unet(cls, unet: UNet2DConditionModel, projection: Projection) -> ImageAdapter:
        """A new adapter to train, K' and V' copied from each layer's text K and V (section 3.2.2).

        Raises ModelError when the projection does not make tokens as wide as the text's.
        """
        text_layers = cross_attention_layers(unet)
        for name, attn in text_layers.items():
            if attn.to_k.in_features != projection.cross_dim:
                raise ModelError(
                    f"the projection makes tokens {projection.cross_dim} wide, "
                    f"the UNet's {name} reads {attn.to_k.in_features}"
                )
        adapter = cls(projection, [attn.to_k.out_features for attn in text_layers.values()])
        with torch.no_grad():
            for pair, attn in zip(adapter.layers, text_layers.values(), strict=True):
                assert isinstance(pair, ImageKeyValue)
                pair.to_k_ip.weight.copy_(attn.to_k.weight)
                pair.to_v_ip.weight.copy_(attn.to_v.weight)
        return adapter

    @property
    def variant(self) -> str:
        return self.projection.variant

    @property
    def num_tokens(self) -> int | None:
        """Tokens of a picture; None where there are as many as the encoder gives states."""
        return self.projection.num_tokens

    @property
    def reads_patches(self) -> bool:
        """True if it reads the encoder's penultimate states, not its projected embedding."""
        return isinstance(self.projection, PatchProjection)

    @property
    def reads_faces(self) -> bool:
        """True if it reads the embedding of a face, alone or beside the encoder's states."""
        return self.projection.reads_faces

    @property
    def joins_text(self) -> bool:
        """True if its tokens stand behind the text's, and it has no K' and V' of its own."""
        return self.projection.joins_text

    @property
    def cross_dim(self) -> int:
        return self.projection.cross_dim

    @property
    def encoder_width(self) -> int:
        """Channels of what the adapter reads from an image encoder; see `width_read_from`."""
        return self.projection.embed_dim

    @property
    def layer_widths(self) -> tuple[int, ...]:
        return tuple(_pair(layer).to_k_ip.out_features for layer in self.layers)

    def width_read_from(self, encoder: CLIPVisionModelWithProjection) -> int:
        """The width of what this adapter would read from `encoder`, to compare beforehand."""
        return self.projection.width_of(encoder.config)

    def shape_read_from(self, encoder: CLIPVisionModelWithProjection) -> tuple[int, ...]:
        """The shape of the embeds that this adapter reads of one picture that `encoder` saw."""
        return self.projection.shape_of(encoder.config)

    def tokens_a_picture(self, encoder: CLIPVisionModelWithProjection) -> int:
        """Number of tokens that this adapter makes of one picture that `encoder` saw."""
        return self.projection.tokens_of(encoder.config)

    def embeds_from_clip_pixels(
        self, clip_pixels: Tensor, encoder: CLIPVisionModelWithProjection
    ) -> Tensor:
        """clip_pixels (B, 3, H, W), normalised for the encoder -> the embeds it reads of them."""
        return self.projection.embeds_from_clip_pixels(clip_pixels, encoder)

    def empty_embeds(
        self, count: int, encoder: CLIPVisionModelWithProjection | None = None
    ) -> Tensor:
        """The embeds that stand for "no image" in the unconditional half of guidance. Each variant
        has its own; the projection still has to run on them."""
        return self.projection.empty_embeds(count, encoder)

    def tokens_from_embeds(self, image_embeds: Tensor) -> Tensor:
        """(B, encoder_width), (B, sequence, encoder_width) of patches, or faces as their projection
        reads them -> (B, n, cross_dim)."""
        weight = next(self.projection.parameters())
        return self.projection(image_embeds.to(weight.dtype))


def _pair(layer: nn.Module) -> ImageKeyValue:
    assert isinstance(layer, ImageKeyValue)
    return layer
