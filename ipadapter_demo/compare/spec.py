"""What a comparison is: a JSON or YAML document, checked against `spec.schema.json`, and its files.

The document names pictures by file. A `Spec` holds the exact bytes of each, so it can travel: the
page, the command line, Python and a bundle all start from the same object.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
from PIL import Image

from ipadapter_demo.compare.document import check_document, document_from_text
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import flatten_image, read_bytes, read_image, shrink_to_area
from ipadapter_demo.masks import flatten_mask
from ipadapter_demo.record import current_names
from ipadapter_demo.request import MAX_AREA, structure_parts

MAX_BYTES = 200 * 2**20  # of all its files
MAX_VALUES = 100  # along one axis
MAX_ERRORS = 20  # of a document, among which the one to tell is looked for

Document = dict[str, Any]
Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Spec:
    """A document that fits the schema, and the bytes of every file that it names."""

    document: Document
    files: Files

    def picture(self, name: str) -> Image.Image:
        """RGB. It travels inside its cells, so it has no more pixels than a cell may have. Raises
        RequestError."""
        return shrink_to_area(flatten_image(self.decoded(name), name), MAX_AREA)

    def whole_picture(self, name: str) -> Image.Image:
        """RGB in its own size: a picture that is inpainted keeps every pixel."""
        return flatten_image(self.decoded(name), name)

    def mask(self, name: str) -> Image.Image:
        return flatten_mask(self.decoded(name), name)

    def decoded(self, name: str) -> Image.Image:
        return read_image(self.files[name], shortened(name))


def spec_from_file(path: Path) -> Spec:
    """A spec whose files lie beside it, or where it says."""
    text = read_bytes(path, shortened(str(path)))
    try:
        document = document_from_text(text)
    except RequestError as error:
        raise RequestError(f"{path.name:.80}: {error}") from error
    return spec_from_document(
        document, lambda name: read_bytes(path.parent / name, shortened(name))
    )


def spec_from_text(text: str | bytes, read: Callable[[str], bytes]) -> Spec:
    """`read` gives the bytes of a file by its name. Raises RequestError that names the field."""
    return spec_from_document(document_from_text(text), read)


def spec_from_document(document: object, read: Callable[[str], bytes]) -> Spec:
    """As `spec_from_text`, from what the text says."""
    check_document(document)
    document = _with_current_names(document)
    validate(document, "spec")
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RequestError("spec has half a character in it, which no file can hold") from error
    assert isinstance(document, dict)
    files: dict[str, bytes] = {}
    for name in file_names(document):
        if name not in files:
            files[name] = read(name)
        if sum(map(len, files.values())) > MAX_BYTES:
            raise RequestError(f"the files of a spec may take {MAX_BYTES:,} bytes, got more")
    return Spec(document, files)


def _with_current_names(document: object) -> object:
    """The document with an inpainting's fields named as they are now."""
    request = document.get("request") if isinstance(document, dict) else None
    if not isinstance(request, dict) or "inpaint" not in request:
        return document
    assert isinstance(document, dict)
    return document | {"request": request | {"inpaint": current_names(request["inpaint"])}}


def validate(document: object, kind: str) -> None:
    """Raises RequestError unless the document fits `kind`.schema.json."""
    errors = itertools.islice(_validator(kind).iter_errors(document), MAX_ERRORS)
    error = jsonschema.exceptions.best_match(errors)
    if error is not None:
        place = error.json_path.replace("$", kind, 1)
        raise RequestError(f"{place:.200}: {error.message:.200}")


@cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema(kind))


@cache
def schema(kind: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / f"{kind}.schema.json").read_text(encoding="utf-8"))


def axes(document: Document, side: str) -> dict[str, list[Any]]:
    """What differs along a side ("pages", "rows" or "columns"), and its values."""
    return {
        name: expanded(f"{side}.{name}", values) for name, values in document.get(side, {}).items()
    }


def expanded(field: str, values: Any) -> list[Any]:
    """A list as it is, and first:last:step as the numbers that it means, both ends included."""
    if isinstance(values, list):
        return values
    first, last, *more = (float(part) for part in values.split(":"))
    step = more[0] if more else 1.0
    if step <= 0 or last < first or not all(map(math.isfinite, (first, last, step))):
        raise RequestError(f"{field} must be written first:last:step, rising, got {values!r:.80}")
    intervals = (last - first) / step  # infinite where the step is tiny
    if intervals >= MAX_VALUES:
        many = f"{intervals + 1:,.0f}" if intervals < 1e12 else "far more"
        raise RequestError(f"{field} must have at most {MAX_VALUES} values, got {many}")
    count = math.floor(intervals + 1e-6) + 1
    numbers = [round(first + i * step, 10) for i in range(count)]
    return [int(n) if n.is_integer() else n for n in numbers]


def file_names(document: Document) -> Iterator[str]:
    """Of all files that a document names, in its order, some of them perhaps twice."""
    for holder, key, start in _file_places(document):
        yield holder[key][start:]


def with_files_named(document: Document, renamed: Callable[[str], str]) -> Document:
    """The same document under other file names."""
    copied: Document = json.loads(json.dumps(document))
    for holder, key, start in _file_places(copied):
        holder[key] = holder[key][:start] + renamed(holder[key][start:])
    return copied


def numbered(names: Iterable[str]) -> list[str]:
    """The names without their folders, each only once: a second photo.png is photo-2.png."""
    plain = [PurePosixPath(name.replace("\\", "/")) for name in names]
    found: list[str] = []
    taken = {path.name for path in plain}
    for path in plain:
        name = path.name
        if name in found:
            numbers = (f"{path.stem}-{number}{path.suffix}" for number in itertools.count(2))
            name = next(other for other in numbers if other not in taken)
        found.append(name)
        taken.add(name)
    return found


def _file_places(document: Document) -> Iterator[tuple[Any, Any, int]]:
    """Where a document names a file: in holder[key], from a character on."""
    request = document.get("request", {})
    for part in (
        *request.get("references", ()),
        *request.get("structures", ()),
        *([request["inpaint"]] if "inpaint" in request else ()),
    ):
        yield from ((part, key, 0) for key in ("image", "mask") if key in part)
    if "init_image" in request:
        yield request, "init_image", 0
    for side in ("pages", "rows", "columns"):
        names, maps = (document.get(side, {}).get(axis, ()) for axis in ("reference", "structure"))
        yield from ((names, i, 0) for i, name in enumerate(names) if name is not None)
        yield from (
            (maps, i, len(value) - len(structure_parts(value)[2]))
            for i, value in enumerate(maps)
            if value is not None
        )


def shortened(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
