"""Colours as their files mean them: embedded profiles become sRGB, and what we write says sRGB."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from ipadapter_demo.colour import alpha_of, brightness_of
from ipadapter_demo.imaging import flatten_image, read_image, shrink_image
from ipadapter_demo.masks import flatten_mask
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.record import save_png
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference
from ipadapter_demo.ui.run.uploads import image_from_upload
from tests.icc import (
    DISPLAY_P3,
    SRGB,
    cmyk_profile,
    grey_profile,
    grey_srgb_profile,
    rgb_profile,
)

P3 = rgb_profile(DISPLAY_P3)
# By the definitions of the two spaces, to the nearest level.
FROM_P3 = {
    (200, 60, 60): (217, 42, 52),
    (200, 60, 40): (217, 42, 23),
    (0, 160, 60): (0, 163, 41),
    (128, 128, 128): (128, 128, 128),
    (255, 255, 255): (255, 255, 255),
    (0, 0, 0): (0, 0, 0),
}
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def row(colours: list, mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (len(colours), 1))
    image.putdata(colours)
    return image


def values(image: Image.Image) -> list:
    return list(image.get_flattened_data())


def in_file(image: Image.Image, kind: str, profile: bytes, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, icc_profile=profile, **options)
    return content.getvalue()


def noise(seed: int = 0, size: tuple[int, int] = (64, 64)) -> Image.Image:
    shape = (*size[::-1], 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("kind", LOSSLESS)
def test_display_p3_becomes_srgb(kind: str) -> None:
    content = in_file(row(list(FROM_P3)), kind, P3, **LOSSLESS[kind])
    found = np.array(values(flatten_image(read_image(content))))
    assert abs(found - list(FROM_P3.values())).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "HEIF"])
def test_lossy_files_carry_their_profile_too(kind: str) -> None:
    options = {"chroma": 444} if kind == "HEIF" else {"subsampling": "4:4:4"}
    content = in_file(Image.new("RGB", (64, 64), (200, 60, 60)), kind, P3, quality=95, **options)
    found = flatten_image(read_image(content)).getpixel((32, 32))
    assert abs(np.array(found) - (217, 42, 52)).max() <= 4


def test_a_palette_has_a_profile_too() -> None:
    paletted = row(list(FROM_P3)).convert("P", palette=Image.Palette.ADAPTIVE)
    found = np.array(values(flatten_image(read_image(in_file(paletted, "PNG", P3)))))
    assert abs(found - list(FROM_P3.values())).max() <= 2


@pytest.mark.parametrize("mode", ["YCbCr", "HSV"])
def test_colours_by_other_coordinates_have_a_profile_too(mode: str) -> None:
    image = row(list(FROM_P3)).convert(mode)
    expected = image.convert("RGB")
    expected.info["icc_profile"] = image.info["icc_profile"] = P3
    assert values(flatten_image(image)) == values(flatten_image(expected))


def test_a_profile_leaves_the_opacity_alone() -> None:
    picture = row([(200, 60, 60, 255), (200, 60, 60, 0), (200, 60, 60, 128)], "RGBA")
    opaque, clear, half = values(flatten_image(read_image(in_file(picture, "PNG", P3))))
    assert abs(np.array(opaque) - (217, 42, 52)).max() <= 2
    assert clear == (255, 255, 255)
    assert abs(np.array(half) - (np.array(opaque) * 128 + 255 * 127) / 255).max() <= 1


def test_a_profile_is_applied_once() -> None:
    read = read_image(in_file(Image.new("RGB", (2, 2), (200, 60, 60)), "PNG", P3))
    once = flatten_image(read)
    assert once.info == {}
    for again in (
        flatten_image(once),
        Reference(image=once).image,
        Reference(image=read).image,
        shrink_image(once, 1),
    ):
        assert again.getpixel((0, 0)) == once.getpixel((0, 0))


PROFILES = {
    "by definition": rgb_profile(SRGB),
    "by another library": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_srgb_by_any_profile_changes_no_bit(profile: bytes) -> None:
    assert flatten_image(read_image(in_file(noise(), "PNG", profile))) == noise()


def nearly_srgb(off: float) -> bytes:
    return rgb_profile(tuple((x + off, y) for x, y in SRGB))


def applied(image: Image.Image, profile: bytes, mode: str = "RGB") -> Image.Image:
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    changed = ImageCms.applyTransform(image, transform)
    assert changed is not None
    return changed


def test_srgb_but_for_rounding_changes_no_bit_and_what_is_two_levels_off_is_applied() -> None:
    for off, most, kept in ((4e-5, 1, True), (-4e-5, 1, True), (7e-5, 2, False)):
        profile = nearly_srgb(off)
        changed = applied(noise(), profile)
        assert abs(np.asarray(changed, int) - np.asarray(noise(), int)).max() == most
        found = flatten_image(read_image(in_file(noise(), "PNG", profile)))
        assert found.tobytes() == (noise() if kept else changed).tobytes()


@pytest.mark.parametrize("power", [2.38, 2.42])
def test_so_does_grey(power: float) -> None:
    levels, profile = row(list(range(256)), "L"), grey_srgb_profile(power)
    levels.info["icc_profile"] = profile
    changed = np.asarray(applied(levels, profile, "L"), int) - np.arange(256)[None, :, None]
    assert abs(changed).max() == 1
    assert values(flatten_image(levels)) == [(level,) * 3 for level in range(256)]


@pytest.mark.parametrize("mode", ["L", "LA", "La"])
def test_a_grey_profile_is_applied_to_grey_that_may_be_transparent(mode: str) -> None:
    picture = row([0, 128, 255], "L")
    expected = flatten_image(read_image(in_file(picture, "PNG", grey_profile(1.8))))
    assert values(expected)[1][0] == pytest.approx(143, abs=8)
    picture = picture.convert("LA").convert(mode) if mode != "L" else picture
    picture.info["icc_profile"] = grey_profile(1.8)
    if mode == "L":
        picture.info["transparency"] = 77  # a level that no pixel has
    assert flatten_image(picture) == expected


@pytest.mark.parametrize(
    "profile",
    [b"", b"damaged", P3[:200], P3[:300] + bytes(len(P3) - 300), grey_profile(1.8), cmyk_profile()],
)
def test_a_profile_that_is_damaged_or_of_other_values_is_ignored(profile: bytes) -> None:
    picture = noise()
    picture.info["icc_profile"] = profile
    assert flatten_image(picture) == noise()
    picture.info["icc_profile"] = profile.decode("latin-1")  # from who knows which library
    assert flatten_image(picture) == noise()


def test_a_grey_profile_is_applied_to_grey() -> None:
    """0.5 ** 1.8 of the light is 0.573 of sRGB's curve."""
    for mode, levels in (("L", [0, 128, 255]), ("I;16", [0, 128 * 257, 65535])):
        content = in_file(row(levels, mode), "PNG", grey_profile(1.8))
        found = np.array(values(flatten_image(read_image(content))))
        light = (128 / 255) ** 1.8
        expected = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
        assert abs(found - np.array([0, expected, 255])[:, None]).max() <= 2
    assert flatten_mask(read_image(content)).getpixel((1, 0)) == 255  # a mask holds no colours


def test_a_cmyk_profile_is_applied_to_cmyk() -> None:
    """L* = 50 is 119 in sRGB (IEC 61966-2-1 and CIE 1976)."""
    inks = row([(0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255), (255, 255, 255, 255)], "CMYK")
    found = np.array(values(flatten_image(read_image(in_file(inks, "TIFF", cmyk_profile())))))
    assert abs(found - np.array([255, 119, 119, 0])[:, None]).max() <= 2


def test_an_upload_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    path = tmp_path / "photo.png"
    path.write_bytes(in_file(Image.new("RGB", (8, 8), (200, 60, 60)), "PNG", P3))
    uploaded = image_from_upload({"path": str(path)}, "reference")
    assert uploaded is not None
    assert abs(np.array(uploaded.getpixel((0, 0))) - (217, 42, 52)).max() <= 2


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, start = [], 8
    while start < len(png):
        length = int.from_bytes(png[start : start + 4], "big")
        kind, data = png[start + 4 : start + 8], png[start + 8 : start + 8 + length]
        assert zlib.crc32(kind + data) == int.from_bytes(png[start + 8 + length :][:4], "big")
        found.append((kind, data))
        start += length + 12
    return found


def test_an_inpainted_photo_looks_the_same_outside_the_mask(pipeline: ImagePromptPipeline) -> None:
    """Law 7, as a colour-managed viewer sees it: the result says that it is in sRGB, and outside
    the mask it is what such a viewer makes of the photo, bit for bit."""
    photo = read_image(in_file(noise(3), "PNG", P3))
    seen = flatten_image(photo)
    assert abs(np.asarray(seen, int) - np.asarray(noise(3), int)).max() > 20
    mask = Image.new("L", photo.size)
    mask.paste(255, (20, 20, 44, 44))
    request = GenerateRequest(inpaint=Inpaint(image=photo, mask=mask), steps=2)
    [made] = pipeline.generate(request).images
    written, again = io.BytesIO(), io.BytesIO()
    for file in (written, again):
        save_png(file, made, request, request.seed, 0, {})
    assert written.getvalue() == again.getvalue()
    kinds = [kind for kind, _ in chunks(written.getvalue())]
    assert kinds.count(b"sRGB") == 1
    assert kinds.index(b"sRGB") < kinds.index(b"IDAT")
    assert b"iCCP" not in kinds
    assert dict(chunks(written.getvalue()))[b"sRGB"] in (b"\0", b"\1")
    result = flatten_image(read_image(written.getvalue()))
    outside = np.asarray(mask) == 0
    assert np.array_equal(np.asarray(result)[outside], np.asarray(seen)[outside])
    assert not np.array_equal(np.asarray(result)[~outside], np.asarray(seen)[~outside])


@pytest.mark.parametrize(
    ("mode", "value", "brightness", "opacity"),
    [
        ("1", 1, 255, None),
        ("L", 200, 200, None),
        ("LA", (200, 40), 200, 40),
        ("La", (40, 40), 255, 40),
        ("RGB", (255, 0, 0), 76, None),
        ("RGBA", (255, 0, 0, 40), 76, 40),
        ("RGBa", (40, 0, 0, 40), 76, 40),
        ("CMYK", (0, 0, 0, 55), 200, None),
        ("LAB", (200, 10, 20), 200, None),
        ("I;16", 200 * 257, 200, None),
        ("F", 0.5, 128, None),
    ],
)
def test_brightness_and_opacity_of_every_kind_of_picture(
    mode: str, value: Any, brightness: int, opacity: int | None
) -> None:
    picture = Image.new(mode, (3, 2), value)
    assert values(brightness_of(picture)) == [brightness] * 6
    assert brightness_of(picture).mode == "L"
    alpha = alpha_of(picture)
    assert (alpha and values(alpha)) == (None if opacity is None else [opacity] * 6)
    picture.info["transparency"] = 0
    if mode in ("I;16", "F"):  # not even by a leftover of its file
        assert alpha_of(picture) is None
