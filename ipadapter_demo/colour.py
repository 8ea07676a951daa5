"""Any PIL picture as 8-bit sRGB: embedded ICC profiles applied, transparency made white."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

DEEP = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})  # more than 8 bits a value

# The kind of values (ICC.1:2022, table 22) that a profile for each of these modes describes.
_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}


def rgb_from_picture(image: Image.Image) -> Image.Image:
    """As "RGB" in sRGB, on white where `image` is transparent. Deep pictures are scaled to 8 bits.

    A profile that is damaged, or made for another kind of values, is ignored.
    """
    profile = image.info.get("icc_profile")
    if image.mode in DEEP:
        return _in_srgb(eight_bit(image), profile)
    alpha = alpha_of(image)
    rgb = _in_srgb(_opaque(image), profile)
    if alpha is None:
        return rgb
    return Image.composite(rgb, Image.new("RGB", image.size, "white"), alpha)


def alpha_of(image: Image.Image) -> Image.Image | None:
    """The opacity as "L"; None for a picture that cannot be transparent."""
    if image.mode in DEEP or not image.has_transparency_data:
        return None
    return _rgba(image).getchannel("A")


def brightness_of(image: Image.Image) -> Image.Image:
    """As "L", transparency and profile aside: for masks, whose values are no colours."""
    if image.mode == "LAB":
        return image.getchannel("L")
    return eight_bit(image) if image.mode in DEEP else _opaque(image).convert("L")


def eight_bit(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit or float grey as 8-bit grey.

    "I" and "F" do not say what white is: it is the first of 1 (float only), 255 and 65535 that no
    value exceeds.
    """
    values = np.nan_to_num(np.asarray(image), posinf=0.0)
    if image.mode.startswith("I;16"):
        white = 65535.0
    else:
        whites = (1.0, 255.0) if image.mode == "F" else (255.0,)
        white = next((white for white in whites if values.max() <= white), 65535.0)
    return Image.fromarray(scaled(values, white))


def scaled(values: np.ndarray, white: float) -> np.ndarray:
    """Values from 0 to `white`, as the nearest of 256 levels; what lies outside is clipped."""
    if values.dtype == np.uint16:  # by a table: eight bytes for each value are too many
        return scaled(np.arange(2**16), white)[values]
    return np.rint(values.clip(0, white) * (255.0 / white)).astype(np.uint8)


def _opaque(image: Image.Image) -> Image.Image:
    """`image` as "L", "RGB" or "CMYK", whichever holds its values unchanged, without opacity."""
    if image.has_transparency_data:
        grey = image.mode in ("L", "LA", "La")
        return _rgba(image).getchannel("R") if grey else _rgba(image).convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in _SPACES else image.convert("RGB")


def _rgba(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied grey converts in two steps only
        image = image.convert("LA")
    return image.convert("RGBA")


def _in_srgb(image: Image.Image, profile: object) -> Image.Image:
    """From "L", "RGB" or "CMYK" to "RGB", by its profile if that says something else than sRGB."""
    transform = _transform(image.mode, profile) if isinstance(profile, bytes) else None
    return image.convert("RGB") if transform is None else _converted(image, transform)


def _transform(mode: str, profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """To sRGB, relative to the white of `profile`, black to black; None where that profile cannot
    be used or is sRGB itself."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """There are dozens of files that all mean sRGB; through any of them a picture would come out
    with some values rounded to a neighbour."""
    if mode == "CMYK":
        return False
    levels = np.arange(256, dtype=np.uint8)
    grey, some = np.stack([levels] * 3, axis=-1), levels[::17]
    chart = np.concatenate([grey, np.stack(np.meshgrid(some, some, some), axis=-1).reshape(-1, 3)])
    image = Image.fromarray((grey if mode == "L" else chart)[None])
    before = np.asarray(image, dtype=int)
    return int(abs(np.asarray(_converted(image.convert(mode), transform)) - before).max()) <= 1


def _converted(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    found = ImageCms.applyTransform(image, transform)
    assert found is not None  # it is None only in place
    return found
