"""One request at several strengths of the image prompt: the quickest way to find the right λ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ipadapter_demo.request import GenerateRequest

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def filmstrip(request: GenerateRequest, scales: Sequence[float] = SCALES) -> list[GenerateRequest]:
    """The first picture of `request` at every λ of `scales`, from the same noise."""
    first = first_image(request)
    return [replace(first, image_scale=scale) for scale in scales]


def first_image(request: GenerateRequest) -> GenerateRequest:
    """Only the first picture of a request."""
    mine = tuple(
        replace(reference, only_image=None)
        for reference in request.references
        if reference.only_image in (None, 0)
    )
    return replace(request, count=1, references=mine)
