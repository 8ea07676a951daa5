"""Law 10, the part without a model: an output PNG restores its request exactly, or says why not."""

import base64
import dataclasses
import hashlib
import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ipadapter_demo import record_pictures
from ipadapter_demo.compare import Bundle
from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline import Result
from ipadapter_demo.png_text import texts
from ipadapter_demo.record import (
    MAX_RECORD_BYTES,
    SCHEMA,
    check_values,
    record_from_png,
    request_from_json,
    request_from_png,
    request_to_json,
    save_png,
)
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference, Structure
from ipadapter_demo.ui.run import updates


def noise(size: int = 16, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(values)


def full_request() -> GenerateRequest:
    """Every field set, and to something other than its default."""
    mask = Image.new("L", (16, 16))
    mask.paste(255, (3, 3, 9, 9))
    return GenerateRequest(
        prompt='a "red" cube\nλ — 立方体 \0',
        negative_prompt="blurry",
        references=(
            Reference(image=noise(seed=1), weight=0.1 + 0.2, fit="pad", mask=mask),
            Reference(image=noise(seed=2), negative=True),
        ),
        image_scale=1 / 3,
        image_window=(0.1, 0.7),
        guidance=3.3,
        steps=7,
        sampler="ddim",
        seed=2**32 - 5,
        count=4,
        width=128,
        height=64,
        structures=(
            Structure(
                kind="canny", image=noise(seed=1), annotator="canny", weight=0.9, window=(0, 0.5)
            ),
        ),
        inpaint=Inpaint(image=noise(seed=3), mask=mask, strength=0.8, feather=5),
        strength=0.4,
    )


REQUESTS = [
    GenerateRequest(),
    full_request(),
    dataclasses.replace(full_request(), inpaint=None, init_image=noise(seed=4)),
]


def saved(
    request: GenerateRequest, image: Image.Image | None = None, **provenance: object
) -> bytes:
    file = io.BytesIO()
    save_png(file, image or noise(), request, request.seeds[-1], request.count - 1, provenance)
    return file.getvalue()


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_survives_json(request_: GenerateRequest) -> None:
    text = json.dumps(request_to_json(request_))
    assert request_from_json(text) == request_
    assert request_from_json(text.encode()) == request_
    assert request_from_json(json.loads(text)) == request_


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_survives_a_png(request_: GenerateRequest, tmp_path: Path) -> None:
    path = tmp_path / "output.png"
    path.write_bytes(saved(request_))
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        assert request_from_png(source) == request_


def test_every_field_of_a_request_is_recorded() -> None:
    recorded = request_to_json(full_request())["request"]
    for values, part in (
        (recorded, GenerateRequest),
        (recorded["references"][0], Reference),
        (recorded["structures"][0], Structure),
        (recorded["inpaint"], Inpaint),
    ):
        assert values.keys() == {field.name for field in dataclasses.fields(part)}


def test_facts_index_and_seed_are_recorded() -> None:
    provenance = {"model": "tabletop", "weights": {"unet": "ab12"}, "versions": {"torch": "2"}}
    record = record_from_png(saved(full_request(), **provenance))
    assert (record.provenance, record.index, record.seed) == (provenance, 3, 2**32 - 2)


def test_the_picture_is_lossless_and_opens_anywhere() -> None:
    with Image.open(io.BytesIO(saved(full_request()))) as image:
        assert image.tobytes() == noise().tobytes()
        assert json.loads(image.info["ipadapter_demo"])["schema"] == SCHEMA


def test_a_picture_used_twice_is_stored_once() -> None:
    request = GenerateRequest(references=(Reference(image=noise(seed=1)),) * 3, init_image=noise())
    assert len(request_to_json(request)["images"]) == 2


def test_the_same_request_gives_the_same_bytes() -> None:
    assert saved(full_request()) == saved(full_request())


def test_long_records_go_on_in_further_chunks() -> None:
    request = GenerateRequest(references=(Reference(image=noise(1800)),))
    content = saved(request)
    assert len(content) > 8_000_000
    assert request_from_png(content) == request
    with Image.open(io.BytesIO(content)) as image:
        assert {"ipadapter_demo", "ipadapter_demo.1"} <= image.info.keys()
        texts = [text for text in image.info.values() if isinstance(text, str)]
        assert max(map(len, texts)) < 8_000_000  # libpng's limit


def test_text_that_another_program_compressed_is_read() -> None:
    info = PngInfo()
    with Image.open(io.BytesIO(saved(full_request()))) as image:
        info.add_itxt("ipadapter_demo", image.info["ipadapter_demo"], zip=True)
        file = io.BytesIO()
        image.save(file, "PNG", pnginfo=info)
    assert request_from_png(file.getvalue()) == full_request()


# Records that are refused


def changed(**changes: object) -> dict:
    record = request_to_json(full_request())
    record["request"] |= changes
    return record


def inpaint(**changes: object) -> dict:
    return request_to_json(full_request())["request"]["inpaint"] | changes


BAD_RECORDS = [
    ([], "record must be an object"),
    ("[]", "record must be an object"),
    ("{", "record is not JSON"),
    ("[" * 100_000, "record is not JSON"),
    (b"\xff\xfe\xff", "record is not JSON"),
    ('{"schema": ' + "9" * 5000 + "}", "record is not JSON"),
    ({}, "record.schema must be a whole number"),
    ({"schema": "1"}, "record.schema must be a whole number"),
    ({"schema": True}, "record.schema must be a whole number"),
    ({"schema": 99}, "written by a newer version"),
    ({"schema": 1}, "request must be an object"),
    ({"schema": 1, "request": []}, "request must be an object"),
    ({"schema": 1, "request": {}, "later": 1}, "record has unknown fields: later"),
    ({"schema": 1, "request": {}, "images": []}, "record.images must map"),
    ({"schema": 1, "request": {}, "images": {"a": 1}}, "record.images must map"),
    (changed(magic=1, air=2), "request has unknown fields: air, magic"),
    (changed(steps=10_000), "steps must be from"),
    (changed(image_scale=None), "image_scale must be a number"),
    (changed(references=None), "references must be a tuple"),
    (changed(references={"image": None}), "reference.image must be a picture"),
    (changed(references=[3]), "request.references must be an object"),
    (changed(references=[{}]), "reference.image must be a picture"),
    (changed(references=[{"image": "ab"}]), "request.references.image names a picture that"),
    (changed(references=[{"image": ["ab"]}]), "request.references.image names a picture that"),
    (changed(inpaint=[]), "inpaint must be an object with named fields"),
    (changed(inpaint=inpaint(brush=3)), "request.inpaint has unknown fields: brush"),
    (changed(inpaint=inpaint(feather="2")), "inpaint.feather must be a whole number"),
]


@pytest.mark.parametrize(("record", "message"), BAD_RECORDS)
def test_a_bad_record_is_refused(record: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        request_from_json(record)


@pytest.mark.parametrize(
    ("content", "message"),
    [("!!!", "is not base64"), (base64.b64encode(b"other").decode(), "is damaged: its SHA-256")],
)
def test_a_damaged_picture_is_refused(content: str, message: str) -> None:
    record = request_to_json(GenerateRequest(init_image=noise()))
    record["images"] = dict.fromkeys(record["images"], content)
    with pytest.raises(RequestError, match=f"request.init_image {message}"):
        request_from_json(record)


def test_a_record_that_is_too_large_is_refused_unread() -> None:
    with pytest.raises(RequestError, match="record must have at most 62,914,560 bytes, got"):
        request_from_json(" " * (MAX_RECORD_BYTES + 1))
    huge = {"schema": 1, "request": {}, "images": {"a": "A" * (MAX_RECORD_BYTES + 1)}}
    with pytest.raises(RequestError, match="record must have at most 62,914,560 bytes, got"):
        request_from_json(huge)


def test_pictures_that_decode_to_too_much_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipadapter_demo.record_pictures.MAX_RECORD_PIXELS", 2 * 16 * 16)
    references = tuple(Reference(image=noise(seed=seed)) for seed in range(3))
    record = request_to_json(GenerateRequest(references=references))
    with pytest.raises(RequestError, match="record may hold 512 pixels of pictures, has more"):
        request_from_json(record)


def test_a_picture_that_is_named_often_is_decoded_and_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mask = Image.new("L", (16, 16), 255)
    part = Reference(image=noise(), mask=mask, clip_mask=mask)
    request = GenerateRequest(references=(part,) * 3, init_image=noise())
    record = request_to_json(request)
    decoded: list[str] = []
    read = record_pictures.read_image
    monkeypatch.setattr(
        record_pictures, "read_image", lambda content, at: decoded.append(at) or read(content, at)
    )
    monkeypatch.setattr(record_pictures, "MAX_RECORD_PIXELS", 2 * 16 * 16)
    found = request_from_json(record)
    assert found == request
    assert decoded == ["request.references.image", "request.references.clip_mask"]
    assert all(r.image is found.init_image for r in found.references), "none is a copy"


def test_what_could_not_be_read_again_is_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that is named twice is counted once here, too."""
    request = GenerateRequest(
        references=(Reference(image=noise(), mask=Image.new("L", (9, 9), 255)),) * 2
    )
    pixels = 16 * 16 + 9 * 9
    monkeypatch.setattr(record_pictures, "MAX_RECORD_PIXELS", pixels)
    assert request_from_png(saved(request)) == request
    monkeypatch.setattr(record_pictures, "MAX_RECORD_PIXELS", pixels - 1)
    with pytest.raises(RequestError) as refusal:
        saved(request)
    assert str(refusal.value) == (
        "the pictures of a request may have 336 pixels in all, got 337: use smaller ones"
    )


def test_the_pictures_of_a_request_are_encoded_once_for_all_its_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    request = GenerateRequest(references=(Reference(image=noise(seed=1)),), count=3)
    images = noise(seed=4), noise(seed=5), noise(seed=6)
    result = Result(images, request.seeds, request, maps=(), seconds=1.0, provenance={"model": "x"})
    written: list[Image.Image] = []
    save = Image.Image.save
    monkeypatch.setattr(
        Image.Image,
        "save",
        lambda self, *how, **more: written.append(self) or save(self, *how, **more),
    )
    paths = updates.saved(result)
    assert written == [noise(seed=1), *images]
    for index, (path, image) in enumerate(zip(paths, images, strict=True)):
        file = io.BytesIO()
        save_png(file, image, request, index, index, result.provenance)
        assert Path(path).read_bytes() == file.getvalue()


def test_a_list_that_is_too_long_is_refused_before_its_pictures_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One picture of megabytes may be named in each of its thousands of entries."""
    record = request_to_json(GenerateRequest(references=(Reference(image=noise()),)))
    record["request"]["references"] *= 40_000  # type: ignore[index]
    monkeypatch.setattr("ipadapter_demo.record_pictures.read_image", None)
    with pytest.raises(RequestError, match="references must have at most 8 entries, got 40000"):
        request_from_json(record)


def test_a_request_too_large_to_travel_is_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipadapter_demo.record.MAX_RECORD_BYTES", 1000)
    with pytest.raises(RequestError, match="may take 1,000 bytes inside an output PNG, got"):
        saved(full_request())


def test_whatever_is_saved_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An output may be larger than any other file that is read."""
    content = saved(full_request())
    monkeypatch.setattr("ipadapter_demo.imaging.MAX_FILE_BYTES", len(content) - 1)
    assert record_from_png(content).request == full_request()
    monkeypatch.setattr("ipadapter_demo.record.MAX_PNG_BYTES", len(content) - 1)
    with pytest.raises(RequestError, match="PNG must be a file of at most"):
        record_from_png(content)


OTHER = hashlib.sha256(b"other").hexdigest()


def with_request(**fields: object) -> dict:
    return {"schema": SCHEMA, "request": fields}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([3], "record must be an object with named fields, got [3]"),
        ("[3]", "record must be an object with named fields, got [3]"),
        ({"schema": "1"}, "record.schema must be a whole number from 1, got '1'"),
        ({"schema": 0}, "record.schema must be a whole number from 1, got 0"),
        (
            {"schema": SCHEMA + 1},
            f"record.schema is {SCHEMA + 1}, this version reads up to {SCHEMA}: it was written by "
            "a newer version",
        ),
        ({"schema": 1}, "request must be an object with named fields, got None"),
        (with_request() | {"later": 1, "also": 2}, "record has unknown fields: also, later"),
        (
            with_request(**{"a" * 150: 1, "b" * 150: 2}),
            f"request has unknown fields: {'a' * 150}, {'b' * 48}",
        ),
        (
            with_request() | {"images": {"a": 1}},
            "record.images must map SHA-256 sums to base64 text",
        ),
        (with_request(inpaint={}), "request.inpaint lacks image, mask"),
        (with_request(structures=[{}]), "request.structures lacks image, kind"),
        (
            with_request(init_image="ab"),
            "request.init_image names a picture that the record does not hold",
        ),
        (
            with_request(references=[{"image": "ab"}]),
            "request.references.image names a picture that the record does not hold",
        ),
        (
            with_request(init_image="ab") | {"images": {"ab": "b3RoZXI="}},
            "request.init_image is damaged: its SHA-256 is not ab...",
        ),
        (
            with_request(init_image=OTHER) | {"images": {OTHER: "b3RoZXI="}},
            "request.init_image is not a picture that can be read "
            "(PNG, JPEG, WEBP, GIF, BMP, TIFF, AVIF, HEIF)",
        ),
        (
            with_request(init_image="a" * 64) | {"images": {"a" * 64: "b3RoZXI="}},
            f"request.init_image is damaged: its SHA-256 is not {'a' * 12}...",
        ),
    ],
)
def test_what_is_wrong_with_a_record_is_said_in_full(record: Any, message: str) -> None:
    with pytest.raises(RequestError) as refusal:
        request_from_json(record)
    assert str(refusal.value) == message


def test_a_record_from_before_a_field_has_its_default() -> None:
    request = GenerateRequest(prompt="a cube", guidance_window=(0.2, 0.8))
    record = json.loads(json.dumps(request_to_json(request)))
    assert request_from_json(record) == request
    del record["request"]["guidance_window"]
    assert request_from_json(record) == dataclasses.replace(request, guidance_window=(0.0, 1.0))


def test_the_limits_of_a_record_are_held_to_their_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    request = GenerateRequest(references=(Reference(image=noise()), Reference(image=noise(8))))
    text = json.dumps(request_to_json(request))
    record = json.loads(text)
    pictures = sum(map(len, record["images"].values()))
    for given, length in ((text, len(text)), (record, pictures)):
        monkeypatch.setattr("ipadapter_demo.record.MAX_RECORD_BYTES", length)
        assert request_from_json(given) == request
        monkeypatch.setattr("ipadapter_demo.record.MAX_RECORD_BYTES", length - 1)
        with pytest.raises(RequestError) as refusal:
            request_from_json(given)
        assert str(refusal.value) == (
            f"record must have at most {length - 1:,} bytes, got {length:,}"
        )
    monkeypatch.undo()
    pixels = 16 * 16 + 8 * 8
    monkeypatch.setattr("ipadapter_demo.record_pictures.MAX_RECORD_PIXELS", pixels)
    assert request_from_json(record) == request
    monkeypatch.setattr("ipadapter_demo.record_pictures.MAX_RECORD_PIXELS", pixels - 1)
    with pytest.raises(RequestError) as refusal:
        request_from_json(record)
    assert str(refusal.value) == f"record may hold {pixels - 1} pixels of pictures, has more"


@pytest.mark.parametrize("text", ['{"X": [1, 2]}', b'{"X": [1, 2]}'])
def test_values_are_counted_by_their_marks(text: str | bytes) -> None:
    """A brace, a bracket and a comma."""
    check_values("spec", text, 3)
    with pytest.raises(RequestError) as refusal:
        check_values("spec", text, 2)
    assert str(refusal.value) == "spec must have at most 2 values, got about 3"


def test_a_record_that_just_fits_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    record = request_to_json(full_request()) | {"index": 3, "seed": 2**32 - 2, "provenance": {}}
    length = len(json.dumps(record))
    monkeypatch.setattr("ipadapter_demo.record.MAX_RECORD_BYTES", length)
    assert request_from_png(saved(full_request())) == full_request()
    monkeypatch.setattr("ipadapter_demo.record.MAX_RECORD_BYTES", length - 1)
    with pytest.raises(RequestError) as refusal:
        saved(full_request())
    assert str(refusal.value) == (
        f"the pictures of a request may take {length - 1:,} bytes inside an output PNG, got "
        f"{length:,}: use smaller ones"
    )


def test_provenance_without_meaning_in_json_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        saved(GenerateRequest(), loss=float("nan"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"x\0\0\0\0\0text",
            "PNG holds no settings: it was not made by this program, or was saved again by another",
        ),
        *(
            (
                b"ipadapter_demo\0\0\0\0\0" + json.dumps(with_request() | facts).encode(),
                "PNG holds a damaged record: index, seed or provenance are missing",
            )
            for facts in (
                {"seed": 0, "provenance": {}},
                {"index": 0, "provenance": {}},
                {"index": 0, "seed": 0},
                {"index": "0", "seed": 0, "provenance": {}},
                {"index": 0, "seed": "0", "provenance": {}},
                {"index": 0, "seed": 0, "facts": {}},  # schema 1 called it so
            )
        ),
    ],
)
def test_a_png_without_a_whole_record_is_told(content: bytes, message: str) -> None:
    with pytest.raises(RequestError) as refusal:
        record_from_png(png(content))
    assert str(refusal.value) == message


# Files that are refused


def text_chunk(body: bytes) -> bytes:
    chunk = b"iTXt" + body
    return struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk))


def with_text(*bodies: bytes) -> bytes:
    """A valid PNG of our picture with iTXt chunks of this content."""
    file = io.BytesIO()
    noise().save(file, "PNG")
    content, header = file.getvalue(), 8 + 25  # signature and IHDR
    return content[:header] + b"".join(map(text_chunk, bodies)) + content[header:]


def record_text(**extra: object) -> bytes:
    text = json.dumps(request_to_json(GenerateRequest()) | extra)
    return b"ipadapter_demo\0\0\0\0\0" + text.encode()


def compressed(text: bytes) -> bytes:
    return b"ipadapter_demo\0\1\0\0\0" + zlib.compress(text)


BAD_FILES = [
    (b"", r"PNG is an empty file \(0 bytes\)"),
    (b"hello", "PNG holds no settings: it is no PNG"),
    (with_text(b"Comment\0\0\0\0\0hello"), "PNG holds no settings"),
    (with_text(b"ipadapter_demo"), "a text chunk is malformed"),
    (with_text(b"ipadapter_demo\0"), "a text chunk is malformed"),
    (with_text(b"ipadapter_demo\0\1\0\0\0not zlib"), "a text chunk is malformed"),
    (with_text(b"ipadapter_demo\0\0\0\0\0{"), "record is not JSON"),
    (with_text(record_text()), "damaged record: index, seed or provenance are missing"),
    (with_text(record_text(index=0, seed=0, provenance=[])), "damaged record"),
    (with_text(record_text(index=0, seed=0, provenance={}, more=1)), "unknown fields: more"),
    (with_text(compressed(b" " * (MAX_RECORD_BYTES * 2))), "record must have at most 62,914,560"),
]


@pytest.mark.parametrize(("content", "message"), BAD_FILES)
def test_a_bad_file_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        request_from_png(content)


def test_a_minimal_record_is_read() -> None:
    content = with_text(record_text(index=0, seed=0, provenance={}))
    assert request_from_png(content) == GenerateRequest()


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_another_format_is_refused(file_format: str) -> None:
    file = io.BytesIO()
    noise().save(file, file_format)
    with pytest.raises(RequestError, match="PNG holds no settings: it is no PNG"):
        request_from_png(file.getvalue())


def test_a_truncated_png_is_refused_wherever_it_is_cut() -> None:
    content = saved(full_request())
    for length in range(8, len(content) - 12, 97):
        with pytest.raises(RequestError, match="PNG is cut short"):
            request_from_png(content[:length])


def test_a_changed_byte_in_the_record_is_noticed() -> None:
    content = saved(full_request())
    place = content.index(b'"steps": 7')
    with pytest.raises(RequestError, match="wrong checksum"):
        request_from_png(content[:place] + b'"steps": 8' + content[place + 10 :])


def png(*bodies: bytes, end: bytes = b"\0\0\0\0IEND\xaeB`\x82") -> bytes:
    """A signature, text chunks and an end: all that is looked at."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(text_chunk, bodies)) + end


LONG_NAME = "n" * 79  # a keyword has at most as many bytes


@pytest.mark.parametrize(
    ("bodies", "found"),
    [
        ([b"a\0\0\0\0\0text"], {"a": b"text"}),
        ([b"a\0\0\0\0\0"], {"a": b""}),
        ([b"a\0\0\0en\0Wort\0te\0xt"], {"a": b"te\0xt"}),  # with a language and a translation
        ([b"a\0\1\0\0\0" + zlib.compress(b"text")], {"a": b"text"}),
        ([b"a\0\0\0\0\0one", b"b\0\0\0\0\0two"], {"a": b"one", "b": b"two"}),
        ([b"x\0\0\0\0\0one", b"x\0\0\0\0\0two", b"caf\xe9\0\0\0\0\0three"], {"café": b"three"}),
        ([LONG_NAME.encode() + b"\0\0\0\0\0text"], {LONG_NAME: b"text"}),
        ([LONG_NAME.encode() + b"n\0\0\0\0\0text"], {}),
        ([b"a\0\0\0\0\0" + b"0123456789"], {"a": b"0123456789"}),
        ([], {}),
    ],
)
def test_texts_are_read_by_the_specification(bodies: list[bytes], found: dict[str, bytes]) -> None:
    assert texts(png(*bodies), {"a", "b", "café", LONG_NAME}, 10) == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"\x89PNG\r\n\x1a",
            "PNG holds no settings: it is no PNG, and only an original output file holds them",
        ),
        (png(end=b""), "PNG is cut short: its end is missing"),
        (png()[:-1], "PNG is cut short: its end is missing"),
        (png(end=b"\xff\xff\xff\xf4IDAT" + bytes(8)), "PNG is cut short: its end is missing"),
        (png(b"a\0\0\0\0\0text", end=b""), "PNG is cut short: its end is missing"),
        (png(b"a\0\0\0\0\0text", end=b"")[:-1], "PNG is cut short: its end is missing"),
        (
            png(b"x\0\0\0\0\0text").replace(b"text", b"Text"),
            "PNG is damaged: a text chunk has the wrong checksum",
        ),
        (png(b"a\0\0\0\0text"), "PNG is damaged: a text chunk is malformed"),
        (png(b"a\0"), "PNG is damaged: a text chunk is malformed"),
        (png(b"a\0\1\0\0\0text"), "PNG is damaged: a text chunk is malformed"),
        (png(*[b"a\0\0\0\0\0"] * 2), "PNG is damaged: it has two text chunks called a"),
        (png(b"a\0\0\0\0\0" + b"." * 11), "record must have at most 10 bytes, got 11"),
        (
            png(b"a\0\0\0\0\0" + b"." * 7, b"b\0\0\0\0\0" + b"." * 5),
            "record must have at most 10 bytes, got 12",
        ),
        (
            png(b"a\0\0\0\0\0" + b"." * 7, b"b\0\1\0\0\0" + zlib.compress(b"." * 99)),
            "record must have at most 10 bytes, got 11",  # no more of it is inflated
        ),
    ],
)
def test_what_is_wrong_with_a_png_is_said_in_full(content: bytes, message: str) -> None:
    with pytest.raises(RequestError) as refusal:
        texts(content, {"a", "b"}, 10)
    assert str(refusal.value) == message


# Files that are small and unpack to much


MEGABYTE = 2**20


def piece(text: bytes, number: int = 0, keyword: str = "ipadapter_demo") -> bytes:
    name = f"{keyword}.{number}" if number else keyword
    return name.encode() + b"\0\1\0\0\0" + zlib.compress(text, 9)


def peak(read: Callable[[], object]) -> float:
    """Megabytes that Python has taken at most meanwhile."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1] / MEGABYTE
    finally:
        tracemalloc.stop()


def refused(content: bytes, message: str) -> Callable[[], None]:
    def read() -> None:
        with pytest.raises(RequestError, match=message):
            request_from_png(content)

    return read


@pytest.fixture(scope="module")
def much() -> bytes:
    """Of a megabyte when compressed to 60 kB: as much text as a record may have."""
    return b" " * MAX_RECORD_BYTES


def test_text_of_other_programs_is_never_inflated(much: bytes) -> None:
    others = [
        piece(much, keyword=name)
        for name in (
            "Comment",
            "XML:com.adobe.xmp",
            "ipadapter_demo.x",
            "ipadapter_demo.01",
            "ipadapter_demo.0",
            "ipadapter_demo.16",
            "ipadapter_demo_2",
            "IPADAPTER_DEMO",
            "",
        )
    ]
    content = with_text(*others, record_text(index=0, seed=0, provenance={}), *others)
    assert peak(lambda: request_from_png(content)) < 5
    assert request_from_png(content) == GenerateRequest()
    assert peak(refused(with_text(*others), "PNG holds no settings")) < 5


def test_all_pieces_share_one_budget(much: bytes) -> None:
    bomb = with_text(*(piece(much, number) for number in range(16)))
    assert len(bomb) < 1.1 * MEGABYTE
    said = "record must have at most 62,914,560 bytes, got 62,914,561"
    assert peak(refused(bomb, said)) < 150
    half = with_text(*(piece(much[: len(much) // 2 + 1], number) for number in range(16)))
    assert peak(refused(half, said)) < 150


def test_a_piece_that_comes_twice_is_refused(much: bytes) -> None:
    twice = with_text(*[piece(much)] * 30)
    assert peak(refused(twice, "has two text chunks called ipadapter_demo")) < 150
    first = record_text(index=0, seed=0, provenance={})
    again = with_text(first, record_text(index=0, seed=1, provenance={}))
    refused(again, "has two text chunks called ipadapter_demo")()


def test_pieces_in_another_order_are_put_together() -> None:
    keyword, text = record_text(index=0, seed=0, provenance={}).split(b"\0\0\0\0\0")
    parts = [text[:9], text[9:20], text[20:]]
    bodies = [
        b"%s%s\0\0\0\0\0%s" % (keyword, b".%d" % n if n else b"", part)
        for n, part in enumerate(parts)
    ]
    assert request_from_png(with_text(*reversed(bodies))) == GenerateRequest()


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"0,", b'"",', b"[[],", b'{"a":'])
def test_a_record_of_very_many_values_is_refused_unparsed(much: bytes, unit: bytes) -> None:
    text = b'{"schema": 1, "provenance": [' + unit * (len(much) // len(unit) // 2)
    assert peak(refused(with_text(piece(text)), "record must have at most 100,000 values")) < 150
    with pytest.raises(RequestError, match="record must have at most 100,000 values"):
        request_from_json(text)
    with pytest.raises(RequestError, match="record must have at most 100,000 values"):
        request_from_json(text.decode())


def test_so_is_a_manifest_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w", zipfile.ZIP_STORED) as bundle:
        bundle.writestr("manifest.json", b"[" + b"[]," * 6_000_000)

    def read() -> None:
        with pytest.raises(RequestError, match="manifest must have at most 1,000,000 values"):
            Bundle(tmp_path / "bundle.zip")

    assert peak(read) < 60


def test_what_is_refused_is_not_said_in_full() -> None:
    for record in (
        {"schema": "x" * 10**6},
        {"schema": 1, "request": "x" * 10**6},
        json.dumps(["x" * 10**6]),
    ):
        with pytest.raises(RequestError) as refusal:
            request_from_json(record)
        assert len(str(refusal.value)) < 300


def test_a_record_of_schema_1_is_read() -> None:
    """It called the provenance "facts", and two fields of an inpainting otherwise."""
    request = GenerateRequest(
        inpaint=Inpaint(
            image=noise(),
            mask=Image.new("L", noise().size, 255),
            repaint_passes=3,
            background_weight=0.5,
        )
    )
    record = request_to_json(request)
    inpaint = record["request"]["inpaint"]
    inpaint["passes"] = inpaint.pop("repaint_passes")
    inpaint["surroundings"] = inpaint.pop("background_weight")
    former = record | {"schema": 1}
    assert request_from_json(former) == request
    text = json.dumps(former | {"index": 0, "seed": 0, "facts": {"model": "tabletop"}})
    read = record_from_png(with_text(b"ipadapter_demo\0\0\0\0\0" + text.encode()))
    assert (read.request, read.provenance) == (request, {"model": "tabletop"})
    inpaint["repaint_passes"] = 2
    with pytest.raises(RequestError, match="unknown fields: passes"):
        request_from_json(former)
