"""Sources of pictures with captions, as people have them:

- tar files as img2dataset writes them, local or behind URLs (`training/data/tars.py`)
- a folder with `metadata.jsonl`, the layout of `datasets`' ImageFolder: {"file_name", "text"}
- what the `datasets` library saves to disk or keeps on the hub
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ipadapter_demo.errors import TrainingError
from ipadapter_demo.imaging import flatten_image, read_image
from ipadapter_demo.training.data.tars import TarShard
from ipadapter_demo.training.data.types import (
    CAPTION_NAMES,
    Pair,
    Rows,
    Shard,
    caption_in,
    file_stamp,
)

if TYPE_CHECKING:
    from datasets import Dataset

ROWS = 512  # at most, of a shard that is cut from a folder or a dataset


def shards_of(sources: Sequence[str], field: str = "data") -> list[Shard]:
    """The shards of the sources a config names, in their order. Raises TrainingError."""
    found = [shard for source in sources for shard in _of_source(source, field)]
    if not found:
        raise TrainingError(f"{field}: {', '.join(sources)} holds no pictures")
    return found


def _of_source(source: str, field: str) -> Iterator[Shard]:
    if source.startswith("datasets:"):
        yield from _of_dataset(source.removeprefix("datasets:"), field)
        return
    for name in _expanded(source):
        path = Path(name)
        if "://" in name:
            yield TarShard(name)
        elif path.is_dir():
            yield from _of_folder(path, field)
        elif path.suffix == ".tar" and path.is_file():
            yield TarShard(name)
        else:
            raise TrainingError(f"{field}: {name} is neither a .tar file, a folder, nor a URL")


def _expanded(source: str) -> Iterator[str]:
    """{000..012} counts; * and ? match names in a folder."""
    if match := re.search(r"\{(\d+)\.\.(\d+)\}", source):
        first, last = match.groups()
        for number in range(int(first), int(last) + 1):
            middle = str(number).zfill(len(first))
            yield from _expanded(source[: match.start()] + middle + source[match.end() :])
    elif "://" not in source and re.search(r"[*?]", Path(source).name):
        yield from sorted(map(str, Path(source).parent.glob(Path(source).name)))
    else:
        yield source


@dataclass(frozen=True, slots=True)
class FolderShard:
    """Some rows of a folder's metadata.jsonl."""

    folder: Path
    lines: tuple[str, ...]
    number: int

    @property
    def name(self) -> str:
        return f"{self.folder}:{self.number}"

    @property
    def stamp(self) -> str:
        """Of its rows and of their pictures."""
        parts = [*self.lines, *map(file_stamp, self._pictures())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self._pictures() if path.is_file())

    def _pictures(self) -> Iterator[Path]:
        for line in self.lines:
            with suppress(ValueError, TypeError, KeyError):  # a broken line
                yield self.folder / str(json.loads(line)["file_name"])

    def open(self) -> Rows:
        return FolderRows(self.folder, self.lines)


@dataclass(frozen=True, slots=True)
class FolderRows:
    folder: Path
    lines: Sequence[str]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Pair:
        entry = json.loads(self.lines[index])
        name = entry["file_name"]
        return Pair(name, flatten_image(read_image(self.folder / name, name)), caption_in(entry))


def _of_folder(folder: Path, field: str) -> Iterator[Shard]:
    tars = sorted(folder.glob("*.tar"))
    listed = folder / "metadata.jsonl"
    if listed.is_file():
        # a caption may hold what str.splitlines takes for the end of a line, as U+2028
        lines = [line for line in listed.read_text("utf-8-sig").split("\n") if line.strip()]
        for number, rows in enumerate(_cut(len(lines))):
            yield FolderShard(folder, tuple(lines[row] for row in rows), number)
    elif tars:
        yield from (TarShard(str(tar)) for tar in tars)
    else:
        raise TrainingError(
            f"{field}: {folder} has neither a metadata.jsonl with a line "
            '{"file_name": ..., "text": ...} for each picture, nor .tar files'
        )


@dataclass(frozen=True, slots=True)
class DatasetShard:
    """Some rows of a dataset of the `datasets` library, which reads them from its own files."""

    source: str
    dataset: Dataset
    image: str
    caption: str | None
    rows: range
    size: None = None  # of its own files

    @property
    def name(self) -> str:
        return f"{self.source}:{self.rows.start}"

    @property
    def stamp(self) -> str:
        return f"{self.dataset._fingerprint} {self.rows}"

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
        raise TrainingError(
            f"{field}: datasets:{source} needs the library: pip install -r requirements-train.txt"
        ) from error
    name, _, split = source.partition(":")
    try:
        found = (
            datasets.load_from_disk(name)
            if Path(name).is_dir()
            else datasets.load_dataset(name, split=split or "train")
        )
    except Exception as error:  # its builders raise what they like
        raise TrainingError(f"{field}: datasets:{source} cannot be loaded: {error}") from error
    if isinstance(found, datasets.DatasetDict):
        wanted = split or "train"
        if wanted not in found:
            raise TrainingError(
                f"{field}: datasets:{source} has the splits {', '.join(found)}, not {wanted!r}"
            )
        found = found[wanted]
    images = [n for n, f in found.features.items() if isinstance(f, datasets.Image)]
    if not images:
        raise TrainingError(
            f"{field}: datasets:{source} has no column of pictures, only "
            f"{', '.join(found.features)}"
        )
    words = next((n for n in CAPTION_NAMES if n in found.features), None)
    raw = found.cast_column(images[0], datasets.Image(decode=False))
    for rows in _cut(len(raw)):
        yield DatasetShard(source, raw, images[0], words, rows)


def _cut(count: int) -> Iterator[range]:
    """Alike, and as many as most batches can be divided by: a power of two. Each has rows of all
    of it, as a folder's may be sorted."""
    parts = 1 << (max(0, count - 1) // ROWS).bit_length()
    return (range(first, count, parts) for first in range(parts if count else 0))
