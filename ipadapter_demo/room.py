"""Room for large pictures: while one of 50 million pixels is decoded it takes a gigabyte, so only a
few are at once, of whomever they are; and so it is with records, whose pictures may be as large."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore

from PIL import Image

from ipadapter_demo.record import Record, record_from_png

SMALL = 4_000_000  # pixels of a picture that needs none
AT_ONCE = 2
_ROOM = BoundedSemaphore(AT_ONCE)


@contextmanager
def room_for(source: Path | bytes) -> Iterator[None]:
    """Waits for it, if a file is a large picture by its header."""
    size = size_by_header(source)
    if size is not None and size[0] * size[1] <= SMALL:
        yield
        return
    with _ROOM:
        yield


def record_at(path: Path) -> Record:
    """The record in a result, decoded when there is room for it. Raises RequestError."""
    with _ROOM:
        return record_from_png(path)


def size_by_header(source: Path | bytes) -> tuple[int, int] | None:
    """(width, height) as the file has them, which may lie on its side. None for what is no picture,
    or of a format that is not known here."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.size
    except Exception:  # whatever a decoder raises: whoever reads the file says what is wrong
        return None
