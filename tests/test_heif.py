"""HEIC, which phones make."""

import io
import subprocess
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import flatten_image, read_image

ORIENTATION = 0x0112


@pytest.fixture(scope="module", autouse=True)
def opener() -> None:
    pillow_heif.register_heif_opener()


def halves() -> Image.Image:
    """Wide; the left half red, the right half blue."""
    image = Image.new("RGB", (96, 64), (220, 30, 30))
    image.paste((30, 30, 220), (48, 0, 96, 64))
    return image


def heic(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "HEIF", **{"quality": 95} | options)
    return file.getvalue()


def test_a_heic_file_is_read_by_a_process_that_has_loaded_no_plugin() -> None:
    script = (
        "import sys; from ipadapter_demo.imaging import read_image, flatten_image;"
        "image = flatten_image(read_image(sys.stdin.buffer));"
        "print(image.size, *image.getpixel((10, 10)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], input=heic(halves()), check=True, capture_output=True
    )
    *size, red, green, blue = ran.stdout.decode().split()
    assert size == ["(96,", "64)"]
    assert abs(np.array([red, green, blue], int) - (220, 30, 30)).max() <= 4


def test_any_brand_of_the_container_will_do() -> None:
    content = heic(halves())
    assert content[4:12] == b"ftypheic"
    assert read_image(content.replace(b"ftypheic", b"ftypmif1", 1)).size == (96, 64)


def test_a_phone_s_photo_is_turned_once() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # a quarter clockwise
    upright = flatten_image(read_image(heic(halves(), exif=exif.tobytes())))
    assert upright.size == (64, 96)
    assert upright.getpixel((32, 10))[0] > 180, "the left half is on top"
    assert upright.getpixel((32, 86))[2] > 180
    assert flatten_image(upright) == upright


def test_a_transparent_one_is_put_on_white() -> None:
    picture = halves().convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 48, 64))
    flat = flatten_image(read_image(heic(picture)))
    assert min(flat.getpixel((10, 32))) >= 250
    assert flat.getpixel((80, 32))[2] > 200


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_one_that_is_too_large_is_refused_by_its_header() -> None:
    content = bytearray(heic(halves()))
    place = content.index(b"ispe") + 8
    while place > 8:  # every picture in the file says its size
        content[place : place + 8] = (8000).to_bytes(4, "big") * 2
        place = content.find(b"ispe", place) + 8
    with pytest.raises(RequestError, match=r"at most 50,000,000 pixels, got 8000x8000"):
        read_image(bytes(content), "photo")


@pytest.mark.parametrize("kept", [0.01, 0.1, 0.5, 0.95])
def test_a_truncated_one_is_refused(kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    content = heic(Image.fromarray(noise))
    with pytest.raises(RequestError, match="photo"):
        read_image(content[: int(len(content) * kept)], "photo")
