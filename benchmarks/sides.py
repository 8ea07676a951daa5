"""The sides of `python -m benchmarks`, each in a process of its own, as in use: in one process the
threads of one, even asleep, would slow the other (see ipadapter_demo/own_thread.py)."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context
from typing import Any

from benchmarks.clock import seconds
from benchmarks.contestants import Diffusers, Draw, Ours

SIDES: dict[str, Callable[[], Ours | Diffusers]] = {
    "ours": lambda: Ours.loaded(False),
    "ours_compiled": lambda: Ours.loaded(True),
    "diffusers": lambda: Diffusers.loaded(False),
    "diffusers_compiled": lambda: Diffusers.loaded(True),
}
Timed = Callable[[], float]  # draws, and returns the seconds that it took
_number = count()


class Side:
    """One of SIDES, which its process loads with the first call."""

    def __init__(self, name: str) -> None:
        self._process = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_load, initargs=(name,)
        )

    def call(self, method: str, *arguments: Any) -> Any:
        """What a method of the side returns."""
        return self._process.submit(_call, method, arguments).result()

    def drawing(self, method: str, *arguments: Any, **changes: Any) -> Timed:
        """What the Draw takes that a method of the side returns."""
        number = next(_number)
        self._process.submit(_prepare, number, method, arguments, changes).result()
        return lambda: self._process.submit(_draw, number).result()

    def close(self) -> None:
        self._process.shutdown()


_side: Ours | Diffusers
_draws: dict[int, Draw] = {}


def _load(name: str) -> None:
    global _side
    warnings.filterwarnings("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        _side = SIDES[name]()


def _call(method: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_side, method)(*arguments)


def _prepare(number: int, method: str, arguments: tuple[Any, ...], changes: dict[str, Any]) -> None:
    _draws[number] = getattr(_side, method)(*arguments, **changes)


def _draw(number: int) -> float:
    return seconds(_draws[number])
