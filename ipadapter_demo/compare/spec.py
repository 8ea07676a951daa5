"""A comparison and its files.

The document of a comparison, JSON or YAML, names pictures by file. A `Spec` holds the exact bytes
of each, so it can travel: the page, the command line, Python and a bundle all start from the same
object.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from ipadapter_demo.compare.comparison import ComparisonSpec
from ipadapter_demo.compare.document import check_document, document_from_text
from ipadapter_demo.compare.schema import checked, parsed
from ipadapter_demo.embeds import ImageEmbeds, read_embeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import flatten_image, read_bytes, read_image, shrink_to_area
from ipadapter_demo.masks import flatten_mask
from ipadapter_demo.record import current_names
from ipadapter_demo.room import room_for
from ipadapter_demo.size_limits import MAX_AREA

MAX_BYTES = 200 * 2**20  # of all its files

Document = dict[str, Any]  # of a comparison, as JSON has it; its schema is `ComparisonSpec`
Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Spec:
    """A comparison, and the bytes of every file that it names."""

    comparison: ComparisonSpec
    files: Files

    @property
    def document(self) -> Document:
        """The comparison as JSON writes it."""
        return self.comparison.document()

    def changed(self, **fields: object) -> Spec:
        """The same with other fields of the comparison."""
        return replace(self, comparison=self.comparison.model_copy(update=fields))

    def with_files_named(self, renamed: Callable[[str], str]) -> Spec:
        """The same under other file names."""
        comparison = parsed(self.document, ComparisonSpec, "spec", renamed)
        return Spec(comparison, {renamed(name): self.files[name] for name in self.files})

    def picture(self, name: str) -> Image.Image:
        """RGB. It travels inside its cells, so it has no more pixels than a cell may have. Raises
        RequestError."""
        with room_for(self.files[name]):
            return shrink_to_area(flatten_image(self._decoded(name), name), MAX_AREA)

    def whole_picture(self, name: str) -> Image.Image:
        """RGB in its own size: a picture that is inpainted keeps every pixel."""
        with room_for(self.files[name]):
            return flatten_image(self._decoded(name), name)

    def mask(self, name: str) -> Image.Image:
        """Of a reference, with no more pixels than its picture."""
        return shrink_to_area(self.whole_mask(name), MAX_AREA)

    def whole_mask(self, name: str) -> Image.Image:
        """In the size of the picture that is inpainted."""
        with room_for(self.files[name]):
            return flatten_mask(self._decoded(name), name)

    def embeds(self, name: str) -> ImageEmbeds:
        """Raises RequestError."""
        return read_embeds(self.files[name], shortened(name))

    def _decoded(self, name: str) -> Image.Image:
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
    comparison = checked(_with_current_names(document), ComparisonSpec, "spec")
    try:
        json.dumps(comparison.document(), ensure_ascii=False).encode()
    except ValueError as error:
        raise RequestError("spec has half a character in it, which no file can hold") from error
    files: dict[str, bytes] = {}
    for name in file_names(comparison):
        files[name] = read(name)
        if sum(map(len, files.values())) > MAX_BYTES:
            raise RequestError(f"the files of a spec may take {MAX_BYTES:,} bytes, got more")
    return Spec(comparison, files)


def file_names(comparison: ComparisonSpec) -> list[str]:
    """Of all files that a comparison names, each once."""
    found: dict[str, None] = {}

    def noted(name: str) -> str:
        found[name] = None
        return name

    parsed(comparison.document(), ComparisonSpec, "spec", noted)
    return list(found)


def _with_current_names(document: object) -> object:
    """The document with an inpainting's fields named as they are now."""
    request = document.get("request") if isinstance(document, dict) else None
    if not isinstance(request, dict) or "inpaint" not in request:
        return document
    assert isinstance(document, dict)
    return document | {"request": request | {"inpaint": current_names(request["inpaint"])}}


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


def shortened(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
