"""The passes of a request: one, or where it is upscaled two."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from ipadapter_demo.pipeline.sizes import Size
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.size_limits import SIZE_STEP

TO_COME = Image.new("RGB", (SIZE_STEP, SIZE_STEP))


def passes_of(request: GenerateRequest) -> tuple[GenerateRequest, ...]:
    """Each pass as a request by itself. In the second, TO_COME stands for the pictures of the
    first."""
    upscale = request.upscale
    if upscale is None:
        return (request,)
    first = replace(request, upscale=None)
    return first, replace(first, init_image=TO_COME, strength=upscale.strength)


def sizes_of_passes(request: GenerateRequest, size: Size) -> tuple[Size, ...]:
    """The size of each pass, where that of the first is `size`. Raises RequestError where the
    second is too large."""
    return (size,) if request.upscale is None else (size, request.upscale.size_of(size))
