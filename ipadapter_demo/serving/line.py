"""The queue of visitors: who may work with the model that is loaded, and how long the others wait.

Those who want the same model are at work together, and whose picture is drawn first is the
engine's business. The order is known here too, to say it: who asks for less comes first.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import mean
from threading import Condition

from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline.price import rank_of

REMEMBERED = 8  # finished turns, whose mean pace is that of the next ones


class Line:
    """At most `most` may stand in it, those at work included. Who wants the model of the first is
    at work; who wants another waits until all of those have ended, and who comes then, too. Of
    those at work `at_once` share calls of the model."""

    def __init__(
        self, most: int = 32, at_once: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.most, self.at_once, self.clock = most, at_once, clock
        self.changed = Condition()
        self.turns: list[Turn] = []
        self.paces: deque[float] = deque(maxlen=REMEMBERED)  # seconds for a call of the price

    @contextmanager
    def turn(self, model: str = "", cost: float = 1.0) -> Iterator[Turn]:
        """A place in the line, left with the block. Raises RequestError where the line is full."""
        turn = Turn(self, model, cost)
        with self.changed:
            if len(self.turns) >= self.most:
                raise RequestError(
                    f"{len(self.turns)} visitors are in line, which is the limit: "
                    "try again in a minute"
                )
            self.turns.append(turn)
            self._begin()
        try:
            yield turn
        finally:
            with self.changed:
                if turn.share >= 1.0 and turn.seconds > 0:
                    self.paces.append(turn.seconds / turn.cost)
                self.turns.remove(turn)
                self._begin()
                self.changed.notify_all()

    def at_work(self) -> list[Turn]:
        """Those of one model, in the order in which they are drawn."""
        return sorted((turn for turn in self.turns if turn.begun), key=lambda t: rank_of(t.cost))

    def _begin(self) -> None:
        """Let all begin who may. While a first is at work who came before all of another model,
        those who come later cost the other nothing."""
        if not self.turns:
            return
        working = self.at_work()
        model = working[0].model if working else self.turns[0].model
        if self.turns[0].model == model:
            for turn in self.turns:
                turn.begun |= turn.model == model


class Turn:
    """A place in the line for somebody who wants a model. It may be used from any thread.

    Whoever works says how far: `share` of the work is done, in so many `seconds` of drawing. `cost`
    is what the request costs.
    """

    def __init__(self, line: Line, model: str, cost: float) -> None:
        self._line, self.model, self.cost = line, model, cost
        self.begun = False  # at work, or waiting for it in the engine
        self.share, self.seconds = 0.0, 0.0

    @property
    def ahead(self) -> int:
        """Number of requests that come before this one; 0 when it is drawn."""
        with self._line.changed:
            before = self._before()
            return max(0, len(before) + 1 - self._line.at_once) if self.begun else len(before)

    @property
    def expected(self) -> float | None:
        """Seconds until it is drawn; None where nothing is known yet."""
        with self._line.changed:
            before = self._before()
            lengths = [turn.left for turn in before]
            known = [length for length in lengths if length is not None]
            if len(known) < len(lengths):
                return None
            return _start(known, self._line.at_once, wait_for_all=not self.begun)

    def _before(self) -> Sequence[Turn]:
        line = self._line
        working = line.at_work()
        if self.begun:
            return working[: working.index(self)]
        place = line.turns.index(self)
        return working + [turn for turn in line.turns[:place] if not turn.begun]

    @property
    def left(self) -> float | None:
        """Seconds of drawing that are still to come; None where nothing is known yet."""
        if self.share > 0 and self.seconds > 0:
            return self.seconds * (1 / self.share - 1)
        with self._line.changed:
            pace = self._line.paces or [
                turn.seconds / (turn.share * turn.cost)
                for turn in self._line.turns
                if turn.share > 0 and turn.seconds > 0
            ]
        return max(0.0, mean(pace) * self.cost - self.seconds) if pace else None

    def wait(self, seconds: float | None = None) -> None:
        """Until somebody leaves the line, or as long as that takes less than `seconds`."""
        with self._line.changed:
            if not self.begun:
                self._line.changed.wait(seconds)


def _start(lengths: Sequence[float], at_once: int, wait_for_all: bool) -> float:
    """When one begins who comes after others, of whom as many are drawn at once."""
    ends: list[float] = []
    for length in lengths:
        begins = heapq.heappop(ends) if len(ends) == at_once else 0.0
        heapq.heappush(ends, begins + length)
    if wait_for_all:
        return max(ends, default=0.0)
    return ends[0] if len(ends) == at_once else 0.0
