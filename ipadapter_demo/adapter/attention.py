"""Decoupled cross-attention (arXiv 2308.06721, section 3.2): the whole of IP-Adapter in a UNet.

    Z_new = Attention(Q, K, V) + λ · Attention(Q, K', V')

One processor per cross-attention layer adds the second term before the layer's own output
projection. The tokens of T2I-Adapter's style adapter join the text's in the first term: see
`joined_text`. The processor holds K' and V' of the attached adapters and nothing else: image
tokens, λ and masks arrive with each call, so one UNet serves any number of requests at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ipadapter_demo.adapter.attention_maps import AttentionRecorder, query_grid
from ipadapter_demo.adapter.joined_text import JoiningTokens, by_rows, joined_text

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


KeyValueCache = dict[int, tuple[Tensor, Tensor]]  # K' and V' by the number of the layer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImagePrompt:
    """One image branch for some rows of a batch, given to the UNet with the call:

        unet(..., cross_attention_kwargs={"ip_hidden_states": (prompt, ...)})

    Several prompts for the same rows add up. Of an adapter that `joins_text`, tokens times λ stand
    behind the text's, in one softmax with them. `token_weights` weigh tokens, and so the references
    they come from, inside one shared softmax. `mask` confines the branch to a region; it is as
    large as the output, or smaller by powers of two. `layer_scales` multiplies λ in each
    cross-attention layer, in `cross_attention_layers` order. A λ of exactly 0.0 costs nothing.
    `adapter_index` is the place, among the attached ones, of the adapter that made the tokens.

    `fill_kv_cache` computes K' and V' of every layer once for all steps of a sampler. A prompt has
    to be made anew once an adapter's weights have changed; training never fills the cache.
    """

    rows: slice
    tokens: Tensor  # (1 or rows, n, cross_dim)
    scale: float | Tensor  # λ, a number or (rows, 1, 1)
    token_weights: Tensor | None = None  # (n,)
    mask: Tensor | None = None  # (1 or rows, 1, height, width) in [0, 1]
    layer_scales: tuple[float, ...] | None = None
    adapter_index: int = 0
    joins_text: bool = False
    recorder: AttentionRecorder | None = None  # looks on; without one nothing is computed for it
    kv_cache: KeyValueCache = field(default_factory=dict, init=False)

    def sharing(self, kv_cache: KeyValueCache) -> ImagePrompt:
        """This prompt, with the K' and V' of others with the same tokens, token weights and
        adapter."""
        object.__setattr__(self, "kv_cache", kv_cache)
        return self

    def moved(self, by: int) -> ImagePrompt:
        """The same for rows that lie `by` further on, with all that was computed of it."""
        rows = slice(self.rows.start + by, self.rows.stop + by)
        return replace(self, rows=rows).sharing(self.kv_cache)

    def scale_in(self, layer: int) -> float | Tensor:
        """λ in one cross-attention layer."""
        return self.scale if self.layer_scales is None else self.scale * self.layer_scales[layer]

    def acts_in(self, layer: int) -> bool:
        """False if λ is exactly 0 there: then nothing is computed."""
        scale = self.scale_in(layer)
        return isinstance(scale, Tensor) or scale != 0.0


class ImageKeyValue(nn.Module):
    """K' and V' of one cross-attention layer: tokens (B, n, cross_dim) -> (B, n, width) each."""

    def __init__(
        self,
        cross_dim: int,
        width: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(cross_dim, width, bias=False, device=device, dtype=dtype)
        self.to_v_ip = nn.Linear(cross_dim, width, bias=False, device=device, dtype=dtype)


class DecoupledAttnProcessor:
    """Cross-attention to text as diffusers does it, plus any number of image branches.

    Not an `nn.Module`, so that the adapter's weights never count as the UNet's. The text branch
    repeats `AttnProcessor2_0` operation for operation: without an image the layer is bit for bit
    the base model's.
    """

    def __init__(self, *pairs: ImageKeyValue | None, number: int = 0) -> None:
        # this layer's K' and V', one pair for each attached adapter; None: those of the text
        self.pairs = pairs
        self.number = number  # of the layer, among all cross-attention layers

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        ip_hidden_states: Sequence[ImagePrompt] | Tensor = (),
    ) -> Tensor:
        """hidden_states (B, L, width) or (B, width, H, W) -> the same shape. Prompts may come by
        their number: see `numbered`.

        diffusers filters keyword arguments by this signature; `ip_hidden_states` is a name that
        its self-attention layers drop without a warning.
        """
        residual = hidden_states
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)

        spatial_shape = hidden_states.shape if hidden_states.ndim == 4 else None
        if spatial_shape is not None:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)

        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if encoder_hidden_states is None:
            encoder_hidden_states = hidden_states
        elif attn.norm_cross:
            encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)

        if attention_mask is not None:
            batch, length, _ = encoder_hidden_states.shape
            attention_mask = attn.prepare_attention_mask(attention_mask, length, batch)
            attention_mask = attention_mask.view(batch, attn.heads, -1, attention_mask.shape[-1])

        query = _split_heads(attn.to_q(hidden_states), attn.heads)
        key = _split_heads(attn.to_k(encoder_hidden_states), attn.heads)
        value = _split_heads(attn.to_v(encoder_hidden_states), attn.heads)
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)

        attended = _merge_heads(
            F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        ).to(query.dtype)
        if isinstance(ip_hidden_states, Tensor):  # in a compiled graph
            torch.ops.ipadapter_demo.add_images(
                attended, query, key, value, ip_hidden_states, self.number
            )
        elif acting := [prompt for prompt in ip_hidden_states if prompt.acts_in(self.number)]:
            if torch.is_grad_enabled():
                attended = attended.clone()  # autograd may have kept the original
            pairs = [p.kv_cache.get(self.number) or self._key_value(attn, p) for p in acting]
            add_images(attended, (query, key, value), acting, self.number, pairs)

        hidden_states = attn.to_out[0](attended)
        hidden_states = attn.to_out[1](hidden_states)  # dropout
        if spatial_shape is not None:
            hidden_states = hidden_states.transpose(-1, -2).reshape(spatial_shape)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        if attn.rescale_output_factor != 1.0:
            hidden_states = hidden_states / attn.rescale_output_factor
        return hidden_states

    def fill_kv_cache(self, attn: Attention, prompt: ImagePrompt) -> None:
        """Compute this layer's K' and V' of a prompt, unless they are there or its λ here is 0; or
        tokens join the text's and the UNet's own weights rest elsewhere, which its call brings."""
        at_hand = not prompt.joins_text or attn.to_k.weight.device == prompt.tokens.device
        if at_hand and prompt.acts_in(self.number) and self.number not in prompt.kv_cache:
            prompt.kv_cache[self.number] = self._key_value(attn, prompt)

    def _key_value(self, attn: Attention, prompt: ImagePrompt) -> tuple[Tensor, Tensor]:
        """K' and V', (1 or rows, heads, n, head_dim) each."""
        pair, tokens = self.pairs[prompt.adapter_index], prompt.tokens
        to_k, to_v = (attn.to_k, attn.to_v) if pair is None else (pair.to_k_ip, pair.to_v_ip)
        key, value = _split_heads(to_k(tokens), attn.heads), _split_heads(to_v(tokens), attn.heads)
        if prompt.token_weights is not None:
            weights = prompt.token_weights.to(value)[:, None]
            key, value = key * weights if prompt.joins_text else key, value * weights
        return key, value


def add_images(
    attended: Tensor,
    text: tuple[Tensor, Tensor, Tensor],
    prompts: Sequence[ImagePrompt],
    layer: int,
    pairs: Sequence[tuple[Tensor, Tensor]],
) -> None:
    """Add the image branches that act in a layer to attended (B, L, width), whose attention was of
    `text`: query, key and value, (B, heads, L or tokens, head_dim) each. `pairs` are K' and V'."""
    query, key, value = text
    joining = []
    for prompt, pair in zip(prompts, pairs, strict=True):
        if prompt.joins_text:
            one = _joining(prompt, layer, pair, query.shape[2])
            joining.append(one)
            if prompt.recorder is not None:
                grid = prompt.recorder.grid(query.shape[2])
                prompt.recorder.joined(query[one.rows], key[one.rows], one, grid, layer)
    for rows, acting in by_rows(joining):
        attended[rows] = _merge_heads(
            joined_text(query[rows], key[rows], value[rows], rows, acting)
        ).to(attended.dtype)
    for prompt, pair in zip(prompts, pairs, strict=True):
        if not prompt.joins_text:
            add_image(attended, query, prompt, layer, pair)


def _joining(
    prompt: ImagePrompt, layer: int, pair: tuple[Tensor, Tensor], queries: int
) -> JoiningTokens:
    scale = prompt.scale_in(layer)
    key, value = (
        one * (scale.to(one)[..., None] if isinstance(scale, Tensor) else scale) for one in pair
    )
    region = None if prompt.mask is None else _mask_per_query(prompt.mask, queries)
    return JoiningTokens(prompt.rows, key, value, region)


def add_image(
    attended: Tensor,
    query: Tensor,
    prompt: ImagePrompt,
    layer: int,
    key_value: tuple[Tensor, Tensor],
) -> None:
    """Add λ · mask · Attention(Q, K', V') to attended (B, L, width) on the rows of `prompt`.

    query is (B, heads, L, head_dim).
    """
    scale, rows = prompt.scale_in(layer), query[prompt.rows]
    assert len(rows), f"{prompt.rows} selects no row of a batch of {len(attended)}"

    key, value = key_value
    shape = (len(rows), -1, -1, -1)  # one reference may serve all the rows
    image = _merge_heads(
        F.scaled_dot_product_attention(rows, key.expand(shape), value.expand(shape))
    ).to(attended.dtype)

    if prompt.mask is not None:
        image = image * _mask_per_query(prompt.mask, image.shape[1]).to(image)
    # λ may come in float32 and from the CPU, whatever the layer works in
    image = (scale.to(image) if isinstance(scale, Tensor) else scale) * image
    if prompt.recorder is not None:
        grid = prompt.recorder.grid(image.shape[1])
        prompt.recorder(rows, key, attended[prompt.rows], image, grid, layer)
    attended[prompt.rows] += image


def _split_heads(states: Tensor, heads: int) -> Tensor:
    """(B, L, heads * head_dim) -> (B, heads, L, head_dim)"""
    batch, length, width = states.shape
    return states.view(batch, length, heads, width // heads).transpose(1, 2)


def _merge_heads(states: Tensor) -> Tensor:
    """(B, heads, L, head_dim) -> (B, L, heads * head_dim)"""
    batch, heads, length, head_dim = states.shape
    return states.transpose(1, 2).reshape(batch, length, heads * head_dim)


def _mask_per_query(mask: Tensor, queries: int) -> Tensor:
    """mask (B, 1, H, W) -> (B, queries, 1), bicubic as in diffusers' `IPAdapterMaskProcessor`."""
    grid = query_grid(mask.shape[-2], mask.shape[-1], queries)
    return F.interpolate(mask, size=grid, mode="bicubic").flatten(1).unsqueeze(-1)
