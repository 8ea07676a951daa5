"""Text in an untrusted PNG file, by the PNG specification, 3rd edition, sections 5.3 and 11.3.3."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator

from ipadapter_demo.errors import RequestError

_LONGEST = 80  # bytes of a keyword and the zero behind it
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def texts(content: bytes, keywords: Collection[str], most: int) -> dict[str, bytes]:
    """The texts under these keywords, `most` bytes at most, all together.

    No other text is inflated. Not read through Pillow: its limits on text are global state, too low
    here, and other users' pictures are opened under them at the same time.
    """
    found: dict[str, bytes] = {}
    left = most
    for _, chunk in _text_chunks(content, (b"iTXt",)):
        keyword = bytes(chunk[:_LONGEST]).partition(b"\0")[0]
        name = keyword.decode("latin-1")
        if name not in keywords:
            continue
        if name in found:
            raise RequestError(f"PNG is damaged: it has two text chunks called {name}")
        found[name] = _text(chunk[len(keyword) + 1 :], left)
        left -= len(found[name])
        if left < 0:
            raise RequestError(f"record must have at most {most:,} bytes, got {most - left:,}")
    return found


def texts_of_others(content: bytes, keywords: Collection[str], most: int) -> dict[str, str]:
    """The first text under each of these keywords, in any of the three kinds of chunks, `most`
    bytes at most, all together: other programs write them."""
    found: dict[str, str] = {}
    left = most
    for kind, chunk in _text_chunks(content, (b"iTXt", b"tEXt", b"zTXt")):
        keyword = bytes(chunk[:_LONGEST]).partition(b"\0")[0]
        name = keyword.decode("latin-1")
        if name not in keywords or name in found:
            continue
        body = chunk[len(keyword) + 1 :]
        if kind == b"iTXt":
            text, encoding = _text(body, left), "utf-8"
        else:
            text, encoding = _latin_text(body, kind, left), "latin-1"
        left -= len(text)
        if left < 0:
            raise RequestError(f"text in a PNG must have at most {most:,} bytes, got more")
        found[name] = text.decode(encoding, errors="replace")
    return found


def _text_chunks(content: bytes, kinds: Collection[bytes]) -> Iterator[tuple[bytes, memoryview]]:
    """The content of every chunk of these kinds, without a copy."""
    if not content.startswith(_SIGNATURE):
        raise RequestError(
            "PNG holds no settings: it is no PNG, and only an original output file holds them"
        )
    view, start = memoryview(content), len(_SIGNATURE)
    while start + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 8 + length
        if end + 4 > len(content):
            break
        if kind == b"IEND":
            return
        if kind in kinds:
            if zlib.crc32(view[start + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
                raise RequestError("PNG is damaged: a text chunk has the wrong checksum")
            yield kind, view[start + 8 : end]
        start = end + 4
    raise RequestError("PNG is cut short: its end is missing")


def _text(body: memoryview, most: int) -> bytes:
    """The text of a chunk whose keyword is read; one byte more than `most` where it is longer."""
    try:
        # language and translated keyword are unused
        _, _, text = bytes(body[2:]).split(b"\0", 2)
        if body[0]:  # not by us, but a program that optimises PNGs may compress text
            text = zlib.decompressobj().decompress(text, most + 1)
    except (ValueError, IndexError, zlib.error) as error:
        raise RequestError("PNG is damaged: a text chunk is malformed") from error
    return text


def _latin_text(body: memoryview, kind: bytes, most: int) -> bytes:
    """The same of the two older kinds of chunks."""
    if kind == b"tEXt":
        return bytes(body[: most + 1])
    try:
        return zlib.decompressobj().decompress(bytes(body[1:]), most + 1)
    except zlib.error as error:
        raise RequestError("PNG is damaged: a text chunk is malformed") from error
