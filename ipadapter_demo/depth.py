"""TIFF files of more than 8 bits a value, as 8-bit pictures.

Cameras, scanners and microscopes write 10 or 12 bits into 16, so that white is 1023 or 4095 and
the picture, read as 16 bits, nearly black. TIFF 6.0 (sections 4 and 19) has tags that say how far
values go. Where they are missing, a picture that reaches no more than 4095 counts as one of 8, 10
or 12 bits, by its brightest value: with 16 bits it would have no level above 15 of 255. PNG needs
none of this: its 16-bit values are always scaled to 65535 (PNG, third edition, section 12.4).
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps

from ipadapter_demo.colour import DEEP, scaled

_BITS, _PHOTOMETRIC, _MAXIMUM, _SAMPLE_MAXIMUM = 258, 262, 281, 341  # tags
_WHITE_IS_ZERO = 0
_GUESSES = (255.0, 1023.0, 4095.0)
_FULL = 65535.0

# What Pillow calls the 16-bit values of which it keeps the high byte, and the name under which it
# would keep the low one. libtiff hands them out in the machine's order, "N".
_NATIVE, _OTHER = ("L", "B") if sys.byteorder == "little" else ("B", "L")
Tags = Mapping[int, float | tuple[float, ...]]  # of a TIFF, those that are numbers

_LOW_BYTES = {
    f"{bands};16{order}": f"{bands};16{low}"
    for bands in ("RGB", "RGBA", "RGBX")
    for order, low in (("L", "B"), ("B", "L"), ("N", _OTHER))
}


def upright(image: Image.Image) -> Image.Image:
    """A decoded copy of a picture, detached from its file, turned as its EXIF data says; the values
    of a TIFF scaled to 8 bits, if they have more. `info` stays."""
    content = _deep_colour_file(image)
    image.load()
    turned = _turned(image)
    if image.format != "TIFF":
        return turned
    tags = getattr(image, "tag_v2", {})
    if image.mode in DEEP:
        levels = _grey_levels(np.asarray(turned), tags)
    elif content is not None and np.asarray(turned)[..., :3].max() <= _high_byte(tags):
        levels = _colour_levels(turned, content, tags)
    else:
        return turned
    scaled_down = Image.fromarray(levels)
    scaled_down.info = turned.info
    return scaled_down


def _grey_levels(values: np.ndarray, tags: Tags) -> np.ndarray:
    floats = values.dtype.kind == "f"
    values = np.nan_to_num(values, posinf=0.0, neginf=0.0)
    levels = scaled(values, _white(values, tags, floats))
    # Pillow turns only 8 bits round.
    return 255 - levels if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO and not floats else levels


def _turned(image: Image.Image) -> Image.Image:
    """As its EXIF data says; where that is damaged, as it lies: the pixels are whole."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # of a tag that cannot be read, whatever its reader likes
        return image.copy()


def _colour_levels(high: Image.Image, content: bytes, tags: Tags) -> np.ndarray:
    """The file decoded once more, for the low bytes that Pillow drops."""
    with Image.open(io.BytesIO(content), formats=("TIFF",)) as low:
        low.tile = [
            tile._replace(args=(_LOW_BYTES[tile.args[0]], *tile.args[1:]))
            for tile in low.tile
            if isinstance(tile.args, tuple)
        ]
        low.load()
        lower = np.asarray(_turned(low))
    values = np.asarray(high).astype(np.uint16) << 8 | lower
    colours, opacity = values[..., :3], values[..., 3:]
    parts = [scaled(part, _white(part, tags)) for part in (colours, opacity) if part.size]
    return np.concatenate(parts, axis=-1)


def _deep_colour_file(image: Image.Image) -> bytes | None:
    """The file of a 16-bit colour TIFF that is not decoded yet; None of any other picture."""
    tiles = getattr(image, "tile", [])
    if image.format != "TIFF" or not tiles or any(t.args[0] not in _LOW_BYTES for t in tiles):
        return None
    file = image.fp  # type: ignore[attr-defined]
    place = file.tell()
    file.seek(0)
    content: bytes = file.read()
    file.seek(place)
    return content


def _white(values: np.ndarray, tags: Tags, floats: bool = False) -> float:
    """The value that means white."""
    most, said = values.max(), _declared(tags)
    if said is not None and not floats and most <= said:
        return said
    return next((white for white in (1.0,) * floats + _GUESSES if most <= white), _FULL)


def _declared(tags: Tags) -> float | None:
    """The largest value by the tags, if they say more than the number of bits stored. They may name
    the brightest value found instead of the brightest possible one: it stands for the number of
    bits that it needs."""
    bits = [
        int(max(_numbers(tags[tag]))).bit_length()
        for tag in (_MAXIMUM, _SAMPLE_MAXIMUM)
        if tag in tags
    ]
    stored = max(_numbers(tags.get(_BITS, 16)))
    bits += [int(stored)] if stored < 16 else []
    return 2.0 ** max(1, min(bits)) - 1 if bits else None


def _high_byte(tags: Tags) -> int:
    """The largest high byte that values of less than 16 bits can have; -1 where they have 16."""
    said = _declared(tags) or _GUESSES[-1]
    return int(said) >> 8 if said < _FULL else -1


def _numbers(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)
