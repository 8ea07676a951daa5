"""A line in the log for every request that was drawn, refused, stopped or failed: how much and how
long, and never what was asked for."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import wraps
from typing import Any, ParamSpec

from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline.events import Preview, Result
from ipadapter_demo.pipeline.jobs import Unloaded

P = ParamSpec("P")

log = logging.getLogger(__name__)


def logged(
    draw: Callable[P, Generator[Any, None, None]],
) -> Callable[P, Generator[Any, None, None]]:
    """The same method of a pipeline. Its events are Previews, Results, and errors in the place of
    one."""

    @wraps(draw)
    def with_log(*given: P.args, **named: P.kwargs) -> Generator[Any, None, None]:
        request = _Request(_model_of(*given))
        try:
            with closing(draw(*given, **named)) as events:
                for event in events:
                    request.saw(event)
                    yield event
        except GeneratorExit:
            request.ended("stopped")
            raise
        except Unloaded:  # it is begun again
            raise
        except Exception as error:
            request.saw(error)
            raise

    return with_log


def _model_of(pipeline: Any, *_: object) -> str:  # noqa: ANN401 - a method of any pipeline
    return pipeline.info.name


class _Request:
    """One after the other, where there are several: each has an id of its own."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._begin()

    def _begin(self) -> None:
        self._id, self._began = secrets.token_hex(8), time.monotonic()
        self._steps, self._stepped = 0, self._began
        self._there = True

    def saw(self, event: Preview | Result | Exception) -> None:
        if not self._there:
            self._begin()
        if isinstance(event, Preview):
            if event.step == self._steps:  # said once more
                return
            self._steps, self._stepped = event.step, time.monotonic()
        elif isinstance(event, Result):
            self.ended("drawn", pictures=len(event.images))
        else:  # the log of its traceback tells whose it is
            if log.isEnabledFor(logging.INFO):
                event.add_note(f"request {self._id}")
            outcome = "refused" if isinstance(event, RequestError) else "failed"
            self.ended(outcome, error=type(event).__name__)

    def ended(self, outcome: str, **more: object) -> None:
        """Unless it has ended before."""
        if not self._there:
            return
        self._there = False
        facts: dict[str, object] = {"request": self._id, "model": self._model, "outcome": outcome}
        facts["seconds"] = round(time.monotonic() - self._began, 3)
        if self._steps:
            pace = (self._stepped - self._began) / self._steps
            facts |= {"steps": self._steps, "step_seconds": round(pace, 4)}
        log.info("request ended", extra={"facts": facts | more})
