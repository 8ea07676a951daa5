"""Untrusted files in, exact pixels out."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import (
    PAD_COLOUR,
    _too_large,
    fit_square,
    flatten_image,
    images_from_pixels,
    inner_mask,
    mask_from_image,
    paste_inside,
    pixels_from_images,
    read_image,
    resize_image,
    shrink_image,
    shrink_to_area,
    soft_mask,
    white_part,
)
from ipadapter_demo.masks import flatten_mask
from ipadapter_demo.request import Fit

ORIENTATION = 0x0112  # EXIF tag; 6 means "turn a quarter clockwise to see it upright"
FILE_FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"]
pillow_heif.register_heif_opener()  # to write it
ALL_MODES = [
    *("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA"),
    *("RGBX", "RGBa", "La", "I;16", "I;16L", "I;16B", "I;16N"),
]


def noise(width: int = 12, height: int = 9, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


# Reading files


def test_a_png_is_read_exactly_from_path_bytes_and_file(tmp_path: Path) -> None:
    content = encoded(noise())
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    for source in (path, str(path), content, io.BytesIO(content)):
        assert flatten_image(read_image(source)) == noise()


@pytest.mark.parametrize("file_format", FILE_FORMATS)
def test_common_formats_are_read(file_format: str) -> None:
    assert read_image(encoded(noise(64, 48), file_format)).size == (64, 48)


@pytest.mark.parametrize("file_format", FILE_FORMATS)
@pytest.mark.parametrize("kept", [0.01, 0.1, 0.5, 0.95])
def test_a_truncated_file_is_refused(file_format: str, kept: float) -> None:
    content = encoded(noise(64, 48), file_format)
    with pytest.raises(RequestError, match="photo"):
        read_image(content[: max(1, int(len(content) * kept))], "photo")


@pytest.mark.parametrize("content", [b"hello", b"\0" * 1000, b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF"])
def test_what_is_not_a_picture_is_refused(content: bytes) -> None:
    with pytest.raises(RequestError, match=r"photo is not a picture .*PNG, JPEG"):
        read_image(content, "photo")


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(RequestError, match=r"photo is an empty file \(0 bytes\)"):
        read_image(b"", "photo")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="photo cannot be read: No such file"):
        read_image(tmp_path / "none.png", "photo")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("side", "value"), [(20_000, "400,000,000"), (8_000, "8000x8000")])
def test_a_picture_that_is_too_large_is_refused_by_its_header(side: int, value: str) -> None:
    """Pillow itself refuses the first and only warns of the second. Nothing comes after the
    header, so whoever decodes reports another fault."""
    header = encoded(Image.new("1", (side, side)))[:100]
    with pytest.raises(RequestError, match=f"photo must have at most 50,000,000 .* got {value}"):
        read_image(header, "photo")


def test_a_warning_of_pillow_made_an_error_is_a_refusal_too() -> None:
    with pytest.raises(RequestError, match=r"at most 50,000,000 pixels, got 64,000,000"):
        read_image(encoded(Image.new("1", (8_000, 8_000))))


def test_a_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipadapter_demo.imaging.MAX_FILE_BYTES", 100)
    with pytest.raises(RequestError, match="photo must be a file of at most 100 bytes"):
        read_image(encoded(noise()), "photo")


def test_a_whole_picture_with_damaged_metadata_is_read() -> None:
    wrong = Image.Exif()
    wrong[ORIENTATION] = 6
    for exif in (b"Exif\x00\x00garbage garbage", wrong.tobytes().replace(b"\x03\x00", b"\x02\x00")):
        file = encoded(noise(), exif=exif)
        assert flatten_image(read_image(file)).tobytes() == noise().tobytes()
    text = PngInfo()
    text.add_text("workflow", "0123" * 2**19, zip=True)
    assert flatten_image(read_image(encoded(noise(), pnginfo=text))).tobytes() == noise().tobytes()


def test_exif_rotation_is_applied_and_dropped() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    upright = flatten_image(read_image(encoded(noise(), exif=exif)))
    assert upright == noise().transpose(Image.Transpose.ROTATE_270)
    assert flatten_image(upright) == upright  # not turned a second time


def test_the_first_frame_of_an_animation_is_taken() -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for file_format in ("GIF", "PNG", "WEBP"):
        content = encoded(
            red, file_format, save_all=True, append_images=[blue], duration=9, lossless=True
        )
        assert flatten_image(read_image(content)) == red


# To the ends of the limits


class Endless(io.BytesIO):
    """A file that goes on for as long as it is read."""

    def read(self, count: int | None = -1) -> bytes:
        assert count is not None
        return bytes(count)


def refusal(call: Callable[..., object], *given: object) -> str:
    with pytest.raises(RequestError) as refused:
        call(*given)
    return str(refused.value)


def test_a_file_may_have_as_many_bytes_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, path = encoded(noise()), tmp_path / "picture.png"
    path.write_bytes(content)
    sources = (path, str(path), content, lambda: io.BytesIO(content))
    monkeypatch.setattr("ipadapter_demo.imaging.MAX_FILE_BYTES", len(content))
    for source in sources:
        assert flatten_image(read_image(source() if callable(source) else source)) == noise()
    monkeypatch.setattr("ipadapter_demo.imaging.MAX_FILE_BYTES", len(content) - 1)
    said = f"photo must be a file of at most {len(content) - 1} bytes"
    for source in (*sources, Endless):
        assert refusal(read_image, source() if callable(source) else source, "photo") == said


def test_a_picture_may_have_as_many_pixels_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipadapter_demo.imaging.MAX_PIXELS", 12 * 9)
    assert flatten_image(read_image(encoded(noise()))) == noise()
    monkeypatch.setattr("ipadapter_demo.imaging.MAX_PIXELS", 12 * 9 - 1)
    said = "photo must have at most 107 pixels, got 12x9"
    assert refusal(read_image, encoded(noise()), "photo") == said
    assert refusal(flatten_image, noise(), "photo") == said
    assert refusal(flatten_mask, noise(), "photo") == said


def test_pillow_s_own_limit_is_told_as_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    said = "photo must have at most 50,000,000 pixels, got"
    assert refusal(read_image, encoded(noise(60, 50)), "photo") == f"{said} 3,000"
    assert str(_too_large("photo", None)) == f"{said} more"


def test_what_is_wrong_with_a_picture_is_said_in_full() -> None:
    assert refusal(read_image, b"") == "image is an empty file (0 bytes)"
    for content in (b"GIF8", encoded(noise(), "PPM")):  # Pillow reads PPM, this project does not
        assert refusal(read_image, content, "photo") == (
            "photo is not a picture that can be read (PNG, JPEG, WEBP, GIF, BMP, TIFF, AVIF, HEIF)"
        )
    for flatten, field in ((flatten_image, "image"), (flatten_mask, "mask")):
        assert refusal(flatten, 3) == f"{field} must be a picture (PIL image), got int"
        for size in ((0, 5), (5, 0)):
            said = f"{field} has no pixels: it is {size[0]}x{size[1]}"
            assert refusal(flatten, Image.new("L", size)) == said


# Flattening


@pytest.mark.parametrize("mode", ALL_MODES)
def test_every_mode_flattens(mode: str) -> None:
    image = Image.new(mode, (5, 4))
    assert (flatten_image(image).mode, flatten_image(image).size) == ("RGB", (5, 4))
    assert (flatten_mask(image).mode, flatten_mask(image).size) == ("L", (5, 4))


def test_transparency_becomes_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    for transparent in (image, image.convert("P"), read_image(encoded(image))):
        assert list(flatten_image(transparent).get_flattened_data()) == [
            (255, 0, 0),
            (255, 255, 255),
        ]


def test_half_transparency_is_blended_with_white() -> None:
    assert flatten_image(Image.new("LA", (1, 1), (0, 128))).getpixel((0, 0)) == (127, 127, 127)


def test_cmyk_becomes_rgb() -> None:
    cmyk = read_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    red, green, blue = np.asarray(flatten_image(cmyk))[4, 4]
    assert red > 250
    assert max(green, blue) < 5


def test_sixteen_bits_are_scaled_not_cut() -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    deep = Image.fromarray(values)
    wide = Image.fromarray(values.astype(np.int32))
    big_endian = Image.frombytes("I;16B", (4, 1), values.byteswap().tobytes())
    for image in (deep, wide, big_endian, read_image(encoded(deep))):
        assert np.asarray(flatten_image(image))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_float_grey_is_scaled_by_the_range_it_fills(white: float) -> None:
    image = Image.fromarray(np.array([[0, 0.5, 1, np.nan]], dtype=np.float32) * white)
    assert np.asarray(flatten_image(image))[0, :, 0].tolist() == [0, 128, 255, 0]


def test_lab_white_is_white() -> None:
    assert flatten_image(Image.new("LAB", (1, 1), (255, 128, 128))).getpixel((0, 0))[0] >= 254


def test_flattening_copies_and_drops_metadata() -> None:
    image = noise()
    image.info["comment"] = "leftover"
    flat = flatten_image(image)
    image.putpixel((0, 0), (1, 2, 3))
    assert flat.info == {}
    assert flat == noise()


@pytest.mark.parametrize("wrong", [None, "picture.png", b"", np.zeros((4, 4, 3), np.uint8)])
@pytest.mark.parametrize("flatten", [flatten_image, flatten_mask])
def test_what_is_no_pil_image_is_refused(flatten: Callable[..., Image.Image], wrong: Any) -> None:
    with pytest.raises(RequestError, match="photo must be a picture"):
        flatten(wrong, "photo")


@pytest.mark.parametrize("flatten", [flatten_image, flatten_mask])
def test_size_is_checked_when_flattening(flatten: Callable[..., Image.Image]) -> None:
    with pytest.raises(RequestError, match="photo has no pixels: it is 0x5"):
        flatten(Image.new("RGB", (0, 5)), "photo")
    with pytest.raises(RequestError, match=r"photo must have at most .* got 8000x8000"):
        flatten(Image.new("1", (8000, 8000)), "photo")


def test_a_lazily_opened_truncated_file_is_refused_when_flattened() -> None:
    content = encoded(noise(64, 64))
    with pytest.raises(RequestError, match="photo is damaged or cut short"):
        flatten_image(Image.open(io.BytesIO(content[: len(content) // 2])), "photo")


def test_a_mask_is_cut_at_128() -> None:
    mask = Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8))
    assert list(flatten_mask(mask).get_flattened_data()) == [0, 0, 255, 255]
    assert flatten_mask(flatten_mask(mask)) == flatten_mask(mask)


def test_a_painted_layer_is_a_mask_by_its_alpha_whatever_its_colour() -> None:
    layer = Image.new("RGBA", (4, 4))
    layer.paste((0, 0, 0, 255), (0, 0, 2, 2))
    assert flatten_mask(layer).getbbox() == (0, 0, 2, 2)


def test_an_unpainted_layer_is_an_empty_mask() -> None:
    assert flatten_mask(Image.new("RGBA", (4, 4), (255, 255, 255, 0))).getbbox() is None


def test_an_opaque_picture_is_a_mask_by_its_brightness() -> None:
    mask = Image.new("RGBA", (4, 4), "black")
    mask.paste((255, 255, 255, 255), (1, 1, 3, 3))
    assert flatten_mask(mask).getbbox() == (1, 1, 3, 3)


# Tensors


def test_pixels_round_trip_every_grey_level_exactly() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    pixels = pixels_from_images([Image.fromarray(levels), noise(16, 16)])
    assert (pixels.shape, pixels.dtype) == ((2, 3, 16, 16), torch.float32)
    assert [pixels.min(), pixels.max()] == [-1.0, 1.0]
    assert images_from_pixels(pixels) == [Image.fromarray(levels), noise(16, 16)]


def test_pixels_outside_the_range_are_clamped_and_halves_are_taken() -> None:
    pixels = torch.tensor([-3.0, 0.004, 3.0]).view(1, 3, 1, 1).to(torch.bfloat16)
    assert images_from_pixels(pixels)[0].getpixel((0, 0)) == (0, 128, 255)


def test_a_mask_becomes_zeros_and_ones() -> None:
    mask = mask_from_image(Image.fromarray(np.array([[0, 255, 0]], dtype=np.uint8)))
    assert torch.equal(mask, torch.tensor([[[[0.0, 1.0, 0.0]]]]))


# Sizes


def striped() -> Image.Image:
    """Wide, red in the middle square, blue beside it."""
    image = Image.new("RGB", (40, 20), "blue")
    image.paste((255, 0, 0), (10, 0, 30, 20))
    return image


def test_crop_keeps_the_centre() -> None:
    cropped = fit_square(striped(), 10, "crop")
    assert cropped.size == (10, 10)
    assert cropped.getchannel("R").getextrema()[0] > 230  # bicubic mixes in the nearest blue


def test_pad_keeps_everything_within_a_neutral_border() -> None:
    padded = fit_square(striped(), 40, "pad")
    assert padded.size == (40, 40)
    assert padded.getpixel((0, 0)) == PAD_COLOUR
    assert padded.crop((0, 10, 40, 30)) == striped()


def test_squash_keeps_everything() -> None:
    squashed = fit_square(striped(), 20, "squash")
    assert squashed.size == (20, 20)
    assert squashed.getpixel((0, 10))[2] > squashed.getpixel((10, 10))[2]


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(1000, 1), (1, 1000), (1, 1)])
def test_extreme_proportions_fit(fit: Fit, size: tuple[int, int]) -> None:
    assert fit_square(Image.new("RGB", size), 32, fit).size == (32, 32)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_a_square_of_the_right_size_is_left_alone(fit: Fit) -> None:
    assert fit_square(noise(16, 16), 16, fit) == noise(16, 16)


def test_padding_is_even_on_both_sides() -> None:
    tall = striped().transpose(Image.Transpose.TRANSPOSE)
    for given, box in ((striped(), (0, 10, 40, 30)), (tall, (10, 0, 30, 40))):
        padded = fit_square(given, 40, "pad")
        assert padded.crop(box) == given
        padded.paste(PAD_COLOUR, box)
        assert padded.getcolors() == [(1600, PAD_COLOUR)]


@pytest.mark.parametrize("upright", [True, False])
def test_the_odd_pixel_of_a_crop_is_cut_off_at_the_right_or_at_the_bottom(upright: bool) -> None:
    ramp = Image.fromarray(np.tile(np.arange(7, dtype=np.uint8), (4, 1))).convert("RGB")
    kept = ramp.crop((1, 0, 5, 4))
    if upright:
        ramp, kept = (image.transpose(Image.Transpose.TRANSPOSE) for image in (ramp, kept))
    assert fit_square(ramp, 4, "crop") == kept


def test_a_longest_side_of_some_pixels_keeps_one_of_the_other() -> None:
    for size, shrunk in (((1000, 1), (10, 1)), ((1, 1000), (1, 10)), ((1000, 149), (10, 1))):
        assert shrink_image(Image.new("RGB", size), 10).size == shrunk


def test_a_mask_is_resized_by_what_it_covers() -> None:
    """Half a cell is enough."""
    covered = np.random.default_rng(0).integers(0, 2, (48, 48)).astype(bool)
    share = covered.reshape(12, 4, 12, 4).mean((1, 3))
    assert (share == 0.5).any()
    resized = resize_image(Image.fromarray(covered * np.uint8(255)), (12, 12))
    assert np.array_equal(np.asarray(resized), np.where(share >= 0.5, 255, 0))


def test_grey_pictures_have_three_channels_as_pixels() -> None:
    assert torch.equal(pixels_from_images([Image.new("L", (2, 1), 255)]), torch.ones(1, 3, 1, 2))
    white = white_part(Image.fromarray(np.array([[[127] * 3, [128] * 3]], np.uint8)))
    assert white.tolist() == [[False, True]]


def test_a_resized_mask_stays_a_mask() -> None:
    mask = flatten_mask(noise(33, 17))
    assert set(resize_image(mask, (8, 8)).get_flattened_data()) <= {0, 255}


def test_shrinking_keeps_proportions_and_never_enlarges() -> None:
    assert shrink_image(Image.new("RGB", (4000, 3000)), 1024).size == (1024, 768)
    assert shrink_image(noise(), 1024) == noise()


@pytest.mark.parametrize(
    ("size", "shrunk"),
    [
        ((4000, 3000), (1182, 886)),
        ((1536, 640), (1536, 640)),
        ((1024, 1024), (1024, 1024)),
        ((3072, 1280), (1586, 660)),
        ((10**6, 2), (724077, 1)),
    ],
    ids=str,
)
def test_a_picture_is_shrunk_to_an_area(size: tuple[int, int], shrunk: tuple[int, int]) -> None:
    found = shrink_to_area(Image.new("RGB", size), 1024 * 1024)
    assert found.size == shrunk
    assert found.width * found.height <= 1024 * 1024


# Masks: law 7


def square_mask(size: int = 32) -> Image.Image:
    mask = Image.new("L", (size, size))
    mask.paste(255, (8, 8, 24, 24))
    return mask


@pytest.mark.parametrize("feather", [0, 1, 2, 5, 64])
def test_outside_the_mask_every_pixel_is_the_originals(feather: int) -> None:
    original, generated = noise(32, 32, 1), noise(32, 32, 2)
    outside = np.asarray(square_mask()) == 0
    pasted = np.asarray(paste_inside(original, generated, square_mask(), feather))
    assert np.array_equal(pasted[outside], np.asarray(original)[outside])


def test_without_feather_the_inside_is_generated() -> None:
    original, generated = noise(32, 32, 1), noise(32, 32, 2)
    inside = np.asarray(square_mask()) == 255
    pasted = np.asarray(paste_inside(original, generated, square_mask(), 0))
    assert np.array_equal(pasted[inside], np.asarray(generated)[inside])


def test_a_soft_mask_rises_inwards_over_the_feather() -> None:
    row = np.asarray(soft_mask(square_mask(), 2))[16].tolist()
    assert row[6:12] == [0, 0, 85, 170, 255, 255]


def test_an_inner_mask_has_lost_its_rim_but_at_the_border_of_the_picture() -> None:
    mask = Image.new("L", (12, 10))
    mask.paste(255, (3, 0, 12, 10))
    assert inner_mask(mask, 2).getbbox() == (5, 0, 12, 10)
    assert inner_mask(Image.new("L", (8, 8), 255), 4).getextrema() == (255, 255)
    for rim in (20, 0):  # as a thin stroke, which is all rim
        assert inner_mask(mask, rim).tobytes() == mask.tobytes()


def test_the_border_of_the_picture_is_no_seam() -> None:
    assert soft_mask(Image.new("L", (8, 8), 255), 4).getextrema() == (255, 255)
    mask = Image.new("L", (8, 8), 255)
    mask.paste(0, (0, 0, 1, 8))
    assert np.asarray(soft_mask(mask, 2))[0].tolist() == [0, 85, 170, 255, 255, 255, 255, 255]
