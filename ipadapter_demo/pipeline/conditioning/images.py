"""References as image prompts: what the image encoder reads of them, and the branches they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.adapter import AttentionRecorder, ImagePrompt, KeyValueCache
from ipadapter_demo.adapter.projections import LinearProjection
from ipadapter_demo.embeds import FACE, ImageEmbeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import mask_from_image, resize_image
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.text import TextStates
from ipadapter_demo.pipeline.cache import ContentCache
from ipadapter_demo.pipeline.conditioning.active import ActiveAdapter, active_adapter
from ipadapter_demo.pipeline.conditioning.encoder_input import EncoderInput, content_of
from ipadapter_demo.pipeline.conditioning.faces import FaceReader
from ipadapter_demo.pipeline.conditioning.given_embeds import embeds_from_tensor, tensor_of
from ipadapter_demo.pipeline.conditions import TimedPrompt, ever_active
from ipadapter_demo.pipeline.events import AttentionTiles
from ipadapter_demo.pipeline.inpainting.background import split_by_mask
from ipadapter_demo.pipeline.sizes import Size
from ipadapter_demo.pipeline.step_count import steps_taken
from ipadapter_demo.request import Combine, GenerateRequest, Reference


@dataclass(frozen=True, slots=True, eq=False)
class ReadTokens:
    """Of references that share a softmax. Requests with the same references share one of these,
    and so K' and V'."""

    tokens: Tensor  # (1, n, cross_dim)
    counts: tuple[int, ...]  # of each reference, in their order; of their mean, where that is read
    weights: Tensor | None  # (n,)
    kv_cache: KeyValueCache = field(default_factory=dict)


class ReferenceEncoder:
    """References, one at a time, through one model's image encoder and adapters."""

    def __init__(self, model: BaseModel) -> None:
        self._model = model
        self.cache = ContentCache(64)
        self._tokens_cache = ContentCache(8)  # with K' and V' of every layer: up to 6 MB each
        self.input = EncoderInput(model)
        self.faces = FaceReader(model, self.input)

    def image_embed(self, image: Image.Image) -> Tensor:
        """The unit embedding (1, K) of the centre of a picture, in float32."""
        encoder, read = self._model.image_encoder, LinearProjection

        def encode() -> Tensor:
            pixels = self.input.clip_pixels(self.input.square(image, "crop"))
            return read.embeds_from_clip_pixels(pixels, encoder)

        # under the key that a base adapter's embeds have, so that it is encoded once for both
        key = read.variant, id(encoder), content_of(Reference(image=image))
        return torch.nn.functional.normalize(self.cache.get(key, encode).float().cpu(), dim=-1)

    def unknown(self, request: GenerateRequest) -> tuple[int, ...]:
        """Numbers, from 1, of the references that are unlike all that the model was trained on."""
        known = self._model.known
        if known is None or request.image_scale == 0.0:
            return ()
        return tuple(
            number
            for number, r in enumerate(request.references, 1)
            if r.weight > 0 and r.image is not None and known.is_far(self.image_embed(r.image))
        )

    def embeds_of(self, reference: Reference, adapter: str | None) -> ImageEmbeds:
        """To be used in the place of the reference's picture. Raises RequestError."""
        active = active_adapter(self._model, GenerateRequest(adapter=adapter), reference)
        if active.adapter.variant == FACE:
            return self.faces.saved(reference)
        values = self._embeds(reference, active)
        return embeds_from_tensor(values, active.name, self._model, reference.fit)

    def prompts(
        self,
        request: GenerateRequest,
        size: Size,
        unconditional: TextStates | None,
        record_attention: bool,
    ) -> tuple[TimedPrompt, ...]:
        """References without a mask share one softmax, inside that of inpainting too; a masked one
        has its own region and branch, and so have those with a window or an image of their own, and
        the background of a mask.

        The unconditional half, where there is guidance and so text for it, has the same branches
        with the empty picture in every place, or, of an adapter that reads negative references,
        with these instead.
        """
        guided = unconditional is not None
        if not (self._model.adapters or request.references):
            return ()  # a base with a structure network in training
        used = [active_adapter(self._model, request, r) for r in (None, *request.references)]
        if request.image_scale == 0.0:
            return ()
        followed, around = split_by_mask(
            request, has_inpaint_adapter=self._model.inpaint_adapter is not None
        )
        if around and used[0].adapter.reads_faces:
            raise RequestError(
                "inpaint.background_weight must be 0 with a FaceID adapter, which reads faces and "
                f"no backgrounds, got {around[0].weight:g}"
            )
        negative = [r for r in request.references if r.negative and r.weight > 0]
        first = request.count if guided else 0
        prompts = self._branches(followed, request, first, size, record=record_attention)
        prompts += self._branches(around, request, first, size)
        if guided:
            for name in dict.fromkeys(active.name for active in used):
                mine = self._of_adapter(name, negative, request)
                against = mine or self._of_adapter(name, followed + around, request)
                nothing = None if mine else unconditional
                prompts += self._branches(against, request, 0, size, empty=nothing)
            prompts += self._branches(followed, request, 0, size, opposite=True)
        return tuple(prompts)

    def _of_adapter(
        self, name: str, references: list[Reference], request: GenerateRequest
    ) -> list[Reference]:
        """Those that the adapter of this name reads."""
        return [r for r in references if active_adapter(self._model, request, r).name == name]

    def _branches(
        self,
        references: list[Reference],
        request: GenerateRequest,
        first: int,
        size: Size,
        empty: TextStates | None = None,
        record: bool = False,
        opposite: bool = False,
    ) -> list[TimedPrompt]:
        """The branches of one half of a guided batch, which begins at row `first`. `empty`: with
        the empty picture in the place of every reference, or the last tokens of this text where
        tokens join the text's, as T2I-Adapter's authors do. `record`: with attention maps.
        `opposite`: of those alone that some layers put into this half."""
        shared: dict[tuple[object, ...], list[Reference]] = {}
        own = {id(r.mask) for r in request.references if r.mask is not None}
        for number, reference in enumerate(references):
            region: int | bytes | None = None
            if reference.mask is not None:
                region = number if id(reference.mask) in own else reference.mask.tobytes()
            name = active_adapter(self._model, request, reference).name
            layers = reference.layers or request.image_layers
            key = (reference.window, reference.only_image, region, name, layers)
            shared.setdefault(key, []).append(reference)
        prompts, steps = [], steps_taken(request)
        text, taken = torch.empty(0) if empty is None else empty.states, 0
        for group in shared.values():
            if not ever_active(steps, request.image_window, group[0].window):
                continue
            one, weighted = group[0], [r.weight for r in group]
            active = active_adapter(self._model, request, one)
            layer_scales = active.opposite_scales if opposite else active.layer_scales
            if opposite and layer_scales is None:
                continue
            scale, mask = request.image_scale, None
            if one.mask is not None:
                if len(group) == 1:
                    scale, weighted = scale * one.weight, [1.0]
                mask = mask_from_image(resize_image(one.mask, size)).to(self._model.device)
            joins = active.adapter.joins_text
            read = self._tokens(
                group, weighted, request.combine, active, empty is not None and not joins
            )
            if empty is not None and joins:
                text, count = text[:, : text.shape[1] - taken], read.tokens.shape[1]
                if not text.shape[1]:
                    continue
                read, taken = ReadTokens(text[:, -count:], read.counts, None), count
                scale = 1.0
                layer_scales = layer_scales and tuple(float(s > 0) for s in layer_scales)
            prompt = ImagePrompt(
                rows=_rows(one, first, request.count),
                tokens=read.tokens,
                scale=scale,
                token_weights=read.weights,
                mask=mask,
                layer_scales=layer_scales,
                adapter_index=active.adapter_index,
                joins_text=joins,
                recorder=AttentionRecorder(read.counts, size) if record else None,
            )
            if not joins:  # a LoRA of another request changes what the UNet's own K makes of tokens
                prompt = prompt.sharing(read.kv_cache)
            prompts.append(TimedPrompt(one.window, prompt))
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
            embeds = [self._embeds(r, active, empty) for r in references]
            if combine == "average":
                embeds = [e.mean(0, keepdim=True) if len(e) > 1 else e for e in embeds]
            share = torch.tensor(weights)
            if averaged:
                shares = (share / share.sum()).tolist()
                embeds = [sum(part * e for part, e in zip(shares, embeds, strict=True))]
                share = torch.ones(1)
            each = [active.adapter.tokens_from_embeds(e).flatten(0, 1)[None] for e in embeds]
            tokens, counts = torch.cat(each, dim=1), tuple(one.shape[1] for one in each)
            if bool((share == 1.0).all()):
                return ReadTokens(tokens, counts, None)
            return ReadTokens(tokens, counts, share.repeat_interleave(torch.tensor(counts)))

        seen = tuple(("empty", r.squares) if empty else content_of(r) for r in references)
        return self._tokens_cache.get((active.name, seen, tuple(weights), combine), read)

    def _embeds(self, reference: Reference, active: ActiveAdapter, empty: bool = False) -> Tensor:
        """The embeds that the adapter reads of a reference, (squares, width) or (squares, states,
        width); or of as many empty pictures. Raises RequestError for given ones of another kind."""
        if empty:
            nothing = self._empty_embeds(active)
            return nothing.expand(reference.squares, *nothing.shape[1:])
        encoder, adapter = self._model.encoder_of(active.name), active.adapter
        if reference.embeds is not None and not adapter.reads_faces:
            return tensor_of(reference.embeds, active.name, self._model)

        def encode() -> Tensor:
            if adapter.reads_faces:
                return self.faces.embeds(reference, active.name, adapter)
            pixels = self.input.pixels(reference)
            return torch.cat([adapter.embeds_from_clip_pixels(one, encoder) for one in pixels])

        return self.cache.get((adapter.variant, id(encoder), content_of(reference)), encode)

    def _empty_embeds(self, active: ActiveAdapter) -> Tensor:
        def encode() -> Tensor:
            return active.adapter.empty_embeds(1, self._model.encoder_of(active.name))

        return self.cache.get((active.name, "empty"), encode)


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


def attention_tiles(
    prompts: Sequence[TimedPrompt], count: int
) -> tuple[tuple[AttentionTiles, ...], ...]:
    """The same of every layer and step."""
    found: list[list[AttentionTiles]] = [[] for _ in range(count)]
    for timed in prompts:
        recorder, rows = timed.prompt.recorder, timed.prompt.rows
        if recorder is not None and not recorder.is_empty:
            tiles, layers, steps = recorder.tiles()
            for row, one in enumerate(tiles, rows.start % count):
                found[row] += [
                    AttentionTiles(Image.fromarray(t.numpy()), layers, steps) for t in one
                ]
    return tuple(map(tuple, found)) if any(found) else ()
