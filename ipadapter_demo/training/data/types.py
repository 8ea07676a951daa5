"""The one shape that pictures with captions have here: shards of rows.

A shard is opened where it is read. A row is decoded where it is used, and may be broken: whoever
reads it finds another.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image

    from ipadapter_demo.training.data.examples import Example

CAPTION_NAMES = ("text", "caption", "prompt", "TEXT")


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture, RGB, and its caption; "" where it has none. `reference` is another picture of the
    same, for the image encoder to see; without it that sees the picture itself."""

    key: str
    image: Image.Image
    caption: str
    reference: Image.Image | None = None


class Rows(Protocol):
    """An open shard. Reading a broken row raises whatever its decoder likes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Pair | Example: ...


class Shard(Protocol):
    """A source of rows. `name` tells it from the others of a run, `stamp` from what stood under its
    name before. `size` is in bytes, None where that is not known."""

    @property
    def name(self) -> str: ...

    @property
    def stamp(self) -> str: ...

    @property
    def size(self) -> int | None: ...

    def open(self) -> Rows: ...


def opened(shard: Shard) -> Rows | None:
    """Its rows; None for a shard that cannot be opened now, which the log names."""
    try:
        return shard.open()
    except Exception as error:  # those of every library behind a shard
        log.warning("skipped: %s: %s", shard.name, error)
        return None


def file_stamp(path: str | Path) -> str:
    """Its size and when it was changed; of a file that is not there, nothing."""
    with suppress(OSError):
        found = os.stat(path)
        return f"{found.st_size} {found.st_mtime_ns}"
    return ""


def caption_in(entry: Mapping[str, object]) -> str:
    """The caption of a JSON record, under the names that are in use. Raises ValueError for what is
    no text, such as half of a UTF-16 pair."""
    caption = str(next((entry[n] for n in CAPTION_NAMES if entry.get(n)), "")).strip()
    caption.encode()
    return caption
