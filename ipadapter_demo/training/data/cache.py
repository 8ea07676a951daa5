"""Latents and image embeddings of shards, kept on disk: encoded once, read in every step.

A shard becomes one .safetensors file. A picture of 512 pixels takes 32 KB for its latents, 2 KB for
ViT-H's embedding and 658 KB for the patches that a Plus adapter reads. Pictures are cropped at the
centre and never flipped, so nothing is lost by it but half precision; broken rows are left out. A
shard that changed, by its files' sizes and times, is encoded anew; behind a URL none is looked at.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ipadapter_demo.errors import ModelError, TrainingError
from ipadapter_demo.training.data.examples import Example, Preparer
from ipadapter_demo.training.data.types import Rows, Shard, file_stamp, opened

log = logging.getLogger(__name__)

TENSORS = ("latents", "embeds", "map")
_TOGETHER = 32

Encode = Callable[[Sequence[Example]], list[Example]]


@dataclass(frozen=True, slots=True)
class EncodedShard:
    """A shard that was encoded. `name` is of the shard it was made of."""

    name: str
    path: Path

    @property
    def stamp(self) -> str:
        return file_stamp(self.path)

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def open(self) -> EncodedRows:
        return EncodedRows(self.path)


class EncodedRows:
    """The rows of an encoded shard: Examples without pictures."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, "pt")
        self._rows = json.loads(self._file.metadata()["rows"])
        self._slices = {name: self._file.get_slice(name) for name in list(self._file.keys())}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        caption, original, crop = self._rows[index]
        tensors: dict[str, Tensor] = {n: s[index] for n, s in self._slices.items()}
        return Example(caption, tuple(original), tuple(crop), **tensors)


def encoded(
    shards: Sequence[Shard],
    folder: Path,
    identity: str,
    preparer: Preparer,
    encode: Encode,
    accelerator: Accelerator,
) -> list[Shard]:
    """The shards as encoded ones below `folder`, made there unless they are there already: by all
    processes, each its part. `identity` says what encoded them, and keeps others' apart. One that
    cannot be opened now is left out, and tried again by the next run that begins."""
    subfolder = folder / hashlib.sha256(identity.encode()).hexdigest()[:12]
    subfolder.mkdir(parents=True, exist_ok=True)
    (subfolder / "made-with.json").write_text(identity + "\n")
    found = [
        EncodedShard(
            shard.name,
            subfolder / f"{number:05d}-{_short(shard.name + shard.stamp)}.safetensors",
        )
        for number, shard in enumerate(shards)
    ]
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    for shard, target in list(zip(shards, found, strict=True))[mine]:
        if not target.path.exists():
            log.info("encoding %s, of %d shards", shard.name, len(shards))
            if (rows := opened(shard)) is not None:
                _write(shard.name, rows, target.path, preparer, encode)
    accelerator.wait_for_everyone()
    if not (there := [shard for shard in found if shard.path.exists()]):
        raise TrainingError(f"data: none of {len(found)} shards can be read")
    return list(there)


def broken_in(shards: Sequence[Shard]) -> int:
    """Number of rows that were left out when shards were encoded."""
    found = 0
    for shard in shards:
        if isinstance(shard, EncodedShard):
            with safe_open(shard.path, "pt") as file:
                found += int(file.metadata()["broken"])
    return found


def _write(name: str, rows: Rows, path: Path, preparer: Preparer, encode: Encode) -> None:
    examples, waiting, broken = [], [], 0
    for index in range(len(rows)):
        try:
            waiting.append(preparer(rows[index]))
        except ModelError:  # a detector's: no picture is to blame
            raise
        except Exception as error:  # decoders raise whatever they like
            broken += 1
            log.warning("skipped: %s, row %d: %s", name, index, error)
        if len(waiting) == _TOGETHER or index == len(rows) - 1:
            examples += encode(waiting) if waiting else []
            waiting = []
    tensors = {
        name: torch.stack([_of(e, name) for e in examples])
        for name in TENSORS
        if examples and getattr(examples[0], name) is not None
    }
    said = [(e.caption, e.original, e.crop) for e in examples]
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, {"rows": json.dumps(said), "broken": str(broken)})
        os.replace(temporary, path)
    except Exception as error:  # safetensors has errors of its own for a full disk
        temporary.unlink(missing_ok=True)
        raise TrainingError(f"cache: {path.parent} cannot be written to: {error}") from error


def without_pictures(example: Example, latents: Tensor, embeds: Tensor | None) -> Example:
    """An example as the cache holds it: tensors in half precision, on the CPU."""
    return replace(
        example,
        pixels=None,
        clip_pixels=None,
        latents=latents.half().cpu(),
        embeds=None if embeds is None else embeds.half().cpu(),
    )


def _of(example: Example, name: str) -> Tensor:
    return getattr(example, name).contiguous()


def _short(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]
