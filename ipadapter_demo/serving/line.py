"""The queue of visitors, who draw in the order in which they came, and know about how long they
will wait."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from statistics import mean
from threading import Condition

from ipadapter_demo.errors import RequestError

REMEMBERED = 8  # finished turns, whose mean length is what the next ones are expected to take


class Line:
    """First come, first served. At most `most` may stand in it, those at work included, who are as
    many as `at_once` from the first on, as far as they want the same model."""

    def __init__(
        self, most: int = 32, at_once: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.most, self.at_once, self.clock = most, at_once, clock
        self.changed = Condition()
        self.turns: list[Turn] = []
        self.lengths: deque[float] = deque(maxlen=REMEMBERED)  # in seconds

    @contextmanager
    def turn(self, model: str = "") -> Iterator[Turn]:
        """A place at the end of the line, left with the block. Raises RequestError where the line
        is full."""
        turn = Turn(self, model)
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
                if turn.share >= 1.0 and turn.began is not None:
                    self.lengths.append(self.clock() - turn.began)
                self.turns.remove(turn)
                self._begin()
                self.changed.notify_all()

    def at_work(self) -> list[Turn]:
        first = self.turns[:1]
        alike = takewhile(lambda turn: turn.model == first[0].model, self.turns[: self.at_once])
        return list(alike)

    def _begin(self) -> None:
        for turn in self.at_work():
            if turn.began is None:
                turn.began = self.clock()


class Turn:
    """A place in the line for somebody who wants a model. It may be used from any thread."""

    def __init__(self, line: Line, model: str) -> None:
        self._line, self.model = line, model
        self.began: float | None = None  # by the line's clock
        self.share = 0.0  # of the work that is done; whoever works says so

    @property
    def ahead(self) -> int:
        """Number of turns that must end before this one begins; 0 when it is at work."""
        with self._line.changed:
            place = self._line.turns.index(self)
            if self.began is not None:
                return 0
            return place + 1 - len(self._line.at_work())

    @property
    def expected(self) -> float | None:
        """Seconds until it is this one's turn; None where nothing is known yet."""
        line = self._line
        with line.changed:
            if self.ahead == 0:
                return 0.0
            usual = mean(line.lengths) if line.lengths else None
            working, now = line.at_work(), line.clock()
            lengths = [length for turn in working if (length := turn._length(now, usual))]
            if not lengths:
                return None
            typical = mean(lengths) if usual is None else usual
            ends = [
                max(0.0, (turn._length(now, usual) or typical) - turn._passed(now))
                for turn in working
            ]
            heapq.heapify(ends)
            start, since, model = 0.0, 0.0, working[0].model
            for turn in line.turns[len(working) : line.turns.index(self) + 1]:
                if turn.model != model:  # it is loaded once all of those have ended
                    since, model, ends = max(ends), turn.model, []
                start = heapq.heappop(ends) if len(ends) == line.at_once else since
                heapq.heappush(ends, start + typical)
            return start

    def _passed(self, now: float) -> float:
        assert self.began is not None
        return now - self.began

    def _length(self, now: float, usual: float | None) -> float | None:
        """Seconds that it takes in all, as far as that is known while it is at work."""
        return self._passed(now) / self.share if self.share > 0 else usual

    def wait(self, seconds: float | None = None) -> None:
        """Until somebody leaves the line, or as long as that takes less than `seconds`."""
        with self._line.changed:
            if self.ahead:
                self._line.changed.wait(seconds)
