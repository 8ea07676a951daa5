"""TIFF files of more than 8 bits a value: what is white in them."""

import io

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ipadapter_demo.imaging import flatten_image, read_image

PHOTOMETRIC, MAXIMUM, SAMPLE_MAXIMUM = 262, 281, 341
RAMP = np.arange(256)


def tiff(values: np.ndarray, tags: dict[int, int] | None = None, **options: object) -> bytes:
    """Grey, 16 bits a value."""
    file, extra = io.BytesIO(), ImageFileDirectory_v2()
    for tag, value in (tags or {}).items():
        extra[tag] = value
    Image.fromarray(values.astype(np.uint16)).save(file, "TIFF", tiffinfo=extra, **options)
    return file.getvalue()


def colour_tiff(values: np.ndarray, order: str, tags: dict[int, int] | None = None) -> bytes:
    """16 bits a channel, which Pillow does not write."""
    height, width, channels = values.shape
    data = values.astype(f"{order}u2").tobytes()
    entries = [
        (256, 3, [width]),
        (257, 3, [height]),
        (258, 3, [16] * channels),
        (259, 3, [1]),
        (262, 3, [2]),
        (273, 4, [8]),
        (277, 3, [channels]),
        (278, 3, [height]),
        (279, 4, [len(data)]),
    ]
    entries += [(338, 3, [2])] * (channels == 4)
    entries += [(tag, 3, [value] * channels) for tag, value in (tags or {}).items()]
    wide, narrow = (np.dtype(f"{order}u{size}") for size in (4, 2))
    body = data + b"\0" * (len(data) % 2)
    extra_at, extra = 8 + len(body) + 2 + 12 * len(entries) + 4, b""
    table = np.array(len(entries), narrow).tobytes()
    for tag, kind, values_ in sorted(entries):
        content = np.array(values_, wide if kind == 4 else narrow).tobytes()
        if len(content) > 4:
            place, extra = extra_at + len(extra), extra + content
            content = np.array(place, wide).tobytes()
        table += np.array([tag, kind], narrow).tobytes() + np.array(len(values_), wide).tobytes()
        table += content.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + np.array(8 + len(body), wide).tobytes()
    return head + body + table + bytes(4) + extra


def grey(content: bytes) -> np.ndarray:
    return np.asarray(flatten_image(read_image(content)))[..., 0]


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}], ids=["plain", "lzw"])
def test_a_full_range_of_fewer_bits_is_a_full_range(bits: int, options: dict) -> None:
    values = np.rint(RAMP[None] * (2.0**bits - 1) / 255)
    assert np.array_equal(grey(tiff(values, **options)), RAMP[None])


def test_twelve_bits_are_found_in_a_picture_that_was_opened_elsewhere() -> None:
    with Image.open(io.BytesIO(tiff(np.array([[0, 2048, 4095]])))) as image:
        assert flatten_image(image).getpixel((1, 0)) == (128, 128, 128)


@pytest.mark.parametrize("tag", [MAXIMUM, SAMPLE_MAXIMUM])
@pytest.mark.parametrize(("declared", "level"), [(4095, 62), (3500, 62), (16383, 16), (65535, 4)])
def test_a_tag_says_what_white_is(tag: int, declared: int, level: int) -> None:
    """Or which value is the brightest: 3500 needs 12 bits."""
    assert grey(tiff(np.array([[0, 1000]]), {tag: declared})).tolist() == [[0, level]]


def test_a_tag_that_the_values_belie_is_not_believed() -> None:
    assert grey(tiff(np.array([[0, 65535]]), {SAMPLE_MAXIMUM: 255})).tolist() == [[0, 255]]
    assert grey(tiff(np.array([[0, 0]]), {SAMPLE_MAXIMUM: 0})).tolist() == [[0, 0]]
    assert grey(tiff(np.array([[0, 1]]), {SAMPLE_MAXIMUM: 0})).tolist() == [[0, 255]]
    assert grey(tiff(np.array([[0, 1]]), {SAMPLE_MAXIMUM: 1})).tolist() == [[0, 255]]


def test_white_may_be_zero() -> None:
    assert grey(tiff(np.array([[0, 4095]]), {PHOTOMETRIC: 0})).tolist() == [[255, 0]]


def test_a_dark_sixteen_bit_png_stays_dark() -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 257, 4095]], np.uint16)).save(file, "PNG")
    assert grey(file.getvalue()).tolist() == [[0, 1, 16]]


def test_a_dark_sixteen_bit_tiff_that_is_not_all_black_stays_dark() -> None:
    assert grey(tiff(np.array([[0, 257, 4112]]))).tolist() == [[0, 1, 16]]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_colours_of_fewer_bits_than_their_file_has(order: str, bits: int) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (6, 7, 3))
    levels[0, 0] = 255
    content = colour_tiff(np.rint(levels * ((2.0**bits - 1) / 255)), order)
    found = np.asarray(flatten_image(read_image(content)), int)
    assert abs(found - levels).max() <= (bits == 16)  # Pillow cuts those, at most one level off


def test_colours_whose_tag_says_fourteen_bits() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (6, 7, 3))
    content = colour_tiff(np.rint(levels * (16383 / 255)), "<", {SAMPLE_MAXIMUM: 16383})
    assert np.array_equal(np.asarray(flatten_image(read_image(content))), levels)


def test_opacity_has_its_own_white() -> None:
    pixels = np.array([[[4095, 0, 0, 65535], [4095, 0, 0, 0]]])
    found = flatten_image(read_image(colour_tiff(pixels, "<")))
    assert list(found.get_flattened_data()) == [(255, 0, 0), (255, 255, 255)]


def test_a_deep_tiff_that_is_cut_short_is_refused() -> None:
    content = colour_tiff(np.full((64, 64, 3), 4095), "<")
    cut = content[:8] + content[2000:]
    with pytest.raises(ValueError, match="photo is"):
        read_image(cut, "photo")


@pytest.mark.parametrize(
    ("packed", "levels"), [(b"\x80\x0f\xff", [128, 255]), (b"\x20\x03\xe8", [32, 62])]
)
def test_twelve_bits_packed_into_twelve(packed: bytes, levels: list[int]) -> None:
    """Two values in three bytes, 2048 and 4095, 512 and 1000; BitsPerSample says it."""
    entries = [
        (256, 3, 2),
        (257, 3, 1),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 3, 1),
        (279, 4, 3),
    ]
    table = b"".join(
        np.array([tag, kind, 1, 0, value, 0], "<u2").tobytes() for tag, kind, value in entries
    )
    content = (
        b"II*\0"
        + np.array(12, "<u4").tobytes()
        + packed
        + bytes(1)
        + np.array(len(entries), "<u2").tobytes()
        + table
        + bytes(4)
    )
    assert grey(content).tolist() == [levels]


def float_tiff(values: list[float]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.array([values], np.float32)).save(file, "TIFF")
    return file.getvalue()


@pytest.mark.parametrize(
    ("stored", "levels"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 51.0, 255.0], [0, 51, 255]),
        ([0.0, 2048.0, 4095.0], [0, 128, 255]),
        ([np.nan, np.inf, -np.inf, 1.0], [0, 0, 0, 255]),
        ([-3.0, 1.0], [0, 255]),
    ],
)
def test_white_of_floats_is_the_first_that_none_exceeds(
    stored: list[float], levels: list[int]
) -> None:
    assert grey(float_tiff(stored)).tolist() == [levels]


@pytest.mark.parametrize(
    ("mode", "kind", "stored", "levels"),
    [
        ("F", np.float32, [np.nan, np.inf, -np.inf, 1.0], [0, 0, 0, 255]),
        ("F", np.float32, [0.0, 51.0, 255.0], [0, 51, 255]),
        ("F", np.float32, [0.0, 256.0], [0, 1]),
        ("I", np.int32, [0, 51, 255], [0, 51, 255]),
        ("I", np.int32, [-7, 0, 256], [0, 0, 1]),
        ("I", np.int32, [0, 1], [0, 1]),
        ("I", np.int32, [0, 70000], [0, 255]),
        ("F", np.float32, [0.0, 7e5], [0, 255]),
        ("I;16", np.uint16, [0, 255, 257, 65535], [0, 1, 1, 255]),
        ("I;16", np.uint16, [0, 255], [0, 1]),
        ("I;16", np.uint16, [65407], [255]),
    ],
)
def test_grey_of_more_bits_in_memory(
    mode: str, kind: type, stored: list[float], levels: list[int]
) -> None:
    image = Image.fromarray(np.array([stored], kind))
    assert image.mode == mode
    assert np.asarray(flatten_image(image))[..., 0].tolist() == [levels]


@pytest.mark.parametrize(
    ("declared", "stored", "levels"),
    [
        (65535, [448, 384, 0], [1, 1, 0]),  # 16 bits: the high byte, as Pillow reads them
        (4095, [448, 65535, 0], [1, 255, 0]),  # belied by the second value, so 16 bits again
        (1023, [448, 1023, 0], [112, 255, 0]),
    ],
)
def test_colours_are_read_once_more_only_where_the_tag_holds(
    declared: int, stored: list[int], levels: list[int]
) -> None:
    pixels = np.array([[[value] * 3 for value in stored]])
    assert grey(colour_tiff(pixels, "<", {SAMPLE_MAXIMUM: declared})).tolist() == [levels]


def test_colours_of_eight_bits_are_left_alone() -> None:
    """Also where all of them are black, and where the picture was decoded elsewhere before."""
    for level in (0, 9, 255):
        content = io.BytesIO()
        Image.new("RGB", (4, 2), (level,) * 3).save(content, "TIFF")
        with Image.open(content) as image:
            image.load()
            assert flatten_image(image).getpixel((0, 0)) == (level,) * 3
        assert read_image(content.getvalue()).getpixel((0, 0)) == (level,) * 3
