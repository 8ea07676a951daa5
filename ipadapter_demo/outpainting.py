"""A picture that goes on beyond its edges: an inpainting of a larger canvas."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ipadapter_demo import checks
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import MAX_PIXELS, flatten_image
from ipadapter_demo.masks import flatten_mask
from ipadapter_demo.request import Inpaint

SIDES = ("left", "top", "right", "bottom")
MAX_EXTENSION = 1024


def outpaint(
    image: Image.Image,
    *,
    left: int = 0,
    top: int = 0,
    right: int = 0,
    bottom: int = 0,
    mask: Image.Image | None = None,
    **how: Any,
) -> Inpaint:
    """The inpainting that extends `image` by so many pixels on each side: what is new is its mask,
    where the pixels of the edge are repeated until it is drawn. The white part of `mask`, as large
    as `image`, is drawn anew too. `how` are further fields of an Inpaint. Raises RequestError for
    an extension by nothing, by more than MAX_EXTENSION, or to more than MAX_PIXELS."""
    flat = flatten_image(image, "inpaint.image")
    given = zip(SIDES, (left, top, right, bottom), strict=True)
    by = [checks.integer(f"extend.{side}", pixels, 0, MAX_EXTENSION) for side, pixels in given]
    if not any(by):
        raise RequestError("extend must be above 0 on one side, got 0 on all four")
    width, height = flat.width + by[0] + by[2], flat.height + by[1] + by[3]
    if width * height > MAX_PIXELS:
        raise RequestError(
            f"extend must lead to at most {MAX_PIXELS:,} pixels, got {width}x{height}"
        )
    around = ((by[1], by[3]), (by[0], by[2]))
    painted = Image.new("L", flat.size) if mask is None else flatten_mask(mask, "inpaint.mask")
    if painted.size != flat.size:
        raise RequestError(
            f"inpaint.mask must have the size of inpaint.image, {flat.width}x{flat.height}, "
            f"got {painted.width}x{painted.height}"
        )
    return Inpaint(
        image=Image.fromarray(np.pad(np.asarray(flat), (*around, (0, 0)), mode="edge")),
        mask=Image.fromarray(np.pad(np.asarray(painted), around, constant_values=255)),
        **how,
    )
