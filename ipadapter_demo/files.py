"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary place beside `path`; what was written there is `path` once the block ends well.

    A kill or a full disk leaves the file that was there before, never half a file: the content is
    on the disk before the name is (POSIX rename is atomic, but says nothing about the content).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp")  # two writers never share one
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """`content` as the whole of `path`; see `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
