"""Detectors that draw a structure map from a picture, by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

from PIL import Image

PALETTE_CELLS = 8  # cells along the shorter side, as in T2I-Adapter's colour palette: 512 / 64


def annotate(annotator: str, image: Image.Image) -> Image.Image:
    """The map `annotator` draws from an RGB image, RGB and of the same size."""
    if annotator == "none":
        return image
    drawn = ANNOTATORS[annotator](image).convert("RGB")
    if drawn.size != image.size:  # the detectors round sides to multiples of 64
        drawn = drawn.resize(image.size, Image.Resampling.BILINEAR)
    return drawn


def _canny(image: Image.Image) -> Image.Image:
    side = min(image.size)
    return _detector("CannyDetector")(image, low_threshold=100, high_threshold=200,
                                      detect_resolution=side, image_resolution=side)


def _lineart(image: Image.Image) -> Image.Image:
    # It returns the size it was given, whatever resolution it works at.
    return _detector("LineartStandardDetector")(image, detect_resolution=min(image.size))


def _palette(image: Image.Image) -> Image.Image:
    """Mean colours of coarse cells (arXiv 2302.08453, section 3.3: spatial colour palette)."""
    scale = PALETTE_CELLS / min(image.size)
    cells = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    coarse = image.resize(cells, Image.Resampling.BOX)
    return coarse.resize(image.size, Image.Resampling.NEAREST)


@cache
def _detector(name: str) -> Callable[..., Image.Image]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about detectors that are not used here
        import controlnet_aux  # seconds to import, and only structure needs it

    return getattr(controlnet_aux, name)()


ANNOTATORS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "canny": _canny,
    "lineart": _lineart,
    "palette": _palette,
}
