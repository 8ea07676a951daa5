"""The queue of visitors, who draw one after the other, and know about how long they will wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import mean
from threading import Condition

from ipadapter_demo.errors import RequestError

REMEMBERED = 8  # finished turns, whose mean length is what the next ones are expected to take


class Line:
    """First come, first served. At most `most` may stand in it, the one at work included."""

    def __init__(self, most: int = 32, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.clock = most, clock
        self.changed = Condition()
        self.turns: list[Turn] = []
        self.lengths: deque[float] = deque(maxlen=REMEMBERED)  # in seconds

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """A place at the end of the line, left with the block. Raises RequestError where the line
        is full."""
        turn = Turn(self)
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

    def _begin(self) -> None:
        if self.turns and self.turns[0].began is None:
            self.turns[0].began = self.clock()


class Turn:
    """A place in the line. It may be used from any thread."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.began: float | None = None  # by the line's clock
        self.share = 0.0  # of the work that is done; whoever works says so

    @property
    def ahead(self) -> int:
        """Number of turns that come first, the one at work included; 0 when this one is."""
        with self._line.changed:
            return self._line.turns.index(self)

    @property
    def expected(self) -> float | None:
        """Seconds until it is this one's turn; None where nothing is known yet."""
        line = self._line
        with line.changed:
            ahead, now = self.ahead, line.clock()
            if ahead == 0:
                return 0.0
            usual, first = mean(line.lengths) if line.lengths else None, line.turns[0]
            assert first.began is not None
            passed = now - first.began
            whole = passed / first.share if first.share > 0 else usual
            if whole is None:
                return None
            return max(0.0, whole - passed) + (ahead - 1) * (whole if usual is None else usual)

    def wait(self, seconds: float | None = None) -> None:
        """Until somebody leaves the line, or as long as that takes less than `seconds`."""
        with self._line.changed:
            if self.ahead:
                self._line.changed.wait(seconds)
