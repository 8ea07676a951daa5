"""Pictures: untrusted files to PIL, PIL to tensors and back. Sole owner of pixel ranges.

Inside the project a picture is an RGB PIL image of 8 bits a channel, a mask an "L" image of 0 and
255 (white = here), and `pixels` are a float32 tensor (batch, 3, height, width) in [-1, 1].
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from ipadapter_demo.colour import rgb_from_picture
from ipadapter_demo.depth import upright
from ipadapter_demo.errors import RequestError
from ipadapter_demo.feather import opacity
from ipadapter_demo.flat import is_flat, remembered

if TYPE_CHECKING:  # a page or a command line that only builds requests never waits for torch
    from jaxtyping import Float
    from torch import Tensor

MAX_PIXELS = 50_000_000
MAX_FILE_BYTES = 100 * 2**20
PngImagePlugin.MAX_TEXT_CHUNK = 16 * 2**20  # a colour profile of printing has more than 1 MiB
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow warns above this and refuses above twice this

# Formats that Pillow decodes itself, but some of the others start programs (EPS) or are rare enough
# that their decoders are seldom tested; and HEIF (.heic), which phones make.
_PILLOW = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
FORMATS = (*_PILLOW, "HEIF")

# The mean colour CLIP normalises with, so padding is zero to the encoder.
# https://github.com/openai/CLIP/blob/dcba3cb/clip/clip.py#L85
PAD_COLOUR = (123, 117, 104)

LONGEST = 100  # of a picture that is cropped to a square: its longer side in shorter ones


def read_bytes(source: Path | str | bytes | BinaryIO, field: str, most: int = 0) -> bytes:
    """The content of an untrusted file: at least 1 and at most `most` or MAX_FILE_BYTES bytes."""
    most = most or MAX_FILE_BYTES
    try:
        if isinstance(source, (str, Path)):
            with open(source, "rb") as file:
                content = file.read(most + 1)
        else:
            content = source if isinstance(source, bytes) else source.read(most + 1)
    except OSError as error:
        raise RequestError(f"{field} cannot be read: {error.strerror}") from error
    if not content:
        raise RequestError(f"{field} is an empty file (0 bytes)")
    if len(content) > most:
        raise RequestError(f"{field} must be a file of at most {most:,} bytes")
    return content


def read_image(
    source: Path | str | bytes | BinaryIO, field: str = "image", most: int = 0
) -> Image.Image:
    """Decode an untrusted file: its first frame, upright, in the file's own mode.

    Only a TIFF of more than 8 bits a value is scaled to 8: its tags say how, see `depth`.
    Transparency and the colour profile are kept: `flatten_image` applies both.
    Raises RequestError for anything that is not a whole picture of at most MAX_PIXELS; a picture
    that is too large is refused by its header, before a pixel is decoded. `most` as in
    `read_bytes`.
    """
    content = read_bytes(source, field, most)
    try:
        with Image.open(io.BytesIO(content), formats=_formats(content)) as image:
            _check_size(image, field)
            return upright(image)
    except RequestError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(field, re.search(r"\d+(?= pixels)", str(error))) from error
    except Image.UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise RequestError(f"{field} is not a picture that can be read ({known})") from error
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise RequestError(f"{field} is damaged or cut short: {error}") from error


def flatten_image(image: object, field: str = "image") -> Image.Image:
    """Any PIL image as an independent, upright RGB copy in sRGB, without metadata; such a copy
    itself as it is.

    An embedded colour profile is applied, transparent parts become white, 16-bit and float pictures
    are scaled to 8 bits.
    """
    if isinstance(image, Image.Image) and is_flat(image, "RGB"):
        return image
    image = upright_picture(image, field)
    try:
        flat = rgb_from_picture(image)
    except (ValueError, OSError, ImageCms.PyCMSError) as error:
        raise RequestError(f"{field} has the mode {image.mode}, which has no colours") from error
    flat.info.clear()  # PIL compares pictures with their metadata: equal pixels shall be equal
    return remembered(flat)


def pixels_from_images(images: Sequence[Image.Image]) -> Float[Tensor, "b 3 h w"]:
    """RGB images of one size as float32 pixels in [-1, 1]."""
    import torch

    stacked = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1.0


def images_from_pixels(pixels: Float[Tensor, "b 3 h w"]) -> list[Image.Image]:
    """Pixels in [-1, 1] as RGB images, clamped, rounded to the nearest of 256 levels.

    Inverts `pixels_from_images` exactly. Pixels must be finite: NaN has no grey level.
    """
    import torch

    levels = ((pixels.detach().float() + 1.0) * 127.5).round().clamp(0, 255)
    stacked = levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in stacked]


def mask_from_image(mask: Image.Image) -> Float[Tensor, "1 1 h w"]:
    """A mask as a float32 tensor of 0 and 1 (1 = here)."""
    import torch

    return torch.from_numpy(white_part(mask)).float()[None, None]


def white_part(mask: Image.Image) -> np.ndarray:
    """The white part of a mask: (h, w) bool."""
    return np.asarray(mask.convert("L")) >= 128


def fit_square(image: Image.Image, size: int, fit: Literal["crop", "pad", "squash"]) -> Image.Image:
    """`image` as a square of `size` pixels.

    crop keeps the centre as `centre_crop` does, pad adds a neutral border, squash changes the
    proportions.
    """
    if fit == "squash":
        return resize_image(image, (size, size))
    if fit == "crop":
        return centre_crop(image, size, size)
    assert fit == "pad", fit
    inner = _fitted(image.size, size)
    square = Image.new("RGB", (size, size), PAD_COLOUR)
    square.paste(resize_image(image, inner), ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return square


def centre_crop(
    image: Image.Image,
    shortest: int,
    size: int,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """The central square of `size` pixels, of `image` with its shorter side at `shortest`.

    The very pixels of CLIPImageProcessor as the first authors had it (the backend that transformers
    5 calls PIL): the longer side is rounded down, and whole pixels are cut off, the odd one at the
    right or at the bottom. Of a picture longer than LONGEST times its width only the middle is
    resized, as all of it would take gigabytes; there its pixels may lie one further.
    https://github.com/huggingface/transformers/blob/v4.30.2/src/transformers/image_transforms.py
    """
    short = min(image.size)
    image = _cut(image, *(min(side, short * LONGEST) for side in image.size))
    width, height = (
        shortest if side == short else int(shortest * side / short) for side in image.size
    )
    if image.size != (width, height):
        image = image.resize((width, height), resample)
    return _cut(image, size, size)


def _cut(image: Image.Image, width: int, height: int) -> Image.Image:
    """The central part; black beyond the border of a smaller image."""
    left, upper = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, upper, left + width, upper + height))


def resize_image(
    image: Image.Image,
    size: tuple[int, int],
    resampling: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """To (width, height); a mask ("L") stays 0 or 255, however it is resampled."""
    if image.size == size:
        return image.copy()
    if image.mode == "L":
        covered = image.resize(size, Image.Resampling.BOX)
        return covered.point(lambda value: 255 if value >= 128 else 0)
    return image.resize(size, resampling)


def shrink_image(image: Image.Image, longest: int) -> Image.Image:
    """A copy whose longer side is at most `longest`; a phone's photo is far larger than needed."""
    if max(image.size) <= longest:
        return image.copy()
    return resize_image(image, _fitted(image.size, longest))


def shrink_to_area(image: Image.Image, most: int) -> Image.Image:
    """A copy of at most `most` pixels, in the same proportions."""
    scale = (most / (image.width * image.height)) ** 0.5
    if scale >= 1:
        return image.copy()
    width, height = (max(1, int(side * scale)) for side in image.size)
    return resize_image(image, (width, height))


def soft_mask(mask: Image.Image, feather: int) -> Image.Image:
    """Opacity for a seam: 0 wherever `mask` is 0, rising to 255 over `feather` pixels inwards.

    A part of the mask that is less deep than that, or a thin arm of it, rises to 255 where it is
    deepest. The border of the picture is no seam: a mask that reaches it is opaque there.
    """
    return Image.fromarray(np.rint(opacity(depth_of(mask), feather + 1) * 255).astype(np.uint8))


def inner_mask(mask: Image.Image, rim: int) -> Image.Image:
    """`mask` without its outermost `rim` pixels; whole, where nothing would be left of it.

    The border of the picture is no edge here either.
    """
    depth = depth_of(mask)
    inner = depth > rim
    return Image.fromarray((inner if inner.any() else depth > 0) * np.uint8(255))


def depth_of(mask: Image.Image) -> np.ndarray:
    """Depth of each pixel in the white part, in pixels: 1 at its edge, 0 outside."""
    import cv2

    inside = white_part(mask).astype(np.uint8)
    if inside.all():
        return np.full(inside.shape, np.inf, np.float32)
    return cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def paste_inside(
    original: Image.Image, generated: Image.Image, mask: Image.Image, feather: int
) -> Image.Image:
    """`generated` inside `mask`, every other pixel bit for bit that of `original`. One size all."""
    assert original.size == generated.size == mask.size, (original.size, generated.size, mask.size)
    return Image.composite(generated, original, soft_mask(mask, feather))


def tinted(image: Image.Image, amount: Image.Image) -> Image.Image:
    """`image` in colour where `amount` ("L", of any size) is highest, fading to dark grey where it
    is lowest, whatever its values are."""
    low, high = amount.getextrema()
    stretched = amount.point(lambda v: round((v - low) * 255 / max(1, high - low)))  # type: ignore[operator]
    alpha = stretched.resize(image.size, Image.Resampling.BICUBIC)
    return Image.composite(image, image.convert("L").point(lambda v: v // 3).convert("RGB"), alpha)


def _formats(content: bytes) -> tuple[str, ...]:
    """The decoders that may try. That of HEIF is loaded for files that may be of its kind."""
    if content[4:8] != b"ftyp":
        return _PILLOW
    import pillow_heif

    pillow_heif.register_heif_opener()
    return FORMATS


def _check_size(image: Image.Image, field: str) -> None:
    if not image.width * image.height:
        raise RequestError(f"{field} has no pixels: it is {image.width}x{image.height}")
    if image.width * image.height > MAX_PIXELS:
        raise RequestError(
            f"{field} must have at most {MAX_PIXELS:,} pixels, got {image.width}x{image.height}"
        )


def _too_large(field: str, found: re.Match[str] | None) -> RequestError:
    count = f"{int(found[0]):,}" if found else "more"
    return RequestError(f"{field} must have at most {MAX_PIXELS:,} pixels, got {count}")


def upright_picture(image: object, field: str) -> Image.Image:
    """A decoded, upright copy. Raises RequestError for what is no picture that can be read."""
    if not isinstance(image, Image.Image):
        raise RequestError(f"{field} must be a picture (PIL image), got {type(image).__name__}")
    _check_size(image, field)
    try:
        return upright(image)
    except Exception as error:  # PIL decodes late: see read_image
        raise RequestError(f"{field} is damaged or cut short: {error}") from error


def _fitted(size: tuple[int, int], longest: int) -> tuple[int, int]:
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
