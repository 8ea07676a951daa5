"""From a request to what the sampler needs: text states, image prompts, read structure maps.

Rows of a guided batch are [unconditional..., conditional...], as everywhere in diffusers.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ipadapter_demo.adapter import AttentionRecorder, ImageAdapter, ImagePrompt
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import (
    PAD_COLOUR,
    centre_crop,
    fit_square,
    mask_from_image,
    pixels_from_images,
    resize_image,
)
from ipadapter_demo.models.annotators import annotate
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.layers import layer_factors
from ipadapter_demo.models.structure import ControlCondition, around_hole
from ipadapter_demo.models.text import TextStates
from ipadapter_demo.pipeline.inpainting.background import split_by_mask
from ipadapter_demo.pipeline.sizes import Size, inner_size, padded, reshaped, same_shape
from ipadapter_demo.request import Combine, Fit, GenerateRequest, Reference, Structure, Window

OF_COLOURS = ("palette", "shuffle")  # kinds of structure to which black is a colour like another


@dataclass(frozen=True, slots=True, eq=False)
class ActiveControl:
    condition: ControlCondition
    weight: float
    window: Window


@dataclass(frozen=True, slots=True, eq=False)
class TimedPrompt:
    """An image branch and the part of the steps in which its references act."""

    window: Window
    prompt: ImagePrompt


@dataclass(frozen=True, slots=True, eq=False)
class ActiveAdapter:
    """Which adapter reads a request's references, and how loud in each layer."""

    name: str
    adapter: ImageAdapter
    adapter_index: int  # among the attached adapters
    layer_scales: tuple[float, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class Conditions:
    """One request, read. Without guidance there is no unconditional half."""

    text_states: Tensor  # (rows, tokens, cross_dim)
    added: dict[str, Tensor] | None  # what SDXL's UNet and ControlNets want besides
    image_prompts: tuple[TimedPrompt, ...]
    image_window: Window
    structures: tuple[ActiveControl, ...]
    maps: tuple[Image.Image, ...]


class ContentCache:
    """The most recent results of a pure function, by content. Safe for many threads."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._lock = capacity, Lock()
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        value = compute()  # two threads may both compute it: equal results, no waiting
        with self._lock:
            self._entries[key] = value
            while len(self._entries) > self._capacity:
                self._entries.popitem(last=False)
        return value


class Conditioner:
    """Reads requests with one model. Every encoder runs on one input at a time and is cached, so
    what a request gets never depends on the requests around it."""

    def __init__(self, model: BaseModel, model_lock: Lock) -> None:
        self.model = model
        self._model_lock = model_lock  # models run one at a time
        self._text, self._images = ContentCache(64), ContentCache(64)
        self._maps, self._features = ContentCache(16), ContentCache(8)

    @torch.no_grad()
    def condition(
        self, request: GenerateRequest, size: Size, record_attention: bool = False
    ) -> Conditions:
        """`record_attention`: with an AttentionRecorder for each image prompt."""
        guided = request.guidance > 1.0
        texts = [self._text_states(request.negative_prompt, unconditional=True)] if guided else []
        texts.append(self._text_states(request.prompt))
        maps = tuple(self.structure_map(structure, size) for structure in request.structures)
        controls = [
            ActiveControl(self._control(structure.kind, drawn), structure.weight, structure.window)
            for structure, drawn in zip(request.structures, maps, strict=True)
        ]
        return Conditions(
            text_states=torch.cat([t.states.expand(request.count, -1, -1) for t in texts]),
            added=self._added(texts, request.count, size),
            image_prompts=self._image_prompts(request, size, guided, record_attention),
            image_window=request.image_window,
            structures=(*controls, *self._around_the_mask(request, size)),
            maps=maps,
        )

    def encoder_view(self, reference: Reference) -> Image.Image:
        """The square picture that the image encoder reads of a reference, before normalisation."""
        return self._square(reference.image, reference.fit)

    @torch.no_grad()
    def image_embeds(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit embeddings (B, K) of the centres of pictures, in float32."""
        encoder, found = self.model.image_encoder, []
        for image in images:
            pixels = self._clip_pixels(self._square(image, "crop"))
            with self._model_lock:
                found.append(encoder(pixels).image_embeds.float().cpu())
        return torch.nn.functional.normalize(torch.cat(found), dim=-1)

    def structure_map(self, structure: Structure, size: Size) -> Image.Image:
        """The map of a structure at the size of the output. Raises RequestError for a kind or an
        annotator that the model does not have."""
        known = self.model.entry.structures
        if structure.kind not in known:
            offered = ", ".join(known) or "none"
            raise RequestError(
                f"structure.kind must be one of those of {self.model.entry.name} ({offered}), "
                f"got {structure.kind!r}"
            )
        annotators = known[structure.kind].annotators
        if structure.annotator not in annotators:
            raise RequestError(
                f"structure.annotator for {structure.kind} must be one of "
                f"{', '.join(annotators)}, got {structure.annotator!r}"
            )
        key = (structure.annotator, structure.kind, digest(structure.image), structure.fit, size)
        return self._maps.get(key, lambda: self._drawn_map(structure, size))

    def _drawn_map(self, structure: Structure, size: Size) -> Image.Image:
        image, how, locate = structure.image, structure.resampling, self.model.locate
        if structure.fit != "pad" or same_shape(image.size, size):
            return annotate(structure.annotator, reshaped(image, size, structure.fit, how), locate)
        # padded afterwards: a detector would take the border for an edge
        inside = resize_image(image, inner_size(image.size, size), how)
        colour = PAD_COLOUR if structure.kind in OF_COLOURS else (0, 0, 0)
        return padded(annotate(structure.annotator, inside, locate), size, colour)

    def _control(self, kind: str, drawn: Image.Image) -> ControlCondition:
        def read() -> ControlCondition:
            with self._model_lock:
                return self.model.structures[kind].read((pixels_from_images([drawn]) + 1) / 2)

        return self._features.get((kind, digest(drawn)), read)

    def _around_the_mask(self, request: GenerateRequest, size: Size) -> tuple[ActiveControl, ...]:
        """What is left of a picture of which a part is replaced, for a model that has a network to
        read it."""
        given, net = request.inpaint, self.model.inpaint_adapter
        if given is None or net is None:
            return ()

        def read() -> ControlCondition:
            pixels = (pixels_from_images([resize_image(given.image, size)]) + 1) / 2
            hole = F.adaptive_max_pool2d(mask_from_image(given.mask), (size[1], size[0]))
            with self._model_lock:
                return net.read(around_hole(pixels, hole))

        key = ("inpaint", digest(given.image), digest(given.mask), size)
        return (ActiveControl(self._features.get(key, read), 1.0, (0.0, 1.0)),)

    def _text_states(self, prompt: str, unconditional: bool = False) -> TextStates:
        def encode() -> TextStates:
            with self._model_lock:
                return self.model.text.encode(prompt, unconditional)

        return self._text.get((prompt, unconditional and not prompt), encode)

    def _added(
        self, texts: Sequence[TextStates], count: int, size: Size
    ) -> dict[str, Tensor] | None:
        """SDXL's size conditioning (arXiv 2307.01952, section 2.2): original size, crop and target
        size, for a picture that was never cropped."""
        if texts[0].pooled is None:
            return None
        pooled = [t.pooled.expand(count, -1) for t in texts if t.pooled is not None]
        sides = [float(size[1]), float(size[0])]
        times = torch.tensor([[*sides, 0.0, 0.0, *sides]]).expand(len(texts) * count, -1)
        return {"text_embeds": torch.cat(pooled), "time_ids": times.to(pooled[0])}

    def _image_prompts(
        self, request: GenerateRequest, size: Size, guided: bool, record_attention: bool
    ) -> tuple[TimedPrompt, ...]:
        """References without a mask share one softmax; a masked one has its own region and branch,
        and so have those with a window or an image of their own, and the background of a mask.

        The unconditional half has the same branches with the empty picture in every place, or with
        the negative references instead.
        """
        if not (self.model.adapters or request.references):
            return ()  # a base with a structure network in training
        active = self._active_adapter(request)
        if request.image_scale == 0.0:
            return ()
        followed, around = split_by_mask(
            request, has_inpaint_adapter=self.model.inpaint_adapter is not None
        )
        negative = [r for r in request.references if r.negative and r.weight > 0]
        first = request.count if guided else 0
        prompts = self._branches(followed, request, first, size, active, self._embeds)
        if record_attention:
            each = active.adapter.tokens_a_picture(self.model.image_encoder)
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
        prompts += self._branches(around, request, first, size, active, self._embeds)
        if guided:
            against, embeds = (
                (negative, self._embeds) if negative else (followed + around, self._empty_embeds)
            )
            prompts += self._branches(against, request, 0, size, active, embeds)
        return tuple(prompts)

    def _active_adapter(self, request: GenerateRequest) -> ActiveAdapter:
        """Raises RequestError for an adapter or layers that the model does not have."""
        model, name = self.model, request.adapter
        if name is None:
            name = next(iter(model.adapters), "none")
        if name not in model.adapters:
            raise RequestError(
                f"adapter must be one of those of {model.entry.name} "
                f"({', '.join(model.adapters)}), got {name!r}"
            )
        adapter = model.adapters[name]
        layers = layer_factors(request.image_layers, model.unet, model.entry.name)
        return ActiveAdapter(name, adapter, list(model.adapters).index(name), layers)

    def _branches(
        self,
        references: list[Reference],
        request: GenerateRequest,
        first: int,
        size: Size,
        active: ActiveAdapter,
        embeds_of: Callable[[Reference, ActiveAdapter], Tensor],
    ) -> list[TimedPrompt]:
        """The branches of one half of a guided batch, which begins at row `first`."""
        shared: dict[Any, list[Reference]] = {}
        for number, reference in enumerate(references):
            alone = number if reference.mask is not None else None
            key = (reference.window, reference.only_image, alone)
            shared.setdefault(key, []).append(reference)
        prompts = []
        for group in shared.values():
            tokens, weights = self._tokens(group, request.combine, active, embeds_of)
            one = group[0]
            scale, mask = request.image_scale, None
            if one.mask is not None:
                scale, weights = scale * one.weight, None
                mask = mask_from_image(resize_image(one.mask, size)).to(self.model.device)
            prompts.append(
                TimedPrompt(
                    one.window,
                    ImagePrompt(
                        rows=_rows(one, first, request.count),
                        tokens=tokens,
                        scale=scale,
                        token_weights=weights,
                        mask=mask,
                        layer_scales=active.layer_scales,
                        adapter_index=active.adapter_index,
                    ),
                )
            )
        return prompts

    def _tokens(
        self,
        references: list[Reference],
        combine: Combine,
        active: ActiveAdapter,
        embeds_of: Callable[[Reference, ActiveAdapter], Tensor],
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (1, n, cross_dim) of references that share a softmax, and their weights (n,)."""
        embeds = [embeds_of(r, active) for r in references]
        weights = torch.tensor([r.weight for r in references])
        if combine == "average" and len(references) > 1:
            shares = (weights / weights.sum()).tolist()
            embeds = [sum(share * e for share, e in zip(shares, embeds, strict=True))]
            weights = torch.ones(1)
        with self._model_lock:
            tokens = torch.cat([active.adapter.tokens_from_embeds(e) for e in embeds], dim=1)
        if bool((weights == 1.0).all()):
            return tokens, None
        return tokens, weights.repeat_interleave(tokens.shape[1] // len(weights))

    def _embeds(self, reference: Reference, active: ActiveAdapter) -> Tensor:
        """What the adapter reads of a reference, a batch of one."""

        def encode() -> Tensor:
            pixels = self._clip_pixels(self.encoder_view(reference))
            with self._model_lock:
                return active.adapter.embeds_from_clip_pixels(pixels, self.model.image_encoder)

        key = (active.adapter.variant, digest(reference.image), reference.fit)
        return self._images.get(key, encode)

    def _empty_embeds(self, _: Reference, active: ActiveAdapter) -> Tensor:
        def encode() -> Tensor:
            with self._model_lock:
                return active.adapter.empty_embeds(1, self.model.image_encoder)

        return self._images.get((active.name, "empty"), encode)

    def _square(self, image: Image.Image, fit: Fit) -> Image.Image:
        """ "crop" is what the model's image processor does, which may leave out a border."""
        size, processor = self.model.image_encoder.config.image_size, self.model.image_processor
        if fit != "crop":
            return fit_square(image, size, fit)
        shortest = processor.size.shortest_edge or size
        return centre_crop(image, shortest, size, processor.resample)

    def _clip_pixels(self, view: Image.Image) -> Tensor:
        """(1, 3, S, S), normalised as the encoder was trained, with CLIPImageProcessor's own
        rounding: double precision up to the factor, single from there on."""
        processor = self.model.image_processor
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1)
            for values in (processor.image_mean, processor.image_std)
        )
        levels = torch.from_numpy(np.array(view)).permute(2, 0, 1)[None].double()
        pixels = ((levels * processor.rescale_factor).float() - mean) / std
        return pixels.to(self.model.device, self.model.dtype)


def _rows(reference: Reference, first: int, count: int) -> slice:
    """The rows of one half of a guided batch that a reference speaks to."""
    if reference.only_image is None:
        return slice(first, first + count)
    return slice(first + reference.only_image, first + reference.only_image + 1)


def collate(each: Sequence[Conditions], counts: Sequence[int]) -> Conditions:
    """The conditions of requests in one batch: rows [all unconditional..., all conditional...].

    `counts` are their numbers of images. Windows must be the same in all of them, and structures
    but for their maps.
    """
    if len(each) == 1:
        return each[0]
    images = sum(counts)
    prompts, before = [], 0
    for own, count in zip(each, counts, strict=True):
        for timed in own.image_prompts:
            # a branch lies in one half, and each half is longer by the other requests' rows
            half, first = divmod(timed.prompt.rows.start, count)
            start = half * images + before + first
            length = timed.prompt.rows.stop - timed.prompt.rows.start
            moved = replace(timed.prompt, rows=slice(start, start + length))
            prompts.append(replace(timed, prompt=moved))
        before += count
    added = [own.added for own in each if own.added is not None]
    return replace(
        each[0],
        text_states=_by_half([own.text_states for own in each], counts),
        added={name: _by_half([own[name] for own in added], counts) for name in added[0]}
        if added
        else None,
        image_prompts=tuple(prompts),
        structures=tuple(
            _of_rows(column, counts, len(each[0].text_states) // counts[0])
            for column in zip(*(own.structures for own in each), strict=True)
        ),
    )


def _of_rows(each: Sequence[ActiveControl], counts: Sequence[int], halves: int) -> ActiveControl:
    """One structure of every request, as that of all rows of the batch."""
    controls = [
        own.condition for own, count in zip(each, counts, strict=True) for _ in range(count)
    ]
    return replace(each[0], condition=ControlCondition.of_rows(controls * halves))


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


def _by_half(rows: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Batches [unconditional, conditional], or without guidance [conditional], as one of these."""
    halves = zip(*(own.split(count) for own, count in zip(rows, counts, strict=True)), strict=True)
    return torch.cat([rows for half in halves for rows in half])


def is_active(window: Window, step: int, steps: int) -> bool:
    """Whether a step lies wholly inside a window of fractions, as diffusers counts it."""
    return window[0] <= step / steps and (step + 1) / steps <= window[1]


def digest(image: Image.Image) -> str:
    content = hashlib.sha256(np.ascontiguousarray(image).tobytes())
    content.update(f"{image.mode} {image.size}".encode())
    return content.hexdigest()
