"""The picture cropped to its mask: the model draws the part around the mask and not all of it, so
that a small part gets the model's whole resolution, and nothing far from it influences it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from PIL import Image

from ipadapter_demo.imaging import resize_image
from ipadapter_demo.pipeline.sizes import Box, Size, inner_box, reshaped, same_shape
from ipadapter_demo.request import GenerateRequest, Inpaint, Structure


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedPart(Structure):
    """A part of a padded picture. Only what lies in `inside` is picture: the rest is padding, which
    no detector may see."""

    inside: Box


def mask_box(mask: Image.Image, context: float) -> Box:
    """A square around the white part of `mask`, moved and cut where it would leave the picture. Its
    width goes from that of the part, at a `context` of 0, to that of the picture, at 1."""
    white = mask.getbbox()
    assert white is not None  # an Inpaint refuses an empty mask
    left, upper, right, lower = white
    part, whole = max(right - left, lower - upper), max(mask.size)
    side = round(part ** (1 - context) * whole**context)

    def along(start: int, end: int, full: int) -> tuple[int, int]:
        length = min(side, full)
        first = min(max((start + end - length) // 2, 0), full - length)
        return first, first + length

    (left, right), (upper, lower) = along(left, right, mask.width), along(upper, lower, mask.height)
    return left, upper, right, lower


def drawn_size(given: Inpaint) -> tuple[int, int]:
    """(width, height) of the part of a picture that the model draws, in the picture's pixels."""
    if given.context == 1:
        return given.image.size
    left, upper, right, lower = mask_box(given.mask, given.context)
    return right - left, lower - upper


def crop_to_mask(request: GenerateRequest) -> GenerateRequest:
    """The request for what lies in the box around its mask; itself, where it asks for all."""
    given = request.inpaint
    if given is None or given.context == 1:
        return request
    box, size = mask_box(given.mask, given.context), given.image.size
    return replace(
        request,
        inpaint=replace(given, image=given.image.crop(box), mask=given.mask.crop(box), context=1.0),
        structures=tuple(_part(structure, size, box) for structure in request.structures),
        references=tuple(
            r if r.mask is None else replace(r, mask=reshaped(r.mask, size, "squash").crop(box))
            for r in request.references
        ),
    )


def _part(structure: Structure, size: Size, box: Box) -> Structure:
    """What lies in `box` of a structure, which covers all `size` of a picture whatever its own."""
    image = structure.image
    whole = reshaped(image, size, structure.fit, structure.resampling)
    part = replace(structure, image=whole.crop(box), fit="squash")
    if structure.fit != "pad" or same_shape(image.size, size):
        return part
    inside = _within(inner_box(image.size, size), box)
    if inside == (0, 0, *part.image.size):
        return part
    return PaddedPart(**{f.name: getattr(part, f.name) for f in fields(part)}, inside=inside)


def _within(inner: Box, box: Box) -> Box:
    """What of `inner` lies in `box`, from its corner; of no width or height where nothing does."""
    left, upper, right, lower = box
    width, height = right - left, lower - upper
    return (
        min(max(inner[0] - left, 0), width),
        min(max(inner[1] - upper, 0), height),
        min(max(inner[2] - left, 0), width),
        min(max(inner[3] - upper, 0), height),
    )


def uncrop(given: Inpaint, drawn: Image.Image) -> Image.Image:
    """The whole picture, with what was drawn of the cropped part in its place."""
    return _pasted(given.image, drawn, mask_box(given.mask, given.context))


def uncrop_preview(given: Inpaint, drawn: Image.Image) -> Image.Image:
    """The same for a preview, at a scale at which nothing that was drawn is enlarged."""
    box = mask_box(given.mask, given.context)
    scale = min(1.0, drawn.width / (box[2] - box[0]))
    width, height = (max(1, round(side * scale)) for side in given.image.size)
    left, upper, right, lower = (round(place * scale) for place in box)
    return _pasted(resize_image(given.image, (width, height)), drawn, (left, upper, right, lower))


def _pasted(image: Image.Image, part: Image.Image, box: Box) -> Image.Image:
    left, upper, right, lower = box
    whole = image.copy()
    size = max(1, right - left), max(1, lower - upper)  # of a preview, one may round to nothing
    # keeps more of what was drawn than a bicubic one, and is what diffusers pastes with
    whole.paste(resize_image(part, size, Image.Resampling.LANCZOS), (left, upper))
    return whole
