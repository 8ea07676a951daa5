"""The size a model works at, and pictures of another shape brought to it.

A side is a multiple of SIZE_STEP. Limits are on the area and on the proportions, never on a side
alone, so both sides of a picture are always scaled together.
"""

from __future__ import annotations

import itertools
import math

from PIL import Image

from ipadapter_demo.imaging import resize_image
from ipadapter_demo.request import Fit, GenerateRequest
from ipadapter_demo.size_limits import MAX_AREA, MAX_ASPECT, MIN_SIZE, SIZE_STEP

Size = tuple[int, int]  # (width, height) in pixels
Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels

AREA_TOLERANCE = 0.1  # how far from the model's own area a size that nobody gave may lie
# Of SDXL's training sizes (arXiv 2307.01952, appendix I), in their width over 64: those that people
# draw at. Other models have the same shapes at their own area.
SHAPES = (16, 18, 19, 21, 24)


def working_size(request: GenerateRequest, native: int) -> Size:
    """The size of a request on a model whose own size is `native` x `native`.

    Sides that the request leaves open are the model's own, or follow the proportions of the picture
    that is inpainted or started from, as far as the limits let them.
    """
    given = request.inpaint.image if request.inpaint else request.init_image
    width, height = request.width, request.height
    if width is not None and height is not None:
        return width, height
    if width is not None:
        return width, _other_side(
            width, native if given is None else width * given.height / given.width
        )
    if height is not None:
        return _other_side(
            height, native if given is None else height * given.width / given.height
        ), height
    return (native, native) if given is None else size_like(given.size, native)


def limit_on(request: GenerateRequest, shape: Size) -> str:
    """The limit that keeps the size of `request`, of which at most one side is given, from the
    proportions of `shape`; and what would keep them."""
    name, side = ("width", request.width) if request.width else ("height", request.height)
    slope = shape[1] / shape[0] if request.width else shape[0] / shape[1]
    if side is None or not 1 / MAX_ASPECT <= slope <= MAX_ASPECT:
        return f"at most {MAX_ASPECT} to 1 is drawn; inpaint.context below 1 draws less of it"
    if side * slope < MIN_SIZE:
        return (
            f"{name} {side} would have {side * slope:.0f} beside it: a side has at least "
            f"{MIN_SIZE} pixels; a {name} of {_up(MIN_SIZE / slope)} or more keeps the "
            "proportions"
        )
    edge = math.isqrt(MAX_AREA)
    return (
        f"{name} {side} leaves at most {_other_side(side, side * slope)} beside it: a picture "
        f"has at most {edge} x {edge} pixels; a {name} of {_down(math.sqrt(MAX_AREA / slope))} "
        "or less keeps the proportions"
    )


def size_like(shape: Size, native: int) -> Size:
    """The size nearest to the proportions of `shape`, at the area of `native` x `native`.

    Of the sizes within one step of the exact one, the nearest that keeps the limits and is off by
    at most AREA_TOLERANCE in its area. Proportions beyond MAX_ASPECT become MAX_ASPECT.
    """
    area = min(native**2, MAX_AREA)
    aspect = min(MAX_ASPECT, max(1 / MAX_ASPECT, shape[0] / shape[1]))
    exact = math.sqrt(area * aspect), math.sqrt(area / aspect)
    widths, heights = (
        range(_up(side - SIZE_STEP), _down(side + SIZE_STEP) + 1, SIZE_STEP) for side in exact
    )
    near = itertools.product(widths, heights)
    fitting = (
        size
        for size in near
        if _is_allowed(size) and abs(size[0] * size[1] / area - 1) <= AREA_TOLERANCE
    )
    return min(fitting, key=lambda size: abs(size[0] - exact[0]) + abs(size[1] - exact[1]))


def usual_sizes(native: int) -> list[Size]:
    """Sizes to choose from, at a model's own area: SDXL's training sizes, to scale; the square,
    then wide ones, then tall ones."""
    unit = native / 16
    wide = [(_nearest(k * unit), _nearest((16 * 16 // k) * unit)) for k in SHAPES]
    tall = [(height, width) for width, height in wide[1:]]
    return list(dict.fromkeys(wide + tall))  # a small model rounds two of them to one


def same_shape(one: Size, other: Size, within: float = SIZE_STEP / 2) -> bool:
    """True if `one`, scaled, differs from `other` by at most `within` pixels on each side."""
    low = max((goal - within) / side for side, goal in zip(one, other, strict=True))
    high = min((goal + within) / side for side, goal in zip(one, other, strict=True))
    return low <= high


def reshaped(
    image: Image.Image,
    size: Size,
    fit: Fit,
    resampling: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """An RGB picture at `size`: cropped to its proportions, padded with black, or squashed. One
    that has them but for rounding is only scaled."""
    if fit == "squash" or same_shape(image.size, size):
        return resize_image(image, size, resampling)
    if fit == "crop":
        part = inner_size(size, image.size)
        left, upper = ((whole - side) // 2 for whole, side in zip(image.size, part, strict=True))
        box = left, upper, left + part[0], upper + part[1]
        return resize_image(image.crop(box), size, resampling)
    return padded(resize_image(image, inner_size(image.size, size), resampling), size)


def inner_size(shape: Size, size: Size) -> Size:
    """The largest size with the proportions of `shape` inside `size`. Of a thread, the shorter side
    is a step."""
    scale = min(full / side for side, full in zip(shape, size, strict=True))
    width, height = (
        min(full, max(SIZE_STEP, round(side * scale)))
        for side, full in zip(shape, size, strict=True)
    )
    return width, height


def inner_box(shape: Size, size: Size) -> Box:
    """The middle of `size` that a padded picture of `shape` fills."""
    width, height = inner_size(shape, size)
    left, upper = (size[0] - width) // 2, (size[1] - height) // 2
    return left, upper, left + width, upper + height


def scaled(box: Box, shape: Size, size: Size) -> Box:
    """Where a box in a picture of `shape` lies in the same at `size`."""
    across, down = size[0] / shape[0], size[1] / shape[1]
    left, upper, right, lower = box
    return round(left * across), round(upper * down), round(right * across), round(lower * down)


def padded(
    image: Image.Image,
    size: Size,
    colour: tuple[int, int, int] = (0, 0, 0),
    corner: tuple[int, int] | None = None,
) -> Image.Image:
    """`image` in a picture of `size`: in its middle, or at a `corner`, left and upper."""
    whole = Image.new("RGB", size, colour)
    middle = (size[0] - image.width) // 2, (size[1] - image.height) // 2
    whole.paste(image, corner or middle)
    return whole


def _other_side(side: int, wanted: float) -> int:
    """The length nearest to `wanted` that is allowed beside `side`."""
    low = _up(max(MIN_SIZE, side / MAX_ASPECT))
    high = _down(min(side * MAX_ASPECT, MAX_AREA / side))
    return min(high, max(low, _nearest(wanted)))


def _is_allowed(size: Size) -> bool:
    return (
        min(size) >= MIN_SIZE
        and size[0] * size[1] <= MAX_AREA
        and max(size) <= MAX_ASPECT * min(size)
    )


def _nearest(length: float) -> int:
    return round(length / SIZE_STEP) * SIZE_STEP


def _up(length: float) -> int:
    return math.ceil(length / SIZE_STEP) * SIZE_STEP


def _down(length: float) -> int:
    return math.floor(length / SIZE_STEP) * SIZE_STEP
