"""One file of an untrusted zip, at a bounded price.

zipfile inflates the whole of a file before it looks at its size, keeps an object for every entry,
and raises whatever a decompressor raises.
"""

from __future__ import annotations

import zipfile
import zlib
from functools import partial
from pathlib import Path

from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import MAX_FILE_BYTES

MAX_ENTRIES = 10_000  # of a comparison of 400 cells there are at most a few thousand
MAX_RATIO = 100  # pictures in base64 shrink by a quarter, and figures of a manifest by nine tenths
_ENTRY = b"PK\1\2"  # begins each in the directory of a zip: APPNOTE.TXT 4.3.12
_BLOCK = 2**20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_from_zip(path: Path, name: str, most: int = MAX_FILE_BYTES) -> bytes:
    """Raises RequestError for what is no zip, has no such file, or a longer one."""
    shown = f"{path.name:.80}"
    try:
        _check_entries(path, shown)
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(name)
            if entry.compress_type not in _METHODS:  # zipfile bounds the memory of no other
                raise RequestError(f"{shown} is no bundle: {name} must be stored or deflated")
            if entry.file_size > most:
                raise RequestError(f"{name} must have at most {most:,} bytes")
            if entry.file_size > _BLOCK + MAX_RATIO * entry.compress_size:
                raise RequestError(
                    f"{shown}: {name} may be {MAX_RATIO} times its compressed size, "
                    f"{entry.compress_size:,} bytes, got {entry.file_size:,}"
                )
            with archive.open(entry) as file:
                return b"".join(iter(partial(file.read, _BLOCK), b""))  # a block at a time
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"{shown} cannot be read: {error.strerror or error}") from error
    except (
        LookupError, ValueError, RuntimeError, EOFError,  # RuntimeError: it is encrypted
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise RequestError(f"{shown} is no bundle: {str(error) or 'damaged':.200}") from error


def _check_entries(path: Path, shown: str) -> None:
    count, tail = 0, b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            count += (tail + block).count(_ENTRY)
            tail = block[1 - len(_ENTRY) :]
    if count > MAX_ENTRIES:
        raise RequestError(f"{shown} may have {MAX_ENTRIES:,} entries, got {count:,}")
