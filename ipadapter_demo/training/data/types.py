"""The one shape that pictures with captions have here: shards of rows.

A shard is opened where it is read. A row is decoded where it is used, and may be broken: whoever
reads it finds another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image

    from ipadapter_demo.training.data.examples import Example

CAPTION_NAMES = ("text", "caption", "prompt", "TEXT")


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
    """A source of rows. `name` tells it from the others of a run."""

    @property
    def name(self) -> str: ...

    def open(self) -> Rows: ...


def caption_in(entry: Mapping[str, object]) -> str:
    """The caption of a JSON record, under the names that are in use."""
    return str(next((entry[n] for n in CAPTION_NAMES if entry.get(n)), "")).strip()
