"""Rows in a shuffled order that depends on the seed alone: not on how many read it, nor on where a
run was interrupted.

The global batch of a step has slots, and the shards are dealt to streams that feed them: stream l
of L feeds the l-th L-th of the slots, and has about the L-th of the bytes. Processes own slots,
their workers own streams; so each opens only shards that it needs, and two processes see the very
samples that one would have seen. In each round through its shards a stream opens them in a new
order and reads the rows of each in a new order.

A broken row is counted, and the next readable one of its shard stands in for it, so the position of
every other row stays what it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ipadapter_demo.errors import ModelError, TrainingError
from ipadapter_demo.training.data.examples import Example
from ipadapter_demo.training.data.types import Pair, Rows, Shard

log = logging.getLogger(__name__)

Position = tuple[int, int, int]  # of a stream: round, shard, row; each the next to be read
_LOGGED = 10  # broken rows that are named, for each worker
_ALIKE = 0.8  # of the largest stream, at least: where one has less, its rows come more often


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The slots of a global batch, and which of them are this process's."""

    total: int
    first: int
    count: int

    @classmethod
    def of(cls, batch: int, process: int = 0, processes: int = 1) -> ShardPlan:
        """`batch` slots for each process."""
        return cls(batch * processes, batch * process, batch)

    def streams(self, sizes: Sequence[int | None]) -> int:
        """As many streams as there are shards for, each with as many slots as any other, and about
        as much to read. `sizes` are the shards' as they are dealt; one that is not known counts as
        the mean."""
        known = [size for size in sizes if size is not None]
        mean = sum(known) / len(known) if known else 1
        each = [mean if size is None else size for size in sizes]

        def alike(count: int) -> bool:
            totals = [sum(each[stream::count]) for stream in range(count)]
            return min(totals) >= _ALIKE * max(totals)

        return next(
            n for n in range(min(self.total, len(each)), 0, -1) if self.total % n == 0 and alike(n)
        )


@dataclass(frozen=True, slots=True)
class Drawn:
    """The rows that one worker read for a step: (slot, row as `prepare` made it), in order."""

    rows: list[tuple[int, Example]]
    positions: dict[int, Position]  # of the worker's streams, after this step
    broken: int


class Stream:
    """An endless iterator over this process's rows of each step: [(slot, row), ...].

    `prepare(row)` runs in the workers. `positions` says where every stream of this process is after
    the last step that was taken; passed as `start`, the stream goes on there."""

    def __init__(
        self,
        shards: Sequence[Shard],
        plan: ShardPlan,
        seed: int,
        prepare: Callable[[Pair | Example], Example],
        workers: int = 0,
        start: dict[int, Position] | None = None,
    ) -> None:
        shards = [shards[i] for i in _permuted(len(shards), seed)]
        streams = plan.streams([shard.size for shard in shards])
        per_stream = plan.total // streams
        first, last = plan.first // per_stream, (plan.first + plan.count - 1) // per_stream
        mine = list(range(first, last + 1))
        self._readers = max(1, min(workers, len(mine)))
        source = _ShardStreams(shards, plan, streams, mine, seed, prepare, start or {})
        # batches are made here, so a loader only carries them; ten minutes of a stalled download
        # are somebody's to know of
        self._parts = iter(
            DataLoader(
                source,
                batch_size=None,
                num_workers=self._readers if workers else 0,
                prefetch_factor=2 if workers else None,
                timeout=600 if workers else 0,
            )
        )
        self.positions: dict[int, Position] = dict(start or {})
        self.broken = 0

    def __iter__(self) -> Iterator[list[tuple[int, Example]]]:
        return self

    def __next__(self) -> list[tuple[int, Example]]:
        # a loader asks its workers in turn: one part of each makes a step
        try:
            parts: list[Drawn] = [next(self._parts) for _ in range(self._readers)]
        except TrainingError as error:  # a worker's comes with its traceback, and says it last
            said = str(error).strip().splitlines()[-1]
            raise TrainingError(said.rpartition("TrainingError: ")[2]) from error
        except RuntimeError as error:  # a loader's own: a worker that died, or is stuck
            raise TrainingError(f"data: a reading process failed: {error}") from error
        for part in parts:
            self.positions |= part.positions
            self.broken += part.broken
        return sorted((row for part in parts for row in part.rows), key=lambda row: row[0])


class _ShardStreams(IterableDataset):
    """The work of one worker: all its streams, step by step."""

    def __init__(
        self,
        shards: Sequence[Shard],
        plan: ShardPlan,
        streams: int,
        mine: list[int],
        seed: int,
        prepare: Callable[[Pair | Example], Example],
        start: dict[int, Position],
    ) -> None:
        self.shards, self.plan, self.streams, self.mine = shards, plan, streams, mine
        self.seed, self.prepare, self.start = seed, prepare, start

    def __iter__(self) -> Iterator[Drawn]:
        worker = get_worker_info()
        if worker is None:
            readers, mine = 1, self.mine
        else:
            torch.set_num_threads(1)
            readers = worker.num_workers
            mine = self.mine[worker.id :: readers]
        walks = {stream: _ShardStream(self, stream) for stream in mine}
        per_stream = self.plan.total // self.streams
        wanted = range(self.plan.first, self.plan.first + self.plan.count)
        while True:
            rows: list[tuple[int, Example]] = []
            broken = 0
            for stream, walk in walks.items():
                for slot in range(stream * per_stream, (stream + 1) * per_stream):
                    row, failed = walk.next_row(slot in wanted)
                    broken += failed
                    if row is not None:  # else of another process: passed over, not decoded
                        rows.append((slot, row))
            yield Drawn(rows, {stream: walk.position for stream, walk in walks.items()}, broken)


class _ShardStream:
    """One stream's walk through its shards."""

    def __init__(self, source: _ShardStreams, stream: int) -> None:
        self.source, self.stream = source, stream
        self.shards = source.shards[stream :: source.streams]
        self.position = source.start.get(stream, (0, 0, 0))
        self.rows: Rows | None = None
        self.readable = True  # whether the open shard has a single row that is
        self.last: Example | None = None  # stands in where it has none
        self.named = self.unopened = 0

    def next_row(self, wanted: bool) -> tuple[Example | None, int]:
        """The next row, prepared, and how many broken ones were met, a shard that cannot be opened
        counting as one. Moves on by one position."""
        rows, order = self._open()
        round_, shard, row = self.position
        self.position = (round_, shard, row + 1)
        if not wanted:
            return None, 0
        found, failed = self._readable(rows, order, row)
        failed, self.unopened = failed + self.unopened, 0
        return found, failed

    def _open(self) -> tuple[Rows, list[int]]:
        """The shard of this position, or the next that has rows left."""
        fruitless = 0
        while True:
            round_, shard, row = self.position
            if shard >= len(self.shards):
                self.position = (round_ + 1, 0, 0)
                continue
            if self.rows is None:
                self._read_shard(round_, shard)
            assert self.rows is not None
            if row < len(self.rows):
                return self.rows, self.order
            fruitless = fruitless + 1 if len(self.rows) == 0 else 0
            if fruitless > len(self.shards) == len(self.source.shards):
                raise TrainingError(
                    f"data: none of {len(self.shards)} shards can be read, "
                    f"{self.shards[0].name} among them"
                )
            if fruitless > len(self.shards):  # those of all streams stand in for its own
                self.shards, fruitless = self.source.shards, 0
            self.rows, self.position = None, (round_, shard + 1, 0)

    def _read_shard(self, round_: int, number: int) -> None:
        order = _permuted(len(self.shards), self.source.seed, self.stream, round_)
        shard = self.shards[order[number]]
        self.opened = shard.name
        try:
            self.rows = shard.open()
        except Exception as error:  # those of every library behind a shard
            self._name(f"{shard.name}: {error}")
            self.rows, self.unopened = [], self.unopened + 1
        self.order = _permuted(len(self.rows), self.source.seed, self.stream, round_, number)
        self.readable = True

    def _readable(self, rows: Rows, order: list[int], row: int) -> tuple[Example, int]:
        """Row `row`, or the first after it, going round, that can be read; in a shard without one
        the last that the stream has read."""
        for failed in range(len(order) if self.readable else 0):
            index = order[(row + failed) % len(order)]
            try:
                self.last = self.source.prepare(rows[index])
                return self.last, failed
            except ModelError as error:  # a detector's: no picture is to blame
                raise TrainingError(str(error)) from error
            except Exception as error:  # decoders raise whatever they like
                self._name(f"{self.opened}, row {index}: {error}")
        if self.last is None:
            self.last = self._first_of_all()
        failed, self.readable = len(order) if self.readable else 1, False
        return self.last, failed

    def _first_of_all(self) -> Example:
        """The first row of all shards that can be read: the stream has read none of its own."""
        for shard in self.source.shards:
            with suppress(Exception):  # was named, or will be
                rows = shard.open()
                for index in range(len(rows)):
                    with suppress(Exception):
                        return self.source.prepare(rows[index])
        raise TrainingError(f"data: no row of {len(self.source.shards)} shards can be read")

    def _name(self, text: str) -> None:
        self.named += 1
        if self.named <= _LOGGED:
            log.warning("skipped: %s", text)


def _permuted(count: int, *seed: int) -> list[int]:
    key = 0
    for part in seed:
        key = (key * 1_000_003 + part + 1) % 2**63
    return torch.randperm(count, generator=torch.Generator().manual_seed(key)).tolist()
