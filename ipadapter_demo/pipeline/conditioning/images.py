"""References as image prompts: what the image encoder reads of them, and the branches they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.adapter import AttentionRecorder, ImageAdapter, ImagePrompt, KeyValueCache
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import centre_crop, fit_square, mask_from_image, resize_image
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.layers import layer_factors
from ipadapter_demo.pipeline.cache import ContentCache, digest
from ipadapter_demo.pipeline.conditions import TimedPrompt, ever_active
from ipadapter_demo.pipeline.inpainting.background import split_by_mask
from ipadapter_demo.pipeline.sizes import Size
from ipadapter_demo.pipeline.step_count import steps_taken
from ipadapter_demo.request import Combine, Fit, GenerateRequest, Reference


@dataclass(frozen=True, slots=True, eq=False)
class ActiveAdapter:
    """The adapter that reads a request's references, and its scale in each layer: in the half that
    a reference is for, and in the other, where some presets put it."""

    name: str
    adapter: ImageAdapter
    adapter_index: int  # among the attached adapters
    layer_scales: tuple[float, ...] | None
    opposite_scales: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ReadTokens:
    """Of references that share a softmax. Requests with the same references share one of these,
    and so K' and V'."""

    tokens: Tensor  # (1, n, cross_dim)
    weights: Tensor | None  # (n,)
    kv_cache: KeyValueCache = field(default_factory=dict)


class ReferenceEncoder:
    """References, one at a time, through one model's image encoder and adapters."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model
        self.cache = ContentCache(64)
        self._tokens_cache = ContentCache(8)  # with K' and V' of every layer: up to 6 MB each

    def encoder_view(self, reference: Reference) -> Image.Image:
        """The square picture that the image encoder reads of a reference, before normalisation."""
        return self._square(reference.image, reference.fit)

    def image_embed(self, image: Image.Image) -> Tensor:
        """The unit embedding (1, K) of the centre of a picture, in float32."""
        pixels = self.clip_pixels(self._square(image, "crop"))
        embed = self._model.image_encoder(pixels).image_embeds.float().cpu()
        return torch.nn.functional.normalize(embed, dim=-1)

    def prompts(
        self, request: GenerateRequest, size: Size, guided: bool, record_attention: bool
    ) -> tuple[TimedPrompt, ...]:
        """References without a mask share one softmax; a masked one has its own region and branch,
        and so have those with a window or an image of their own, and the background of a mask.

        The unconditional half has the same branches with the empty picture in every place, or with
        the negative references instead.
        """
        if not (self._model.adapters or request.references):
            return ()  # a base with a structure network in training
        active = self._active_adapter(request)
        if request.image_scale == 0.0:
            return ()
        followed, around = split_by_mask(
            request, has_inpaint_adapter=self._model.inpaint_adapter is not None
        )
        negative = [r for r in request.references if r.negative and r.weight > 0]
        first = request.count if guided else 0
        prompts = self._branches(followed, request, first, size, active)
        if record_attention:
            each = active.adapter.tokens_a_picture(self._model.image_encoder)
            prompts = [
                replace(
                    timed,
                    prompt=replace(
                        timed.prompt,
                        recorder=AttentionRecorder(timed.prompt.tokens.shape[1] // each, size),
                    ),
                )
                for timed in prompts
            ]
        prompts += self._branches(around, request, first, size, active)
        if guided:
            against = negative or followed + around
            prompts += self._branches(against, request, 0, size, active, empty=not negative)
            if active.opposite_scales is not None:
                opposite = replace(active, layer_scales=active.opposite_scales)
                prompts += self._branches(followed, request, 0, size, opposite)
        return tuple(prompts)

    def _active_adapter(self, request: GenerateRequest) -> ActiveAdapter:
        """Raises RequestError for an adapter or layers that the model does not have."""
        model, name = self._model, request.adapter
        if name is None:
            name = next(iter(model.adapters), "none")
        if name not in model.adapters:
            raise RequestError(
                f"adapter must be one of those of {model.entry.name} "
                f"({', '.join(model.adapters)}), got {name!r:.80}"
            )
        adapter = model.adapters[name]
        index = list(model.adapters).index(name)
        factors = layer_factors(request.image_layers, model.unet, model.entry.name)
        if factors is None or min(factors) >= 0:
            return ActiveAdapter(name, adapter, index, factors)
        own, opposite = (tuple(max(0.0, sign * f) for f in factors) for sign in (1, -1))
        return ActiveAdapter(name, adapter, index, own, opposite)

    def _branches(
        self,
        references: list[Reference],
        request: GenerateRequest,
        first: int,
        size: Size,
        active: ActiveAdapter,
        empty: bool = False,
    ) -> list[TimedPrompt]:
        """The branches of one half of a guided batch, which begins at row `first`. `empty`: with
        the empty picture in the place of every reference."""
        shared: dict[tuple[object, ...], list[Reference]] = {}
        for number, reference in enumerate(references):
            alone = number if reference.mask is not None else None
            key = (reference.window, reference.only_image, alone)
            shared.setdefault(key, []).append(reference)
        prompts, steps = [], steps_taken(request)
        for group in shared.values():
            if not ever_active(steps, request.image_window, group[0].window):
                continue
            one, weighted = group[0], [r.weight for r in group]
            scale, mask = request.image_scale, None
            if one.mask is not None:
                scale, weighted = scale * one.weight, [1.0]
                mask = mask_from_image(resize_image(one.mask, size)).to(self._model.device)
            read = self._tokens(group, weighted, request.combine, active, empty)
            prompts.append(
                TimedPrompt(
                    one.window,
                    ImagePrompt(
                        rows=_rows(one, first, request.count),
                        tokens=read.tokens,
                        scale=scale,
                        token_weights=read.weights,
                        mask=mask,
                        layer_scales=active.layer_scales,
                        adapter_index=active.adapter_index,
                    ).sharing(read.kv_cache),
                )
            )
        return prompts

    def _tokens(
        self,
        references: list[Reference],
        weights: list[float],
        combine: Combine,
        active: ActiveAdapter,
        empty: bool,
    ) -> ReadTokens:
        """The tokens of references that share a softmax, weighted; or of as many empty pictures."""
        averaged = combine == "average" and len(references) > 1

        def read() -> ReadTokens:
            embeds = [
                self._empty_embeds(active) if empty else self._embeds(r, active) for r in references
            ]
            share = torch.tensor(weights)
            if averaged:
                shares = (share / share.sum()).tolist()
                embeds = [sum(part * e for part, e in zip(shares, embeds, strict=True))]
                share = torch.ones(1)
            tokens = torch.cat([active.adapter.tokens_from_embeds(e) for e in embeds], dim=1)
            if bool((share == 1.0).all()):
                return ReadTokens(tokens, None)
            return ReadTokens(tokens, share.repeat_interleave(tokens.shape[1] // len(share)))

        seen = tuple("empty" if empty else (digest(r.image), r.fit) for r in references)
        return self._tokens_cache.get((active.name, seen, tuple(weights), averaged), read)

    def _embeds(self, reference: Reference, active: ActiveAdapter) -> Tensor:
        """The embeds that the adapter reads of a reference, a batch of one."""

        def encode() -> Tensor:
            pixels = self.clip_pixels(self.encoder_view(reference))
            return active.adapter.embeds_from_clip_pixels(pixels, self._model.image_encoder)

        key = (active.adapter.variant, digest(reference.image), reference.fit)
        return self.cache.get(key, encode)

    def _empty_embeds(self, active: ActiveAdapter) -> Tensor:
        def encode() -> Tensor:
            return active.adapter.empty_embeds(1, self._model.image_encoder)

        return self.cache.get((active.name, "empty"), encode)

    def _square(self, image: Image.Image, fit: Fit) -> Image.Image:
        """The fit "crop" is what the model's image processor does, which may leave out a border."""
        size, processor = self._model.image_encoder.config.image_size, self._model.image_processor
        if fit != "crop":
            return fit_square(image, size, fit)
        shortest = processor.size.shortest_edge or size
        return centre_crop(image, shortest, size, processor.resample)

    def clip_pixels(self, view: Image.Image) -> Tensor:
        """(1, 3, S, S), normalised as the encoder was trained, with CLIPImageProcessor's own
        rounding: double precision up to the factor, single from there on."""
        processor = self._model.image_processor
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1)
            for values in (processor.image_mean, processor.image_std)
        )
        levels = torch.from_numpy(np.array(view)).permute(2, 0, 1)[None].double()
        pixels = ((levels * processor.rescale_factor).float() - mean) / std
        return pixels.to(self._model.device, self._model.dtype)


def _rows(reference: Reference, first: int, count: int) -> slice:
    """The rows of one half of a guided batch that a reference acts on."""
    if reference.only_image is None:
        return slice(first, first + count)
    return slice(first + reference.only_image, first + reference.only_image + 1)


def attention_maps(
    prompts: Sequence[TimedPrompt], count: int
) -> tuple[tuple[Image.Image, ...], ...]:
    """For each image how much every recorded reference acted where, branch by branch, as "L"
    pictures; nothing where nothing was recorded."""
    found: list[list[Image.Image]] = [[] for _ in range(count)]
    for timed in prompts:
        recorder, rows = timed.prompt.recorder, timed.prompt.rows
        if recorder is not None and not recorder.is_empty:
            for row, maps in enumerate(recorder.maps(), rows.start % count):
                found[row] += [Image.fromarray((m * 255).round().byte().numpy()) for m in maps]
    return tuple(map(tuple, found)) if any(found) else ()
