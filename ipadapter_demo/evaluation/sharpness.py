"""How much detail a part of a picture has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

WINDOW = 3  # pixels: side of the squares whose variance is detail


def detail(image: Image.Image, where: np.ndarray) -> float:
    """Variance of a channel in squares of `WINDOW` pixels, mean over those around the pixels that
    are True in `where` (H, W)."""
    pixels = np.asarray(image, dtype=np.float64)
    size = (WINDOW, WINDOW, 1)
    variance = uniform_filter(pixels**2, size) - uniform_filter(pixels, size) ** 2
    return float(variance[where].mean())


def detail_ratio(
    images: Sequence[Image.Image], others: Sequence[Image.Image], masks: Sequence[Image.Image]
) -> float:
    """Detail inside masks, of all pictures together, as a part of that of other pictures."""
    inside = [np.asarray(mask) > 0 for mask in masks]
    ours, theirs = (
        sum(detail(*pair) for pair in zip(drawn, inside, strict=True)) for drawn in (images, others)
    )
    return round(ours / max(theirs, 1e-9), 4)
