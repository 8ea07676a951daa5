"""Which part a mask file means, whatever program wrote it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy
from PIL import Image, ImageChops, ImageDraw
from PIL.ImageFile import ImageFile

from ipadapter_demo.cli import main
from ipadapter_demo.compare.spec import spec_from_document
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import read_image, soft_mask
from ipadapter_demo.masks import MASK_MEANS, flatten_mask, grown, painted_mask, shown_on
from ipadapter_demo.record import request_to_json
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference
from ipadapter_demo.ui.widgets.reference_slots import references_from_slots

SHARE = 0.04  # a square of 40x40 in 200x200
INSIDE = (80, 80, 120, 120)


def square(mode: str, around: object, inside: object) -> Image.Image:
    image = Image.new(mode, (200, 200), around)
    image.paste(inside, INSIDE)
    return image


def one_pixel_not_quite_opaque() -> Image.Image:
    image = square("RGBA", (0, 0, 0, 255), (255, 255, 255, 255))
    image.putpixel((3, 3), (0, 0, 0, 254))
    return image


def rotated(mode: str, quarter: int = 20) -> Image.Image:
    """With transparent corners, and a square that is put in after the rotation."""
    turned = Image.new(mode, (200, 200), "black").rotate(quarter)
    assert turned.getchannel("A").getextrema() == (0, 255)
    turned.paste(Image.new(mode, (40, 40), "white"), INSIDE)
    return turned


def palette(background: int, inside: int, transparent: int) -> Image.Image:
    image = square("P", background, inside)
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.info["transparency"] = transparent
    return image


def lossy_layer() -> Image.Image:
    """Black paint whose levels a lossy file has moved a little."""
    levels = np.random.default_rng(0).integers(0, 9, (200, 200, 3), dtype=np.uint8)
    layer = Image.fromarray(levels).convert("RGBA")
    layer.putalpha(square("L", 0, 255))
    return layer


FILES = {
    "one pixel of opacity 254": one_pixel_not_quite_opaque(),
    "rotated": rotated("RGBA"),
    "rotated grey": rotated("LA"),
    "a palette whose white is transparent": palette(0, 1, transparent=1),
    "a palette whose black is transparent": palette(0, 1, transparent=0),
    "painted in white": square("RGBA", (0, 0, 0, 0), (255, 255, 255, 255)),
    "painted in black": square("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)),
    "painted in black on what was white": square("RGBA", (255, 255, 255, 0), (0, 0, 0, 255)),
    "painted, lossy": lossy_layer(),
    "white on black, opaque": square("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)),
    "white on half transparent black": square("RGBA", (0, 0, 0, 130), (255, 255, 255, 255)),
    "white on black, one bit": square("1", 0, 1),
    "white on black, sixteen bits": square("I;16", 0, 65535),
}


def nearly_opaque(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGBA", (200, 200), (*colour, 255))
    image.putpixel((3, 3), (*colour, 254))
    return image


def grey_on_black() -> Image.Image:
    image = nearly_opaque((0, 0, 0))
    image.paste((14, 14, 14, 255), INSIDE)
    return image


EMPTY = {
    "black, one pixel of opacity 254": nearly_opaque((0, 0, 0)),
    "dark grey on black, one pixel of opacity 254": grey_on_black(),
    "red, one pixel of opacity 254": nearly_opaque((255, 0, 0)),
    "black, rotated": Image.new("RGBA", (200, 200), "black").rotate(5),
    "black, rotated by 45 degrees": Image.new("LA", (200, 200), "black").rotate(45),
    "black": Image.new("RGBA", (200, 200), "black"),
    "black, half transparent": Image.new("RGBA", (200, 200), (0, 0, 0, 128)),
}


def share(mask: Image.Image) -> float:
    assert set(mask.get_flattened_data()) <= {0, 255}
    return float((np.asarray(mask) == 255).mean())


def written(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("image", FILES.values(), ids=FILES)
def test_white_means_here_whatever_is_transparent(image: Image.Image) -> None:
    assert share(flatten_mask(image)) == SHARE
    mask = flatten_mask(read_image(written(image)))
    assert share(mask) == SHARE
    assert mask.getbbox() == INSIDE


@pytest.mark.parametrize("image", EMPTY.values(), ids=EMPTY)
def test_a_black_mask_is_empty_whatever_hint_of_transparency_it_has(image: Image.Image) -> None:
    assert share(flatten_mask(image)) == 0
    with pytest.raises(RequestError, match=r"inpaint.mask"):
        Inpaint(image=Image.new("RGB", (200, 200)), mask=image)


@pytest.mark.parametrize("colour", ["black", "red", "blue", "white"])
def test_half_a_layer_of_paint_is_half_a_mask(colour: str) -> None:
    layer = Image.new("RGBA", (200, 200))
    layer.paste(colour, (0, 0, 100, 200))
    assert share(flatten_mask(layer)) == 0.5


@pytest.mark.parametrize("image", FILES.values(), ids=FILES)
def test_every_door_reads_a_mask_alike(image: Image.Image, tmp_path: Path) -> None:
    plain = Image.new("RGB", (200, 200))
    assert share(Inpaint(image=plain, mask=image).mask) == SHARE
    assert share(Reference(image=plain, mask=image).mask) == SHARE
    document = {
        "request": {"inpaint": {"image": "a.png", "mask": "m.png"}},
        "columns": {"seed": [1, 2]},
    }
    files = {"a.png": written(plain), "m.png": written(image)}
    assert share(spec_from_document(document, files.__getitem__).mask("m.png")) == SHARE


def test_the_command_line_reads_a_mask_alike(tmp_path: Path) -> None:
    """The rotated file marked the whole picture: now all but the square stays."""
    files = {
        "photo": Image.fromarray(
            np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
        ),
        "mask": FILES["rotated"],
    }
    for name, image in files.items():
        (tmp_path / f"{name}.png").write_bytes(written(image))
    assert (
        main(
            [
                "generate",
                "--inpaint",
                str(tmp_path / "photo.png"),
                "--mask",
                str(tmp_path / "mask.png"),
                "--steps",
                "1",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    [made] = (tmp_path / "out").glob("*.png")
    changed = (np.asarray(read_image(made)) != np.asarray(files["photo"])).any(axis=-1)
    assert not changed[np.asarray(square("L", 0, 255)) == 0].any()
    assert changed.mean() == pytest.approx(SHARE, abs=0.005)


def test_transparent_means_here_where_it_is_asked_for() -> None:
    hole = square("RGBA", (200, 30, 90, 255), (0, 0, 0, 0))
    assert share(flatten_mask(hole)) == pytest.approx(1 - SHARE)
    assert share(flatten_mask(hole, means="transparent")) == SHARE
    assert share(flatten_mask(palette(0, 1, transparent=1), means="transparent")) == SHARE


def test_a_mask_without_transparency_cannot_mean_it() -> None:
    for mode in ("L", "RGBA"):
        with pytest.raises(RequestError, match=r"region is transparent nowhere"):
            flatten_mask(square(mode, "black", "white"), "region", means="transparent")
    with pytest.raises(RequestError, match=r"region must mean one of white, transparent, got 'b"):
        flatten_mask(square("L", 0, 255), "region", means="black")  # type: ignore[arg-type]
    assert MASK_MEANS == ("white", "transparent")


def test_a_layer_of_paint_is_a_mask_in_all_its_colours() -> None:
    """The second brush of the page is pink; a part painted with both is one part."""
    layer = square("RGBA", (0, 0, 0, 0), (255, 79, 216, 255))
    layer.paste((255, 255, 255, 255), (80, 80, 100, 120))
    layer.paste((20, 20, 20, 255), (80, 80, 120, 90))
    assert share(painted_mask(layer)) == SHARE
    assert share(painted_mask(Image.new("RGBA", (8, 8), (255, 255, 255, 0)))) == 0
    assert share(painted_mask(Image.new("RGBA", (8, 8), (255, 79, 216, 255)))) == 1


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_layer_that_is_opaque_everywhere_is_a_mask_by_its_brightness(mode: str) -> None:
    assert share(painted_mask(square(mode, "black", "white"))) == SHARE


def small(mode: str, pixels: list) -> Image.Image:
    image = Image.new(mode, (4, 2))
    image.putdata(pixels)
    return image


def greys(opaque: int, transparent: int, count: int = 5) -> Image.Image:
    """A palette of two greys, of which one is transparent; `count` of 8 pixels are opaque."""
    image = small("P", [0] * count + [1] * (8 - count))
    image.putpalette([opaque] * 3 + [transparent] * 3)
    image.info["transparency"] = 1
    return image


def premultiplied() -> Image.Image:
    """Dark paint on three pixels; in the others, which nobody sees, a bright colour is left."""
    return Image.frombytes("RGBa", (4, 2), bytes([50, 50, 50, 255] * 3 + [255, 255, 255, 0] * 5))


CLEAR = (255, 255, 255, 0)
EDGES = {
    "one pixel of black paint": (small("RGBA", [(0, 0, 0, 255)] + [CLEAR] * 7), 1),
    "black paint of opacity 128": (small("RGBA", [(0, 0, 0, 128)] * 3 + [CLEAR] * 5), 3),
    "black paint of opacity 127": (small("RGBA", [(0, 0, 0, 127)] * 3 + [CLEAR] * 5), 0),
    "black paint on half of it": (small("RGBA", [(0, 0, 0, 255)] * 4 + [CLEAR] * 4), 4),
    "black on more than half of it": (small("RGBA", [(0, 0, 0, 255)] * 5 + [CLEAR] * 3), 0),
    "paint of 100 to 116": (small("LA", [(100, 255), (116, 255)] + [(0, 0)] * 6), 2),
    "dark greys of 100 to 117": (small("LA", [(100, 255), (117, 255)] + [(0, 0)] * 6), 0),
    "paint of level 17 on most of it": (small("LA", [(17, 255)] * 5 + [(0, 0)] * 3), 5),
    "level 16 on most of it": (small("LA", [(16, 255)] * 5 + [(0, 0)] * 3), 0),
    "dark paint, premultiplied": (premultiplied(), 3),
    "a palette with its white transparent": (greys(127, 255), 3),
    "a palette with level 128 transparent": (greys(0, 128), 3),
    "a palette with level 127 transparent": (greys(0, 127), 0),
    "a palette whose paint is of level 128": (greys(128, 255), 5),
}


@pytest.mark.parametrize(("image", "white"), EDGES.values(), ids=EDGES)
def test_what_paint_is_to_its_edges(image: Image.Image, white: int) -> None:
    assert sum(value == 255 for value in flatten_mask(image).get_flattened_data()) == white


def test_a_layer_that_is_no_picture_is_named() -> None:
    with pytest.raises(RequestError, match=r"^mask has no pixels: it is 0x5$"):
        painted_mask(Image.new("L", (0, 5)))
    with pytest.raises(RequestError, match=r"^layer has no pixels: it is 0x5$"):
        painted_mask(Image.new("L", (0, 5)), "layer")


def test_a_mask_is_shown_as_half_transparent_paint() -> None:
    """127 of 255 of (255, 79, 216), over grey or over the picture; the size is the picture's."""
    mask = square("L", 0, 255)
    alone = shown_on(None, mask)
    assert (alone.mode, alone.size) == ("RGB", (200, 200))
    assert alone.getpixel((100, 100)) == (191, 104, 172)
    assert alone.getpixel((79, 79)) == (128, 128, 128)
    over = shown_on(Image.new("RGB", (400, 400), (10, 20, 30)), mask)
    assert over.size == (400, 400)
    assert over.getpixel((160, 160)) == (132, 49, 123)
    assert over.getpixel((158, 158)) == (10, 20, 30)
    assert shown_on(None, Image.new("L", (1024, 300))).size == (512, 150)


# A feather wider than the mask


@pytest.mark.parametrize("feather", [20, 40, 64])
def test_a_seam_wider_than_the_mask_still_shows_what_was_drawn(feather: int) -> None:
    opacity = np.asarray(soft_mask(square("L", 0, 255), feather)).astype(int)
    assert opacity[99, 99] == opacity.max() == 255
    row = opacity[99, 80:100]
    assert (np.diff(row) > 0).all()
    assert abs(row - np.arange(1, 21) * 255 / 20).max() <= 1
    assert (opacity[np.asarray(square("L", 0, 255)) == 0] == 0).all()


def test_a_small_part_beside_a_large_one_is_no_ghost() -> None:
    mask = Image.new("L", (200, 200))
    mask.paste(255, (0, 0, 90, 200))
    mask.paste(255, (150, 100, 155, 105))
    opacity = np.asarray(soft_mask(mask, 30)).astype(int)
    assert opacity[102, 152] == 255
    assert opacity[102, 150:153].tolist() == [85, 170, 255]
    assert abs(opacity[100, 59:90] - np.arange(31, 0, -1) * 255 / 31).max() <= 1


def test_a_seam_narrower_than_the_mask_is_as_it_was() -> None:
    mask = square("L", 0, 255)
    row = np.asarray(soft_mask(mask, 4))[99, 79:90].tolist()
    assert row == [0, 51, 102, 153, 204, *[255] * 6]


@pytest.mark.parametrize("feather", [20, 64])
@pytest.mark.parametrize("width", [2, 4, 10, 24])
def test_a_thin_arm_of_a_thick_part_is_no_ghost(width: int, feather: int) -> None:
    """Nor is the part itself another than it would be without the arm."""
    body = Image.new("L", (300, 200))
    body.paste(255, (20, 50, 120, 150))
    mask = body.copy()
    mask.paste(255, (120, 100 - width // 2, 240, 100 + width // 2))
    opacity, alone = (np.asarray(soft_mask(m, feather)).astype(int) for m in (mask, body))
    most = min(width // 2, feather + 1)
    across = opacity[100 - width // 2 : 100 + 1, 200]
    assert abs(across[:most] - np.arange(1, most + 1) * 255 / most).max() <= 1
    assert (opacity[99, 120 + 2 * width + 4 : 240 - width] == 255).all()
    assert not opacity[np.asarray(mask) == 0].any()
    rows = np.r_[50:75, 125:150]
    assert np.array_equal(opacity[rows, 20:80], alone[rows, 20:80])
    steps = abs(np.diff(opacity[99, 60:240]))
    assert steps.max() <= 255 / most + 1, "nowhere steeper than the seam itself"


@pytest.mark.parametrize("shape", ["square", "ellipse", "turned square"])
def test_the_corners_of_a_thick_part_are_no_arms(shape: str) -> None:
    mask = Image.new("L", (400, 400))
    draw = ImageDraw.Draw(mask)
    if shape == "square":
        draw.rectangle((60, 60, 340, 340), fill=255)
    elif shape == "ellipse":
        draw.ellipse((40, 100, 360, 300), fill=255)
    else:
        draw.regular_polygon((200, 200, 180), 4, rotation=20, fill=255)
    inside = np.pad(np.asarray(mask) > 0, 1)
    depth = scipy.ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
    assert abs(np.asarray(soft_mask(mask, 40)) - np.minimum(depth / 41, 1) * 255).max() <= 1


def test_a_large_mask_waits_folded_and_acts_as_it_is() -> None:
    mask = Image.new("L", (1500, 1200))
    ImageDraw.Draw(mask).ellipse((100, 100, 900, 1000), fill=255)
    small = mask.resize((150, 120), Image.Resampling.NEAREST)
    kept = Reference(image=small, mask=mask, clip_mask=mask)
    again = replace(kept, weight=0.5)
    for waiting in (kept.mask, kept.clip_mask, again.mask):
        assert isinstance(waiting, ImageFile)
        assert waiting._im is None, "Pillow has no pixels of it yet"
    assert again.mask is kept.mask
    assert kept.mask.tobytes() == mask.tobytes()
    assert request_to_json(GenerateRequest(references=(kept,))) == request_to_json(
        GenerateRequest(references=(Reference(image=small, mask=mask, clip_mask=mask),))
    )
    assert type(Reference(image=small, mask=small).mask) is Image.Image


def test_masks_that_travel_in_results_have_no_more_pixels_than_a_result() -> None:
    """On the page; a mask has the shape of its picture as before."""
    mask = square("L", 0, 255).resize((4000, 2500), Image.Resampling.NEAREST)
    hole = Image.new("RGBA", mask.size, "red")
    hole.putalpha(ImageChops.invert(mask))
    values: dict[str, object] = {"reference": Image.new("RGB", (800, 500)), "clip_mask": mask}
    [found] = references_from_slots(values | {"mask": hole, "mask_means": "transparent"})
    for shown in (found.mask, found.clip_mask):
        assert shown is not None
        assert shown.size == (1295, 809)
        assert share(shown) == pytest.approx(SHARE, abs=1e-3)
    small = square("L", 0, 255)
    [found] = references_from_slots({"reference": small, "clip_mask": small, "mask": small})
    assert found.mask == found.clip_mask == small


@pytest.mark.parametrize("by", [0, 1, 7, -1, -7, -20])
def test_a_mask_grows_and_shrinks_by_pixels_whatever_the_direction(by: int) -> None:
    """By the distance to the nearest pixel of the other kind."""
    mask = Image.new("L", (60, 50))
    ImageDraw.Draw(mask).ellipse((15, 10, 44, 39), fill=255)
    here = np.asarray(mask) > 0
    outside = scipy.ndimage.distance_transform_edt(~here)
    inside = scipy.ndimage.distance_transform_edt(here)
    expected = outside <= by if by > 0 else inside > -by if by else here
    assert np.array_equal(np.asarray(grown(mask, by)) > 0, expected)


def test_a_mask_that_goes_to_the_border_has_no_edge_there() -> None:
    mask = Image.new("L", (20, 20))
    mask.paste(255, (0, 0, 10, 20))
    assert grown(mask, -3).getbbox() == (0, 0, 7, 20)
    assert grown(mask, 3).getbbox() == (0, 0, 13, 20)
    assert grown(Image.new("L", (8, 8)), 3).getbbox() is None
