"""Models that are all there at once, each with replicas of its own, for whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock

from ipadapter_demo.models.sources import Report, no_report
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.pipeline.events import Result
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving.limits import Limits
from ipadapter_demo.serving.line import Line, Turn
from ipadapter_demo.serving.manager import ModelManager, Offers, drawn_in_background
from ipadapter_demo.serving.remote import RemotePipeline
from ipadapter_demo.serving.visitors import Visitor


class ReplicaManager(ModelManager):
    """A model that was loaded stays, so each has a line of its own: who wants one never waits for
    somebody with another."""

    def __init__(
        self,
        pipeline: RemotePipeline,
        prepare: Callable[[str, Report], Callable[[], RemotePipeline]],
        models: Mapping[str, str] | Offers,
        most: int = 32,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(pipeline, prepare, models, most, limits)
        self._pipelines: dict[str, ImagePromptPipeline] = {pipeline.info.name: pipeline}
        self._lines = {pipeline.info.name: self.line}
        self._starting: dict[str, Lock] = {}  # of each model, so that none waits for another's

    def lines(self) -> list[Line]:
        return list(self._lines.values())

    def with_model(self, name: str, report: Report = no_report) -> ImagePromptPipeline:
        self._check(name)
        if not self.is_loaded(name):
            self._load(name, report, lambda: True)
        return self._pipelines[name]

    @contextmanager
    def turn(self, name: str, visitor: Visitor | None = None, cost: float = 1.0) -> Iterator[Turn]:
        self._check(name)
        new = Line(self.line.most, self.line.at_once)
        line = self._lines.setdefault(name, new)
        with self._visitors.place(visitor), line.turn(name, cost) as turn:
            yield turn

    def at_turn(self, turn: Turn, report: Report = no_report) -> ImagePromptPipeline:
        assert turn.begun
        return self.with_model(turn.model, report)

    def background(
        self, name: str, requests: Sequence[GenerateRequest], look_again: float | None = None
    ) -> Generator[None, None, list[Result | Exception]]:
        limit = self.limits.time_limit
        found = yield from drawn_in_background(self.with_model(name), requests, look_again, limit)
        return found

    def is_loaded(self, name: str) -> bool:
        return name in self._pipelines

    def _load(self, name: str, report: Report, may: Callable[[], bool]) -> None:
        assert self._prepare is not None
        with self._changed:
            loading = self._starting.setdefault(name, Lock())
        with loading:
            if not self.is_loaded(name):
                pipeline = self._prepare(name, report)()
                self._remember(pipeline)
                self._pipelines[name] = pipeline
