"""Comparisons that visitors look at and may go on with: all together they take a bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from threading import Lock
from weakref import WeakKeyDictionary

from PIL import Image

from ipadapter_demo.compare.grid import Grid
from ipadapter_demo.compare.job import Job
from ipadapter_demo.embeds import ImageEmbeds

# Bytes. One has at most 200 MB of files, and their pictures decoded; a usual one takes a few MB. So
# a few of the largest are kept, or hundreds, beside a model on a machine of 4 GB.
MOST = 2**30


class Kept:
    """Of those that take more than `most` bytes in all, the one whose work ended first is let go
    first; none is while it is at work. It keeps none alive that nobody else does."""

    def __init__(self, most: int = MOST) -> None:
        self._most, self._lock = most, Lock()
        self._sizes: WeakKeyDictionary[Job, int] = WeakKeyDictionary()  # in order of their ends
        self._working: Counter[Job] = Counter()

    @contextmanager
    def at_work(self, job: Job) -> Iterator[None]:
        with self._lock:
            self._sizes.pop(job, None)
            self._sizes[job] = size_of(job)
            self._working[job] += 1
            self._make_room()
        try:
            yield
        finally:
            with self._lock:
                self._working[job] -= 1
                self._working = +self._working
                self._sizes[job] = self._sizes.pop(job)
                self._make_room()

    def _make_room(self) -> None:
        for job in list(self._sizes):
            if sum(self._sizes.values()) <= self._most:
                return
            if job not in self._working:
                del self._sizes[job]
                job.let_go()


def size_of(job: Job) -> int:
    """Bytes of its files and of the pictures of its cells, decoded, each counted once."""
    return sum(map(len, job.plan.spec.files.values())) + pictures_size(job.plan.grid)


def pictures_size(grid: Grid) -> int:
    found: dict[int, int] = {}

    def add(part: object) -> None:
        if isinstance(part, Image.Image):
            found[id(part)] = part.width * part.height * len(part.getbands())
        elif isinstance(part, ImageEmbeds):
            found[id(part)] = len(part.content)
        elif isinstance(part, tuple):
            for one in part:
                add(one)
        elif is_dataclass(part):
            for field in fields(part):
                add(getattr(part, field.name))

    add(grid)
    return sum(found.values())
