"""The sizes that a model may work at, and the checks of them."""

from __future__ import annotations

from ipadapter_demo import checks
from ipadapter_demo.errors import RequestError

# SDXL's training sizes go from 512x2048 to 2048x512, all of at most 1024 x 1024 pixels
# (arXiv 2307.01952, appendix I).
MAX_AREA, MAX_ASPECT = 1024 * 1024, 4
MIN_SIZE, MAX_SIZE, SIZE_STEP = 32, 2048, 8


def check_side(field: str, value: object) -> int:
    side = checks.integer(field, value, MIN_SIZE, MAX_SIZE)
    if side % SIZE_STEP:
        nearest = round(side / SIZE_STEP) * SIZE_STEP
        raise RequestError(
            f"{field} must be a multiple of {SIZE_STEP}, got {side}; nearest is {nearest}"
        )
    return side


def check_shape(width: int, height: int) -> None:
    if width * height > MAX_AREA:
        raise RequestError(
            f"width x height must be at most {MAX_AREA:,} pixels, "
            f"got {width}x{height}, {width * height:,}"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RequestError(
            f"width and height must be at most {MAX_ASPECT} to 1, got {width}x{height}"
        )
