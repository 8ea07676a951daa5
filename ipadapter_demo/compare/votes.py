"""A blind vote between two columns of a grid: which picture is better, without knowing whose."""

from __future__ import annotations

import csv
import io
import random
from dataclasses import dataclass, replace
from typing import Literal

from ipadapter_demo.compare.grid import Cell
from ipadapter_demo.compare.job import Job
from ipadapter_demo.compare.text import csv_cell
from ipadapter_demo.errors import RequestError

Answer = Literal["left", "right", "neither"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two cells of one row, in the order in which they are shown."""

    left: Cell
    right: Cell


@dataclass(frozen=True, slots=True)
class Ballot:
    """Pairs in a shuffled order, and the answers given so far."""

    pairs: tuple[Pair, ...]
    answers: tuple[Answer, ...] = ()

    @property
    def next(self) -> Pair | None:
        return self.pairs[len(self.answers)] if len(self.answers) < len(self.pairs) else None

    def answered(self, answer: Answer) -> Ballot:
        return replace(self, answers=(*self.answers, answer)) if self.next else self


def ballot(job: Job, one: int, other: int, seed: int) -> Ballot:
    """Columns `one` against `other`, from 1 among those that are drawn, in every row in which both
    are. Sides and order are shuffled by `seed`."""
    if one == other:
        raise RequestError(f"the two columns to vote between must differ, got {one} twice")
    there = {(c.page, c.row, c.column): c for c in job.finished()}
    shuffle = random.Random(seed)
    pairs = []
    for page, row in dict.fromkeys((c.page, c.row) for c in there.values()):
        if (page, row, one) in there and (page, row, other) in there:
            sides = [there[page, row, one], there[page, row, other]]
            shuffle.shuffle(sides)
            pairs.append(Pair(*sides))
    if not pairs:
        raise RequestError("no row has a finished picture in both columns yet")
    shuffle.shuffle(pairs)
    return Ballot(tuple(pairs))


@dataclass(frozen=True, slots=True)
class Share:
    """A column's share of the votes that were decided."""

    head: str
    votes: int
    decided: int

    @property
    def value(self) -> float:
        return self.votes / self.decided if self.decided else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """With 95 % confidence, by Wilson's score: few votes, or all of them alike, do not make it
        narrow."""
        from scipy.stats import binomtest  # takes a second to import

        if not self.decided:
            return 0.0, 1.0
        found = binomtest(self.votes, self.decided).proportion_ci(method="wilson")
        return float(found.low), float(found.high)


def shares(job: Job, found: Ballot) -> list[Share]:
    """Of both columns, in the order of the grid. "neither" counts for none."""
    chosen = [
        {"left": pair.left, "right": pair.right}[answer].column
        for pair, answer in zip(found.pairs, found.answers, strict=False)
        if answer != "neither"
    ]
    both = sorted((found.pairs[0].left, found.pairs[0].right), key=lambda cell: cell.column)
    return [Share(_head(job, one), chosen.count(one.column), len(chosen)) for one in both]


def votes_csv(job: Job, found: Ballot) -> str:
    """A line for every answer, in the order in which they were given."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["page", "row", "left", "right", "left cell", "right cell", "answer"])
    for pair, answer in zip(found.pairs, found.answers, strict=False):
        page, row, _ = job.plan.grid.heads(pair.left)
        left, right = _head(job, pair.left), _head(job, pair.right)
        table.writerow(
            [*map(csv_cell, (page, row, left, right)), pair.left.name, pair.right.name, answer]
        )
    return text.getvalue()


def _head(job: Job, cell: Cell) -> str:
    return job.plan.grid.heads(cell)[2]
