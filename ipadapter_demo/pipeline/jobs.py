"""Work for the thread that runs a model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from torch import Tensor

from ipadapter_demo.errors import ModelError
from ipadapter_demo.pipeline.sampler import Call

Predict = Callable[[Sequence[Call[Any]]], Sequence[Tensor]]


class Unloaded(ModelError):
    """The model goes, and with it what was at work in the background: to be asked for again."""


@dataclass(frozen=True, slots=True)
class Fits:
    """From here on, the calls of a job fit those of jobs whose `fits` is this value."""

    value: Hashable


@dataclass(frozen=True, slots=True)
class End:
    error: BaseException | None


def _no_calls(calls: Sequence[Call[Any]]) -> Sequence[Tensor]:
    raise AssertionError("a job without model calls")


@dataclass(slots=True, eq=False)
class Job:
    """Work for the thread, in parts. `work` yields a Call where a model is to predict, None before
    a longer piece of work, Fits where its calls change, and anything else for whoever asked.

    Jobs of equal `fits` share calls, as many of them as the `share` of each allows. `rows` is the
    number of rows of a call; those with more join nobody's call but that of the same `owner`. Lower
    ranks come first. One that is drawn for more than `most_seconds` ends with a RequestError.
    """

    work: Generator[object, None, None]
    predict: Predict = _no_calls
    fits: Hashable = None
    rows: int = 0
    share: int = 1
    background: bool = False
    rank: int = 0
    owner: object = None
    most_seconds: float | None = None
    events: SimpleQueue[object] = field(default_factory=SimpleQueue, init=False)
    # seconds that it was worked at, and when the present work on it began; other threads read both
    worked: tuple[float, float | None] = field(default=(0.0, None), init=False)
    call: Call[Any] | None = field(default=None, init=False)  # that it waits for
    advanced: float | None = field(default=None, init=False)  # when it last was
    left: bool = field(default=False, init=False)  # it is done, or nobody waits for it any more
