"""An adapter's K' and V' beside those of a UNet: set once, before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import nn

from ipadapter_demo.adapter.attention import DecoupledAttnProcessor, ImageKeyValue, ImagePrompt
from ipadapter_demo.errors import ModelError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention


class SupportsLayers(Protocol):
    """An adapter as `attach` needs it: with `ImageKeyValue` layers in the UNet's order, or with
    none, where its tokens join the text's."""

    layers: nn.ModuleList

    @property
    def joins_text(self) -> bool: ...

    @property
    def cross_dim(self) -> int: ...


def cross_attention_layers(unet: UNet2DConditionModel) -> dict[str, Attention]:
    """The layers that attend to text, by name, in `unet.attn_processors` order: down, up, mid.

    Layer i of the result is number 2 i + 1 in a published checkpoint.
    """
    suffix = ".processor"
    names = [name.removesuffix(suffix) for name in unet.attn_processors]
    layers = {n: cast("Attention", unet.get_submodule(n)) for n in names if n.endswith("attn2")}
    if not layers:
        raise ModelError(f"{type(unet).__name__} has no cross-attention layer to attach to")
    return layers


def layer_mismatch(unet: UNet2DConditionModel, adapter: SupportsLayers) -> str | None:
    """The reason for which K' and V' do not fit beside the UNet's K and V; None if they do."""
    layers = cross_attention_layers(unet)
    if adapter.joins_text:
        reads = next(iter(layers.values())).to_k.in_features
        if adapter.cross_dim == reads:
            return None
        return f"the adapter makes tokens {adapter.cross_dim} wide, the UNet reads {reads}"
    if len(layers) != len(adapter.layers):
        return (
            f"the adapter has {len(adapter.layers)} cross-attention layers, the UNet {len(layers)}"
        )
    for number, (name, attn), pair in zip(
        range(1, 2 * len(layers), 2), layers.items(), adapter.layers, strict=True
    ):
        assert isinstance(pair, ImageKeyValue)
        theirs = (attn.to_k.in_features, attn.to_k.out_features)
        ours = (pair.to_k_ip.in_features, pair.to_k_ip.out_features)
        if ours != theirs:
            return (
                f"layer {number} of the adapter maps {ours[0]} to {ours[1]} channels, "
                f"the UNet's {name} maps {theirs[0]} to {theirs[1]}"
            )
    return None


def attach(unet: UNet2DConditionModel, *adapters: SupportsLayers) -> None:
    """Give every cross-attention layer its K' and V', once and for all. Self-attention stays.

    Raises ModelError when an adapter belongs to another architecture.
    """
    for adapter in adapters:
        if mismatch := layer_mismatch(unet, adapter):
            raise ModelError(f"this image adapter does not fit this UNet: {mismatch}")
    for number, attn in enumerate(cross_attention_layers(unet).values()):
        own = [_pair(adapter, number) for adapter in adapters]
        attn.set_processor(DecoupledAttnProcessor(*own, number=number))


@torch.no_grad()
def fill_kv_cache(unet: UNet2DConditionModel, prompts: Sequence[ImagePrompt]) -> None:
    """Compute K' and V' of the prompts in every layer in which they act, once for all steps."""
    for attn in cross_attention_layers(unet).values():
        processor = attn.processor
        assert isinstance(processor, DecoupledAttnProcessor), "attach the adapters first"
        for prompt in prompts:
            processor.fill_kv_cache(attn, prompt)


@contextmanager
def attached(unet: UNet2DConditionModel, *adapters: SupportsLayers) -> Iterator[None]:
    """`attach` for the length of a `with` block; then the previous processors return."""
    before = [(attn, attn.processor) for attn in cross_attention_layers(unet).values()]
    attach(unet, *adapters)
    try:
        yield
    finally:
        for attn, processor in before:
            attn.set_processor(processor)


def is_attached(unet: UNet2DConditionModel, *adapters: SupportsLayers) -> bool:
    """True if image prompts reach every layer of just these adapters.

    Attention slicing or another attention back-end, when set after `attach`, replaces the
    processors, and diffusers then drops image prompts without a word.
    """
    processors = [attn.processor for attn in cross_attention_layers(unet).values()]
    numbers = {len(adapter.layers) for adapter in adapters if not adapter.joins_text}
    return numbers <= {len(processors)} and all(
        isinstance(processor, DecoupledAttnProcessor)
        and [*processor.pairs] == [_pair(adapter, i) for adapter in adapters]
        for i, processor in enumerate(processors)
    )


def _pair(adapter: SupportsLayers, number: int) -> ImageKeyValue | None:
    """K' and V' of a layer; None where the text's own serve."""
    return None if adapter.joins_text else cast(ImageKeyValue, adapter.layers[number])
