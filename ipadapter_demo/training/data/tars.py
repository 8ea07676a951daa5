"""Tar files as img2dataset writes them: 000000012.jpg, .txt, .json side by side; local, or behind a
URL of any kind that fsspec reads: https, s3, gs, hf, ... Beside them 000000012.reference.jpg may
stand: what the image encoder is to see instead of the picture."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
import time
import weakref
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from ipadapter_demo.imaging import flatten_image, read_image
from ipadapter_demo.training.data.types import Pair, Rows, caption_in, file_stamp

IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")
_ATTEMPTS = 3  # at a download


@dataclass(frozen=True, slots=True)
class TarShard:
    """One tar file, local or behind a URL; the latter is fetched when it is opened and not kept."""

    name: str

    @property
    def stamp(self) -> str:
        return file_stamp(self.name)

    @property
    def size(self) -> int | None:
        return None if "://" in self.name else os.path.getsize(self.name)

    def open(self) -> Rows:
        return TarRows(self.name)


class TarRows:
    """The samples of a tar file, found by one pass over its headers. A file that was cut short
    still gives what comes before the cut; wids fails there, and shortens long names."""

    def __init__(self, name: str) -> None:
        self._path = name
        if "://" in name:
            self._path = _fetched(name)
            weakref.finalize(self, os.unlink, self._path)  # it is as long as its rows are
        self._samples = list(_samples(self._path).items())

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Pair:
        key, parts = self._samples[index]
        image = self._picture(parts)
        if image is None:
            raise ValueError(f"{key} has no picture, only {', '.join(parts)}")
        return Pair(key, image, self._caption(parts), self._picture(parts, "reference."))

    def _picture(self, parts: dict[str, tuple[int, int]], what: str = "") -> Image.Image | None:
        span = next((parts[what + kind] for kind in IMAGE_KEYS if what + kind in parts), None)
        return None if span is None else flatten_image(read_image(self._read(span)))

    def _caption(self, parts: dict[str, tuple[int, int]]) -> str:
        if "txt" in parts:
            return self._read(parts["txt"]).decode("utf-8").strip()
        if "json" in parts:
            return caption_in(json.loads(self._read(parts["json"])))
        return ""

    def _read(self, span: tuple[int, int]) -> bytes:
        start, length = span
        with open(self._path, "rb") as file:
            file.seek(start)
            content = file.read(length)
        if len(content) != length:
            raise OSError("the file ends in the middle of it")
        return content


def _samples(path: str) -> dict[str, dict[str, tuple[int, int]]]:
    """key -> ending -> (offset, bytes). The key ends at the first dot of the name, as in
    webdataset: https://github.com/webdataset/webdataset#the-webdataset-format"""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                key, dot, kind = name.partition(".")
                if member.isfile() and dot and key:
                    span = (member.offset_data, member.size)
                    found.setdefault(f"{folder}/{key}", {})[kind.lower()] = span
    except tarfile.ReadError:
        if not found:
            raise
    return found


def _fetched(url: str) -> str:
    """The path of a temporary file with what is at `url`."""
    for attempt in range(_ATTEMPTS):
        number, path = tempfile.mkstemp(suffix=".tar")
        try:
            with open(number, "wb") as file:
                _copy(url, file)
            return path
        except Exception as error:  # every file system has its own
            os.unlink(path)
            if attempt == _ATTEMPTS - 1:
                raise OSError(f"{url} cannot be fetched: {error}") from error
            time.sleep(2**attempt)
    raise AssertionError("unreachable")


def _copy(url: str, file: BinaryIO) -> None:
    if url.startswith(("http://", "https://")):
        import httpx

        with httpx.stream("GET", url, follow_redirects=True, timeout=60) as answer:
            answer.raise_for_status()
            for part in answer.iter_bytes():
                file.write(part)
    else:
        import fsspec

        with fsspec.open(url, "rb") as there:
            shutil.copyfileobj(there, file, 2**20)
