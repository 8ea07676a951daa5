"""Pictures with captions as people have them, all in one shape: shards of rows.

- tar files as img2dataset writes them (000000012.jpg, .txt, .json side by side), local or behind a
  URL of any kind that fsspec reads: https, s3, gs, hf, ...
- a folder with `metadata.jsonl`, the layout of `datasets`' ImageFolder: {"file_name", "text"}
- what the `datasets` library saves to disk or keeps on the hub
- shards of encoded pictures that `training/cache.py` wrote

A shard is opened where it is read. A row is decoded where it is used, and may be broken: whoever
reads it finds another.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.imaging import flatten_image, read_image

if TYPE_CHECKING:
    from PIL import Image

ROWS = 512  # of a shard that is cut from a folder or a dataset
IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")
CAPTION_NAMES = ("text", "caption", "prompt", "TEXT")
_ATTEMPTS = 3  # at a download


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture, RGB, and its caption; "" where it has none."""

    key: str
    image: Image.Image
    caption: str


class Rows(Protocol):
    """An open shard. Reading a broken row raises whatever its decoder likes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Shard(Protocol):
    """Where rows are. `name` tells it from the others of a run."""

    @property
    def name(self) -> str: ...

    def open(self) -> Rows: ...


def shards_of(places: Sequence[str], field: str = "data") -> list[Shard]:
    """The shards of the sources a config names, in their order. Raises TrainingError."""
    found = [shard for place in places for shard in _of_place(place, field)]
    if not found:
        raise TrainingError(f"{field}: {', '.join(places)} holds no pictures")
    return found


def _of_place(place: str, field: str) -> Iterator[Shard]:
    if place.startswith("datasets:"):
        yield from _of_dataset(place.removeprefix("datasets:"), field)
        return
    for name in _expanded(place):
        path = Path(name)
        if "://" in name:
            yield TarShard(name)
        elif path.is_dir():
            yield from _of_folder(path, field)
        elif path.suffix == ".tar" and path.is_file():
            yield TarShard(name)
        else:
            raise TrainingError(f"{field}: {name} is neither a .tar file, a folder, nor a URL")


def _expanded(place: str) -> Iterator[str]:
    """{000..012} counts; * and ? match names in a folder."""
    if match := re.search(r"\{(\d+)\.\.(\d+)\}", place):
        first, last = match.groups()
        for number in range(int(first), int(last) + 1):
            middle = str(number).zfill(len(first))
            yield from _expanded(place[: match.start()] + middle + place[match.end() :])
    elif "://" not in place and re.search(r"[*?]", Path(place).name):
        yield from sorted(map(str, Path(place).parent.glob(Path(place).name)))
    else:
        yield place


# --- tar ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TarShard:
    """One tar file, local or behind a URL; the latter is fetched when it is opened and not kept."""

    name: str

    def open(self) -> Rows:
        return TarRows(self.name)


class TarRows:
    """The samples of a tar file, found by one pass over its headers. A file that was cut short
    still gives what comes before the cut."""

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
        kind = next((k for k in IMAGE_KEYS if k in parts), None)
        if kind is None:
            raise ValueError(f"{key} has no picture, only {', '.join(parts)}")
        image = flatten_image(read_image(self._read(parts[kind])))
        return Pair(key, image, self._caption(parts))

    def _caption(self, parts: dict[str, tuple[int, int]]) -> str:
        if "txt" in parts:
            return self._read(parts["txt"]).decode("utf-8").strip()
        if "json" in parts:
            return caption_in(json.loads(self._read(parts["json"])))
        return ""

    def _read(self, place: tuple[int, int]) -> bytes:
        start, length = place
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
                    place = (member.offset_data, member.size)
                    found.setdefault(f"{folder}/{key}", {})[kind.lower()] = place
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


# --- folders and datasets ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FolderShard:
    """Some rows of a folder's metadata.jsonl."""

    folder: Path
    rows: range

    @property
    def name(self) -> str:
        return f"{self.folder}:{self.rows.start}"

    def open(self) -> Rows:
        lines = (self.folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        return FolderRows(self.folder, lines[self.rows.start : self.rows.stop])


@dataclass(frozen=True, slots=True)
class FolderRows:
    folder: Path
    lines: list[str]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Pair:
        entry = json.loads(self.lines[index])
        name = entry["file_name"]
        return Pair(name, flatten_image(read_image(self.folder / name)), caption_in(entry))


def _of_folder(folder: Path, field: str) -> Iterator[Shard]:
    tars = sorted(folder.glob("*.tar"))
    listed = folder / "metadata.jsonl"
    if listed.is_file():
        with listed.open(encoding="utf-8") as file:
            count = sum(1 for _ in file)
        yield from (FolderShard(folder, rows) for rows in _cut(count))
    elif tars:
        yield from (TarShard(str(tar)) for tar in tars)
    else:
        raise TrainingError(f"{field}: {folder} has neither a metadata.jsonl with a line "
                            '{"file_name": ..., "text": ...} for each picture, nor .tar files')


@dataclass(frozen=True, slots=True)
class DatasetShard:
    """Some rows of a dataset of the `datasets` library, which reads them from its own files."""

    source: str
    dataset: Any
    image: str
    caption: str | None
    rows: range

    @property
    def name(self) -> str:
        return f"{self.source}:{self.rows.start}"

    def open(self) -> Rows:
        return DatasetRows(self)


@dataclass(frozen=True, slots=True)
class DatasetRows:
    shard: DatasetShard

    def __len__(self) -> int:
        return len(self.shard.rows)

    def __getitem__(self, index: int) -> Pair:
        shard = self.shard
        row = shard.dataset[shard.rows[index]]
        stored = row[shard.image]
        picture = stored["bytes"] if stored.get("bytes") is not None else Path(stored["path"])
        words = row[shard.caption] if shard.caption else ""
        if isinstance(words, list):  # several captions: the first
            words = words[0] if words else ""
        return Pair(str(shard.rows[index]), flatten_image(read_image(picture)), str(words or ""))


def _of_dataset(source: str, field: str) -> Iterator[Shard]:
    try:
        import datasets
    except ImportError as error:
        raise TrainingError(f"{field}: datasets:{source} needs the library: pip install -r "
                            "requirements-train.txt") from error
    name, _, split = source.partition(":")
    try:
        found = datasets.load_from_disk(name) if Path(name).is_dir() else \
            datasets.load_dataset(name, split=split or "train")
    except Exception as error:  # its builders raise what they like
        raise TrainingError(f"{field}: datasets:{source} cannot be loaded: {error}") from error
    if isinstance(found, datasets.DatasetDict):
        wanted = split or "train"
        if wanted not in found:
            raise TrainingError(f"{field}: datasets:{source} has the splits {', '.join(found)}, "
                                f"not {wanted!r}")
        found = found[wanted]
    images = [n for n, f in found.features.items() if isinstance(f, datasets.Image)]
    if not images:
        raise TrainingError(f"{field}: datasets:{source} has no column of pictures, only "
                            f"{', '.join(found.features)}")
    words = next((n for n in CAPTION_NAMES if n in found.features), None)
    raw = found.cast_column(images[0], datasets.Image(decode=False))
    for rows in _cut(len(raw)):
        yield DatasetShard(source, raw, images[0], words, rows)


def caption_in(entry: dict[str, Any]) -> str:
    """What a JSON record calls a caption, under the names that are in use."""
    return str(next((entry[n] for n in CAPTION_NAMES if entry.get(n)), "")).strip()


def _cut(count: int) -> Iterator[range]:
    for start in range(0, count, ROWS):
        yield range(start, min(start + ROWS, count))
