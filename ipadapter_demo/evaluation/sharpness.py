"""How much detail a part of a picture has, and how sharp it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

WINDOW = 3  # pixels: side of the squares whose variance is detail
WIDE = 9  # of those that hold an edge, however soft


def detail(image: Image.Image, where: np.ndarray, side: int = WINDOW) -> float:
    """Variance of a channel in squares of `side` pixels, mean over those around the pixels that
    are True in `where` (H, W)."""
    pixels = np.asarray(image, dtype=np.float64)
    size = (side, side, 1)
    variance = uniform_filter(pixels**2, size) - uniform_filter(pixels, size) ** 2
    return float(variance[where].mean())


def detail_ratio(
    images: Sequence[Image.Image],
    others: Sequence[Image.Image],
    masks: Sequence[Image.Image],
    side: int = WINDOW,
) -> float:
    """Detail inside masks, of all pictures together, as a part of that of other pictures."""
    inside = [np.asarray(mask) > 0 for mask in masks]
    ours, theirs = (
        sum(detail(*pair, side) for pair in zip(drawn, inside, strict=True))
        for drawn in (images, others)
    )
    return round(ours / max(theirs, 1e-9), 4)


def sharpness_ratio(
    images: Sequence[Image.Image], others: Sequence[Image.Image], masks: Sequence[Image.Image]
) -> float:
    """The same for the part of the variance in wide squares that narrow ones have: fewer or smaller
    things are less detail, but as sharp."""
    narrow, wide = (detail_ratio(images, others, masks, side) for side in (WINDOW, WIDE))
    return round(narrow / max(wide, 1e-9), 4)
