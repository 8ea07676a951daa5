"""A request as JSON, and inside the PNG it produced, so that any output restores all its settings.

A record is `{"schema": 2, "request": {...}, "images": {sha256: base64 PNG}}`; pictures in the
request are named by the SHA-256 of their PNG, so a picture used twice is stored once, and image
embeds in the same way by their file. An output PNG adds `provenance` (what made it), `index` and
`seed`. Reading trusts nothing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Set
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from reprlib import repr
from typing import Any, BinaryIO, TypeVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ipadapter_demo.embeds import ImageEmbeds, read_embeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.files import write_file
from ipadapter_demo.imaging import MAX_PIXELS, read_bytes
from ipadapter_demo.json_values import Json
from ipadapter_demo.lora import MAX_LORAS, Lora
from ipadapter_demo.png_text import texts
from ipadapter_demo.record_pictures import Decoded, Encoded
from ipadapter_demo.request import (
    MAX_REFERENCES,
    MAX_STRUCTURES,
    GenerateRequest,
    Inpaint,
    Reference,
    Structure,
)
from ipadapter_demo.upscale import Upscale

SCHEMA, KEYWORD = 2, "ipadapter_demo"
MAX_RECORD_BYTES = 60 * 2**20  # Pillow refuses to open a PNG with more than 64 MiB of text
MAX_PNG_BYTES = MAX_RECORD_BYTES + 4 * MAX_PIXELS  # whatever `save_png` writes can be read
MAX_RECORD_VALUES = 100_000  # about: see check_values

# libpng refuses chunks above 8,000,000 bytes (PNG_USER_CHUNK_MALLOC_MAX), so longer records go on
# in chunks called "ipadapter_demo.1", "ipadapter_demo.2", ...
# https://github.com/pnggroup/libpng/blob/v1.6.43/scripts/pnglibconf.dfa#L286
_PIECE = 4_000_000
_NAMES = (KEYWORD, *(f"{KEYWORD}.{n}" for n in range(1, -(-MAX_RECORD_BYTES // _PIECE))))
_INTENT = b"\1"  # relative colorimetric, as `colour` converts: section 11.3.2.5

# What fields of schema 1 are called since.
_RENAMED = {"passes": "repaint_passes", "surroundings": "background_weight"}
_PICTURES, _MASKS = {"image", "init_image"}, {"mask", "clip_mask"}
_PARTS: dict[str, type] = {
    "references": Reference,
    "structures": Structure,
    "inpaint": Inpaint,
    "loras": Lora,
    "upscale": Upscale,
}

_MOST = {"references": MAX_REFERENCES, "structures": MAX_STRUCTURES, "loras": MAX_LORAS}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The record in an output PNG: image `index` of `request`, started from `seed`.

    `provenance` is whatever the writer knew: model, weight hashes, library versions.
    """

    request: GenerateRequest
    index: int
    seed: int
    provenance: dict[str, Json]


def request_to_json(request: GenerateRequest) -> dict[str, object]:
    """The record of a request, ready for `json.dumps`; pictures are kept byte for byte."""
    return _recorded(request, Encoded())


def request_from_json(record: Mapping[str, object] | str | bytes) -> GenerateRequest:
    """The request of an untrusted record, parsed or as text.

    Raises RequestError for a record that is too large, of a newer schema, or has a field that is
    unknown, missing or invalid: a setting that cannot be restored is never dropped silently.
    """
    if isinstance(record, (str, bytes)):
        record = _parsed(record)
    _check_fields("record", record, known={"schema", "request", "images"})
    _check_schema(record.get("schema"))
    pictures = Decoded(record.get("images", {}))
    _check_length(pictures.length)
    return _built(GenerateRequest, record.get("request"), "request", pictures)


def save_png(
    target: Path | str | BinaryIO,
    image: Image.Image,
    request: GenerateRequest,
    seed: int,
    index: int,
    provenance: Mapping[str, Json],
) -> None:
    """Write `image` losslessly, with everything needed to make it again: the whole file or none.

    Raises RequestError when the request's pictures are too large to travel inside a PNG.
    """
    Recording(request, provenance).save(target, image, seed, index)


class Recording:
    """`save_png` for several images of one request, whose pictures are encoded once."""

    def __init__(self, request: GenerateRequest, provenance: Mapping[str, Json]) -> None:
        pictures = Encoded()
        self._record = _recorded(request, pictures)
        pictures.check_pixels()
        self._provenance = dict(provenance)

    def save(
        self, target: Path | str | BinaryIO, image: Image.Image, seed: int, index: int
    ) -> None:
        more = {"index": index, "seed": seed, "provenance": self._provenance}
        text = json.dumps(self._record | more, allow_nan=False)
        if len(text) > MAX_RECORD_BYTES:
            raise RequestError(
                f"the pictures of a request may take {MAX_RECORD_BYTES:,} bytes inside an output "
                f"PNG, got {len(text):,}: use smaller ones"
            )
        info = PngInfo()
        info.add(b"sRGB", _INTENT)  # without it a viewer may take the screen's own colours
        for number, start in enumerate(range(0, len(text), _PIECE)):
            name = f"{KEYWORD}.{number}" if number else KEYWORD
            info.add_itxt(name, text[start : start + _PIECE])
        file = io.BytesIO()
        image.save(file, "PNG", pnginfo=info)
        if isinstance(target, (str, Path)):
            write_file(Path(target), file.getvalue())
        else:
            target.write(file.getvalue())


def request_from_png(source: Path | str | bytes | BinaryIO) -> GenerateRequest:
    """The request that made an output PNG, its pictures included."""
    return record_from_png(source).request


def record_from_png(source: Path | str | bytes | BinaryIO) -> Record:
    """All that `save_png` wrote. Raises RequestError for any other file."""
    pieces = texts(read_bytes(source, "PNG", MAX_PNG_BYTES), _NAMES, MAX_RECORD_BYTES)
    if KEYWORD not in pieces:
        raise RequestError(
            "PNG holds no settings: it was not made by this program, or was saved again by another"
        )
    record = _parsed(b"".join(pieces[name] for name in _NAMES if name in pieces))
    if record.get("schema") == 1 and "facts" in record:
        record["provenance"] = record.pop("facts")
    extra = {name: record.pop(name, None) for name in ("index", "seed", "provenance")}
    index, seed, provenance = extra["index"], extra["seed"], extra["provenance"]
    if type(index) is not int or type(seed) is not int or not isinstance(provenance, dict):
        raise RequestError("PNG holds a damaged record: index, seed or provenance are missing")
    return Record(request=request_from_json(record), index=index, seed=seed, provenance=provenance)


def check_values(field: str, text: str | bytes, most: int) -> None:
    """Raises RequestError for JSON of more than about `most` values, before it is parsed.

    Its brackets, braces and commas count: an empty list takes 20 times its two characters when
    parsed. Pictures, which are what makes a document long, are base64 and have none of these.
    """
    values = (
        sum(text.count(mark) for mark in "[{,")
        if isinstance(text, str)
        else sum(text.count(mark) for mark in b"[{,")
    )
    if values > most:
        raise RequestError(f"{field} must have at most {most:,} values, got about {values:,}")


def _recorded(request: GenerateRequest, pictures: Encoded) -> dict[str, object]:
    return {"schema": SCHEMA, "request": _plain(request, pictures), "images": pictures.texts}


def _plain(value: object, pictures: Encoded) -> object:
    if isinstance(value, Image.Image):
        return pictures.picture(value)
    if isinstance(value, ImageEmbeds):
        return pictures.file(value.content)
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name), pictures) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item, pictures) for item in value]
    return value


def current_names(values: object) -> object:
    """The fields of an `Inpaint`, as schema 1 named them or as they are named now."""
    if not isinstance(values, Mapping):
        return values
    return {
        _RENAMED[name] if name in _RENAMED and _RENAMED[name] not in values else name: value
        for name, value in values.items()
    }


def _built(kind: type[T], values: object, where: str, pictures: Decoded) -> T:
    declared = fields(kind)  # type: ignore[arg-type]
    values = current_names(values)
    required = {field.name for field in declared if field.default is MISSING}
    _check_fields(where, values, known={field.name for field in declared}, required=required)
    assert isinstance(values, Mapping)
    made: dict[str, Any] = {}
    for name, value in values.items():
        place = f"{where}.{name}"
        if value is None:
            made[name] = None
        elif name in _PICTURES | _MASKS:
            made[name] = pictures.picture(value, place, is_mask=name in _MASKS)
        elif name == "embeds":
            made[name] = read_embeds(pictures.file(value, place), place)
        elif name in _MOST and isinstance(value, list):
            if len(value) > _MOST[name]:  # before the picture of each is decoded
                raise RequestError(
                    f"{name} must have at most {_MOST[name]} entries, got {len(value)}"
                )
            made[name] = tuple(_built(_PARTS[name], item, place, pictures) for item in value)
        elif name in _PARTS:
            made[name] = _built(_PARTS[name], value, place, pictures)
        else:
            made[name] = value
    return kind(**made)


def _check_fields(
    where: str, values: object, known: Set[str], required: Set[str] = frozenset()
) -> None:
    if not isinstance(values, Mapping):
        raise RequestError(f"{where} must be an object with named fields, got {repr(values)}")
    if unknown := sorted(str(name) for name in values.keys() - known):
        raise RequestError(f"{where} has unknown fields: {', '.join(unknown):.200}")
    if missing := sorted(required - values.keys()):
        raise RequestError(f"{where} lacks {', '.join(missing)}")


def _check_schema(schema: object) -> None:
    if type(schema) is not int or schema < 1:
        raise RequestError(f"record.schema must be a whole number from 1, got {repr(schema)}")
    if schema > SCHEMA:
        raise RequestError(
            f"record.schema is {schema}, this version reads up to {SCHEMA}: "
            "it was written by a newer version"
        )


def _check_length(length: int) -> None:
    if length > MAX_RECORD_BYTES:
        raise RequestError(f"record must have at most {MAX_RECORD_BYTES:,} bytes, got {length:,}")


def _parsed(text: str | bytes) -> dict[str, Json]:
    _check_length(len(text))
    check_values("record", text, MAX_RECORD_VALUES)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"record is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise RequestError(f"record must be an object with named fields, got {repr(record)}")
    return record
