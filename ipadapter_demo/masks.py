"""Masks: files of any kind, and layers of paint, to 0 and 255, by the part that they mean."""

from __future__ import annotations

import io
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile

from ipadapter_demo.colour import alpha_of, brightness_of
from ipadapter_demo.errors import RequestError
from ipadapter_demo.flat import is_flat, remembered
from ipadapter_demo.imaging import depth_of, resize_image, shrink_image, upright_picture

MaskMeans = Literal["white", "transparent"]
MASK_MEANS: tuple[MaskMeans, ...] = get_args(MaskMeans)

PAINT, VIEW = (255, 79, 216), 512  # the colour, and the longer side, of a mask that is shown
HERE = 128  # the first of the 256 levels that means here
ONE_COLOUR = 16  # levels by which paint of one colour may differ: a lossy file makes it do so
SMALL = 2**20  # pixels of a mask that may wait as it is
BLACK = 16  # the last level that counts as black, for the same reason; pure blue has 29


def flatten_mask(
    image: Image.Image, field: str = "mask", means: MaskMeans = "white"
) -> Image.Image:
    """Any PIL image as an "L" mask of exactly 0 or 255 (255 = here), cut at 128.

    With `means` "white" bright means here, and what is transparent is outside; but a picture whose
    opaque part has one colour only, beside a transparent part, is a layer of paint: see
    `painted_mask`. Black paint needs a layer of which at least half is transparent: a black mask
    with transparent corners, or with one pixel that is not quite opaque, is an empty mask. With
    `means` "transparent" the part that one sees through means here, whatever the colours. Colour
    profiles play no role.
    """
    if means not in MASK_MEANS:
        raise RequestError(f"{field} must mean one of {', '.join(MASK_MEANS)}, got {means!r:.80}")
    if means == "white" and is_flat(image, "L"):
        return image
    image = upright_picture(image, field)
    alpha = alpha_of(image)
    if means == "transparent":
        if alpha is None or alpha.getextrema() == (255, 255):
            raise RequestError(f"{field} is transparent nowhere: mark the part by white instead")
        return _cut_in_two(ImageChops.invert(alpha))
    if alpha is None or alpha.getextrema() == (255, 255):
        return _cut_in_two(brightness_of(image))
    return _cut_in_two(_level(image, alpha))


def folded(mask: Image.Image) -> Image.Image:
    """A mask as it is, in less memory until somebody reads it: up to 50 MB may wait in line. One
    that is large becomes a PNG that Pillow decodes when it is used."""
    if mask.width * mask.height <= SMALL or isinstance(mask, ImageFile):
        return mask
    content = io.BytesIO()
    mask.save(content, "PNG", compress_level=1)
    return remembered(Image.open(content, formats=("PNG",)))


def painted_mask(layer: Image.Image, field: str = "mask") -> Image.Image:
    """The opaque part of a layer of paint, whatever its colours: a layer on which nothing was
    painted is an empty mask. One that is opaque everywhere is read as by `flatten_mask`."""
    layer = upright_picture(layer, field)
    alpha = alpha_of(layer)
    if alpha is None or alpha.getextrema() == (255, 255):
        return flatten_mask(layer, field)
    return _cut_in_two(alpha)


def grown(mask: Image.Image, by: int) -> Image.Image:
    """`mask` with `by` pixels more around its white part; below 0 with so many less."""
    if by > 0:
        return ImageChops.invert(grown(ImageChops.invert(mask), -by))
    return Image.fromarray((depth_of(mask) > -by) * np.uint8(255)) if by else mask


def shown_on(image: Image.Image | None, mask: Image.Image) -> Image.Image:
    """`mask` over a picture, as half transparent paint; over plain grey without one. RGB, at most
    VIEW pixels long."""
    ground = shrink_image(image or Image.new("RGB", mask.size, "grey"), VIEW)
    amount = resize_image(mask, ground.size).point(lambda value: value // 2)
    return Image.composite(Image.new("RGB", ground.size, PAINT), ground, amount)


def _level(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """The share of each pixel of a partly transparent picture that means here, as "L"."""
    brightness = brightness_of(image)
    levels = np.asarray(brightness)
    opaque = levels[np.asarray(alpha) >= HERE]
    as_seen = ImageChops.multiply(brightness, alpha)
    if not 0 < opaque.size < levels.size or int(opaque.max()) - int(opaque.min()) > ONE_COLOUR:
        return as_seen
    # A palette names one of its colours as transparent, but the picture was drawn with all of them.
    # Elsewhere the colour of what cannot be seen is left over from how the file was made.
    is_drawn = not {"A", "a"} & set(image.getbands())
    if is_drawn and opaque.max() < HERE <= levels.max():
        return brightness
    # Black is paint, too, but also the rest of a mask: after turning it, most of it is opaque.
    is_paint = opaque.max() > BLACK or 2 * opaque.size <= levels.size
    return alpha if is_paint else as_seen


def _cut_in_two(level: Image.Image) -> Image.Image:
    mask = level.point(lambda value: 255 if value >= HERE else 0)
    mask.info.clear()
    return remembered(mask)
