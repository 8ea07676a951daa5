"""Warnings about requests that run, but not as a person may think: one sentence each,
that begins with the field. Nothing is said of an ordinary request."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields

import torch.nn.functional as F
from PIL import Image

from ipadapter_demo.imaging import mask_from_image, resize_image
from ipadapter_demo.models.annotators import is_empty
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline.conditioning.active import active_adapter
from ipadapter_demo.pipeline.conditioning.maps import OF_COLOURS
from ipadapter_demo.pipeline.conditions import ever_active
from ipadapter_demo.pipeline.inpainting.background import split_by_mask
from ipadapter_demo.pipeline.markup import READ_IF_WEIGHTED, unread_markup, without_words
from ipadapter_demo.pipeline.passes import passes_of
from ipadapter_demo.pipeline.sizes import Size, limit_on, same_shape
from ipadapter_demo.pipeline.step_count import guided_calls, steps_taken
from ipadapter_demo.request import GenerateRequest, Reference, Window
from ipadapter_demo.sampling import FEW_STEP_SAMPLERS
from ipadapter_demo.size_limits import SIZE_STEP

# Words between the words: in the captions of a small model, or said without a meaning.
JOINING = {"a", "an", "the", "and", "on", "with", "of", "in", "solid"}
FEW_STEPS = 2
STRENGTH = next(f.default for f in fields(GenerateRequest) if f.name == "strength")
DONE_TO = {"crop": "cropped", "pad": "padded", "squash": "squeezed"}


def warnings_for(
    request: GenerateRequest,
    cropped: GenerateRequest,
    size: Size,
    maps: Sequence[Image.Image],
    model: BaseModel,
    unknown: Sequence[int] = (),
) -> tuple[str, ...]:
    """`cropped` is the request cropped to its mask, `size` the one the model works at, `maps` those
    that its structure networks read, `unknown` the numbers of references unlike all it has seen."""
    return (
        *_on_unknown(unknown, model),
        *_on_guidance(request, model),
        *_on_prompts(request, model),
        *_on_steps(request, model),
        *_on_shapes(request, cropped, size),
        *_on_faces(request, model),
        *_on_layers(request),
        *_on_windows(request),
        *_on_regions(request, cropped, size, model),
        *_on_maps(request, maps),
    )


def _on_unknown(unknown: Sequence[int], model: BaseModel) -> Iterator[str]:
    for number in unknown:
        yield (
            f"reference: picture {number} is unlike all that {model.entry.name} was trained on: it "
            "gives colours and patterns at most. Published models such as sd15 know photographs."
        )


def _on_prompts(request: GenerateRequest, model: BaseModel) -> Iterator[str]:
    prompts = {"prompt": request.prompt, "prompt_2": request.prompt_2}
    if guided_calls(request):
        prompts["negative_prompt"] = request.negative_prompt
        prompts["negative_prompt_2"] = request.negative_prompt_2
    for field, prompt in prompts.items():
        if prompt and field.endswith("_2") and len(model.text.tokenizers) == 1:
            yield f"{field} has no effect: {model.entry.name} has one text encoder."
            continue
        plain = request.prompt_syntax == "plain"
        used, limit = model.text.tokens_used(prompt) if plain else (0, 0)
        if used > limit:
            yield (
                f"{field}: it has {used} tokens; the model reads the first {limit}, as "
                "the prompt syntax is plain."
            )
        for what, found in unread_markup(prompt, request.prompt_syntax).items():
            why = ", as the prompt syntax is plain" if plain and what in READ_IF_WEIGHTED else ""
            yield f"{field}: {what} is read as plain text{why}: {found:.40}"
        if unknown := _unknown_words(prompt, model):
            yield (
                f"{field}: {model.entry.name} does not know {', '.join(unknown):.200}. "
                f"It knows: {', '.join(model.entry.words)}."
            )


def _on_guidance(request: GenerateRequest, model: BaseModel) -> Iterator[str]:
    if request.guidance > 1:
        steps, window = _steps_of_passes(request), request.guidance_window
        without = [number for number in steps if not ever_active(number, window)]
        if len(without) == len(steps):
            yield f"guidance_window: {_no_step(window, steps)}, so guidance has no effect."
        elif without:
            none = _no_step(window, without)
            yield f"guidance_window: {none}, so guidance has no effect in that pass."
        return
    for field in ("negative_prompt", "negative_prompt_2"):
        if getattr(request, field):
            yield f"{field} has no effect at guidance 1."
    if any(r.negative and r.weight > 0 for r in request.references):
        yield "reference.negative: a negative reference has no effect at guidance 1."
    if request.guidance_rescale > 0:
        yield "guidance_rescale has no effect at guidance 1."
    if request.guidance_window not in ((0.0, 1.0), model.entry.recommended.guidance_window):
        yield "guidance_window has no effect at guidance 1."


def _unknown_words(prompt: str, model: BaseModel) -> list[str]:
    """Of a model with a small world, emoji among them; another knows all words."""
    known = {*model.entry.words, *model.entry.synonyms, *JOINING}
    words = re.findall(r"[^\W\d_]+|[☀-➿🀀-🫿]", without_words(prompt).lower())
    return [one for one in dict.fromkeys(words) if one not in known] if model.entry.words else []


def _on_faces(request: GenerateRequest, model: BaseModel) -> Iterator[str]:
    for number, reference in enumerate(request.references, 1):
        adapter = active_adapter(model, request, reference).adapter
        if reference.face and not adapter.reads_faces:
            yield f"reference.face has no effect on reference {number}: its adapter reads no faces."
        if reference.embeds and reference.image and not adapter.reads_patches:
            yield (
                f"reference.image has no effect on reference {number}: its adapter reads the "
                "embeds of the face alone."
            )


def _on_layers(request: GenerateRequest) -> Iterator[str]:
    layers, followed = request.image_layers, any(r.weight > 0 for r in request.references)
    if layers != "all" and not followed:
        yield "image_layers has no effect without a reference."
    elif layers != "all" and all(r.layers is not None for r in request.references):
        yield "image_layers has no effect: each reference has layers of its own."
    elif isinstance(layers, tuple) and not any(layers):
        yield "image_layers: all factors are 0, so references have no effect."
    for number, reference in enumerate(request.references, 1):
        if isinstance(reference.layers, tuple) and not any(reference.layers):
            yield f"reference.layers: all factors of reference {number} are 0: it has no effect."


def _on_steps(request: GenerateRequest, model: BaseModel) -> Iterator[str]:
    if request.inpaint is not None and request.strength != STRENGTH:
        yield "strength has no effect on inpainting: inpaint.strength has."
    distilled = request.sampler in FEW_STEP_SAMPLERS or any(
        lora.name in model.entry.few_step_loras for lora in request.loras or ()
    )
    usual = model.entry.recommended.steps_for(bool(request.prompt), request.inpaint is not None)
    if request.steps <= FEW_STEPS and not distilled and usual > 2 * FEW_STEPS:
        yield (
            f"steps: {request.steps} of them leave a picture unfinished; {model.entry.name} "
            f"takes about {usual}."
        )


def _on_shapes(request: GenerateRequest, cropped: GenerateRequest, size: Size) -> Iterator[str]:
    """Of whatever has other proportions than the output."""
    whole = size if request.inpaint is None or cropped is request else request.inpaint.image.size

    def differs(image: Image.Image, wanted: Size) -> bool:
        return not same_shape(image.size, wanted, SIZE_STEP)

    if cropped.inpaint is not None and differs(cropped.inpaint.image, size):
        given = cropped.inpaint.image
        way = (
            "leave width or height open to keep its proportions"
            if request.width and request.height
            else limit_on(request, given.size)
        )
        yield f"inpaint.image: {_said(given.size)} is squeezed to {_said(size)}; {way}."
    if request.init_image is not None and differs(request.init_image, size):
        yield f"init_image: it is cropped to the proportions of the output, {_said(size)}."
    for number, structure in enumerate(request.structures, 1):
        if differs(structure.image, whole):
            yield (
                f"structure.fit: the picture of structure {number} ({structure.kind}) is "
                f"{DONE_TO[structure.fit]} to the proportions of the output, {_said(whole)}."
            )
    for number, reference in enumerate(request.references, 1):
        if reference.embeds is not None and reference.fit != "crop":
            yield (
                f"reference.fit has no effect on reference {number}: its embeds were made with "
                f"{reference.embeds.fit}."
            )
        if reference.mask is not None and differs(reference.mask, whole):
            yield (
                f"reference.mask: the region of reference {number}, "
                f"{_said(reference.mask.size)}, is stretched over the output, {_said(whole)}."
            )


def _on_windows(request: GenerateRequest) -> Iterator[str]:
    steps = _steps_of_passes(request)

    def never(*windows: Window) -> bool:
        return not any(ever_active(number, *windows) for number in steps)

    acting = [(n, r) for n, r in enumerate(request.references, 1) if r.weight > 0]
    if acting and request.image_scale > 0:
        if never(request.image_window):
            yield f"image_window: {_no_step(request.image_window, steps)}."
        else:
            for number, reference in acting:
                if never(request.image_window, reference.window):
                    yield (
                        f"reference.window: {_no_step(reference.window, steps)}, so reference "
                        f"{number} has no effect."
                    )
                elif reference.negative and never(*_of_negative(request, reference)):
                    yield (
                        f"reference.window: reference {number} is negative, and guidance_window "
                        "has no step of it, so it has no effect."
                    )
    for number, structure in enumerate(request.structures, 1):
        if structure.weight > 0 and never(structure.window):
            yield (
                f"structure.window: {_no_step(structure.window, steps)}, so structure {number} "
                f"({structure.kind}) has no effect."
            )


def _of_negative(request: GenerateRequest, reference: Reference) -> tuple[Window, ...]:
    """The windows in all of which a negative reference acts, where guidance acts at all."""
    within = (request.guidance_window,) if guided_calls(request) else ()
    return (request.image_window, reference.window, *within)


def _on_regions(
    request: GenerateRequest, cropped: GenerateRequest, size: Size, model: BaseModel
) -> Iterator[str]:
    """Of regions in which the attention layers have no place at all."""
    cell = _finest_cell(model)
    if request.image_scale == 0:
        return
    for number, (own, reference) in enumerate(
        zip(request.references, cropped.references, strict=True), 1
    ):
        if own.mask is not None and own.weight > 0 and _acts_nowhere(reference, size, cell):
            why = (
                "is black"
                if own.mask.getbbox() is None
                else "is too thin or outside of what "
                f"is drawn: the model has cells of {cell} pixels"
            )
            yield f"reference.mask: the region of reference {number} {why}, so it has no effect."
    used = [r for r in request.references if r.weight > 0 and not r.negative]
    if request.combine == "average" and 1 < len(used) < 2 + sum(r.mask is not None for r in used):
        yield "combine has no effect: each reference with a mask acts in its own region."
    followed, _ = split_by_mask(cropped, has_inpaint_adapter=model.inpaint_adapter is not None)
    masks = [reference.mask for reference in cropped.references]
    if any(_acts_nowhere(r, size, cell) for r in followed if all(r.mask is not m for m in masks)):
        yield (
            f"inpaint.mask: it is too small for references to act in it: the model has cells of "
            f"{cell} pixels. A lower inpaint.context draws it larger."
        )


def _on_maps(request: GenerateRequest, maps: Sequence[Image.Image]) -> Iterator[str]:
    for number, (structure, drawn) in enumerate(zip(request.structures, maps, strict=True), 1):
        if structure.weight > 0 and structure.kind not in OF_COLOURS and is_empty(drawn):
            yield (
                f"structure.image: the map of structure {number} ({structure.kind}) is empty, "
                "so it holds nothing."
            )


def _acts_nowhere(reference: Reference, size: Size, cell: int) -> bool:
    """True if no query of the finest attention layer lies in a reference's region."""
    if reference.mask is None:
        return False
    mask = mask_from_image(resize_image(reference.mask, size))
    grid = (math.ceil(size[1] / cell), math.ceil(size[0] / cell))
    return bool(F.interpolate(mask, size=grid, mode="bicubic").max() < 0.5)


def _finest_cell(model: BaseModel) -> int:
    """Pixels that a query of the finest layer with cross-attention stands for."""
    blocks = model.unet.config.down_block_types
    level = next((i for i, kind in enumerate(blocks) if "CrossAttn" in kind), len(blocks) - 1)
    return model.vae.factor * 2**level


def _steps_of_passes(request: GenerateRequest) -> list[int]:
    return [steps_taken(one) for one in passes_of(request)]


def _no_step(window: Window, steps: Sequence[int]) -> str:
    return (
        f"no step of {' or '.join(map(str, steps))} lies wholly in {window[0]:g} to {window[1]:g}"
    )


def _said(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
