"""One model at a time, for whoever asks: the previous one is unloaded."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from threading import Lock

import torch

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.sources import Report, no_report
from ipadapter_demo.pipeline.events import ModelInfo, Preview, Result
from ipadapter_demo.pipeline.jobs import Unloaded
from ipadapter_demo.pipeline.pipeline import ImagePromptPipeline
from ipadapter_demo.pipeline.previews import Previews
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving.limits import Limits
from ipadapter_demo.serving.line import Line, Turn
from ipadapter_demo.serving.visitors import Visitor, Visitors

# (name, report) -> fetches what is missing, and returns what loads it
Prepare = Callable[[str, Report], Callable[[], ImagePromptPipeline]]
Offers = Callable[[], Mapping[str, str]]


class ModelManager:
    """Stands for the current model's pipeline wherever a page looks at one.

    A page says with every request which model it shows, so visitors with different models get
    their own, one after the other; those with the same one are at work together. A comparison
    draws in the background, and gives its model up for a visitor who wants another.
    """

    def __init__(
        self,
        pipeline: ImagePromptPipeline,
        prepare: Prepare | None = None,
        models: Mapping[str, str] | Offers | None = None,
        most: int = 32,
        limits: Limits | None = None,
    ) -> None:
        """`models` are the names that `prepare` knows, and what to call them, or a function for
        those of just now. Without `prepare` there is the one model and no choice. At most `most`
        visitors stand in line."""
        self._pipeline: ImagePromptPipeline | None = pipeline  # None while the model changes
        self._info, self._prepare = pipeline.info, prepare
        self._own = {pipeline.info.name: pipeline.info.name}
        self._offers = models if callable(models) else lambda: models or {}
        self._known: dict[str, tuple[ModelInfo, Previews]] = {}
        self._remember(pipeline)
        self.line, self.limits = Line(most, pipeline.share_steps), limits or Limits()
        self._visitors = Visitors(self.limits.visitor_requests)
        self._comparisons = Visitors(None, most)
        self._changed = self.line.changed  # of the line, the model, and who draws with it
        self._loading = Lock()
        self._comparing = 0  # who draws in the background just now

    @property
    def models(self) -> dict[str, str]:
        """The names on offer just now, and what to call them."""
        return self._own | dict(self._offers() if self._prepare is not None else {})

    @property
    def info(self) -> ModelInfo:
        return self._info

    def lines(self) -> list[Line]:
        """Every queue of visitors."""
        return [self.line]

    @property
    def pipeline(self) -> ImagePromptPipeline:
        with self._changed:  # while another is being read, wait for it
            self._changed.wait_for(lambda: self._pipeline is not None)
            assert self._pipeline is not None
            return self._pipeline

    def info_of(self, name: object) -> ModelInfo | None:
        """Of the current model or one before; None for one that was never loaded, or no name."""
        known = self._known.get(name) if isinstance(name, str) else None
        return known and known[0]

    def info_beside(self, name: object) -> ModelInfo:
        """The same, and of the current model in the place of one that was never loaded."""
        return self.info_of(name) or self.info

    def previews(self, name: str) -> Previews | None:
        """Encoder views and maps as a model makes them, whichever is loaded; None for one that
        never was."""
        self._check(name)
        known = self._known.get(name)
        return known and known[1]

    def with_model(self, name: str, report: Report = no_report) -> ImagePromptPipeline:
        """The pipeline of a model, loaded unless it is the current one, while nobody draws.

        Raises RequestError for a name that is not offered, and whatever loading raises: then the
        current model is the one before.
        """
        self._check(name)

        def nobody_draws() -> bool:
            return not (self.line.turns or self._comparing)

        while True:
            with self._changed:
                self._changed.wait_for(lambda: name == self._info.name or nobody_draws())
                if name == self._info.name and self._pipeline is not None:
                    return self._pipeline
            self._load(name, report, nobody_draws)

    def cost(self, name: str, requests: Sequence[GenerateRequest], preview_every: int = 0) -> float:
        """Of some pictures that are asked for at once, in calls of the model. Of one that was never
        loaded nothing is known, and 1 is taken. Raises RequestError for too much."""
        self._check(name)
        known = self._known.get(name)
        if known is None:
            return 1.0
        info, previews = known
        prices = [previews.price(request, preview_every) for request in requests]
        return self.limits.cost(prices, info.native_size)

    @contextmanager
    def turn(self, name: str, visitor: Visitor | None = None, cost: float = 1.0) -> Iterator[Turn]:
        """A place in line for somebody who wants a single picture of a model. Raises RequestError
        for a name that is not offered, a full line, or one in which the visitor has too many
        places."""
        self._check(name)
        with self._visitors.place(visitor), self.line.turn(name, cost) as turn:
            yield turn

    @contextmanager
    def comparison(self, visitor: Visitor | None) -> Iterator[None]:
        """A place for one, of which each visitor has as few. Raises RequestError."""
        with self._visitors.place(visitor), self._comparisons.place(visitor):
            yield

    def at_turn(self, turn: Turn, report: Report = no_report) -> ImagePromptPipeline:
        """The pipeline of a turn's model, loaded unless it is the current one. Only who is at work
        may ask, and use it as long as the turn lasts. Raises whatever loading raises."""
        assert turn.begun
        if not self.is_loaded(turn.model):  # nobody takes it away from a turn
            self._load(turn.model, report, lambda: True)
        return self.pipeline

    @contextmanager
    def acquire(self, name: str, report: Report = no_report) -> Iterator[ImagePromptPipeline]:
        """A whole turn, waited for."""
        with self.turn(name) as turn:
            while not turn.begun:
                turn.wait()
            yield self.at_turn(turn, report)

    def draw_in_background(
        self, name: str, requests: Sequence[GenerateRequest]
    ) -> list[Result | Exception]:
        """Some cells of a comparison: of each its Result, or the error that kept it from one.

        They are drawn between what visitors with the same model ask for. For one with another, who
        needs the memory, they stop and begin again. Raises what `with_model` does.
        """
        work = self.background(name, requests)
        while True:
            try:
                next(work)
            except StopIteration as end:
                return end.value

    def background(
        self, name: str, requests: Sequence[GenerateRequest], look_again: float | None = None
    ) -> Generator[None, None, list[Result | Exception]]:
        """The same, to be left: it yields after every step, and every `look_again` seconds. Closed,
        it ends before the next step."""
        self._check(name)
        while True:
            yield from self._free_for(name, look_again)
            try:
                outcomes = yield from self._attempt(requests, look_again)
            finally:
                with self._changed:
                    self._comparing -= 1
                    self._changed.notify_all()
            if outcomes is not None:
                return outcomes

    def _free_for(self, name: str, look_again: float | None) -> Generator[None, None, None]:
        """Until a model is loaded that nobody takes away before the end. Whoever draws so does not
        refer to the pipeline any more then: a model goes only when nobody does."""
        while True:
            with self._changed:
                free = self._changed.wait_for(lambda: self._is_free_for(name), look_again)
                if free and self.is_loaded(name):
                    self._comparing += 1
                    return
            if free:
                self._load(name, no_report, lambda: self._is_free_for(name))
            yield

    def _is_free_for(self, name: str) -> bool:
        """True if a comparison may draw with a model, or load it."""
        wanted = all(turn.model == name for turn in self.line.turns)
        return wanted and (self.is_loaded(name) or not self._comparing)

    def is_loaded(self, name: str) -> bool:
        """True if a model is loaded just now."""
        with self._changed:
            return self._pipeline is not None and name == self._info.name

    def _attempt(
        self, requests: Sequence[GenerateRequest], look_again: float | None
    ) -> Generator[None, None, list[Result | Exception] | None]:
        """None where the model is going."""
        pipeline = self._pipeline
        if pipeline is None:
            return None
        try:
            limit = self.limits.time_limit
            found = yield from drawn_in_background(pipeline, requests, look_again, limit)
        except Unloaded:
            return None
        return found

    def _check(self, name: str) -> None:
        there = self.models
        if not isinstance(name, str) or name not in there:
            raise RequestError(f"model must be one of {', '.join(there)}, got {name!r:.80}")

    def _load(self, name: str, report: Report, may: Callable[[], bool]) -> None:
        """Unless it is the current one, or somebody came meanwhile so that it `may` not be."""
        with self._loading:
            if name != self._info.name:
                self._switch(name, report, may)

    def _remember(self, pipeline: ImagePromptPipeline) -> None:
        self._known[pipeline.info.name] = pipeline.info, pipeline.previews()

    def _switch(self, name: str, report: Report, may: Callable[[], bool]) -> None:
        """Two large models may not fit: the old one goes before the new one is read, though not
        before everything is at hand."""
        assert self._prepare is not None
        load, back = self._prepare(name, report), self._prepare(self._info.name, no_report)
        with self._changed:
            if not may():
                return
            old, self._pipeline = self._pipeline, None
        assert old is not None
        old.unload()
        del old  # nobody is to refer to it any more
        with self._changed:
            self._changed.wait_for(lambda: not self._comparing)
        free_memory()
        try:
            self._change_to(load())
        except BaseException:
            free_memory()
            self._change_to(back())
            raise

    def _change_to(self, pipeline: ImagePromptPipeline) -> None:
        with self._changed:
            self._remember(pipeline)
            self._pipeline, self._info = pipeline, pipeline.info
            self._changed.notify_all()


def drawn_in_background(
    pipeline: ImagePromptPipeline,
    requests: Sequence[GenerateRequest],
    look_again: float | None,
    most_seconds: float | None,
) -> Generator[None, None, list[Result | Exception]]:
    """The outcome of each request, after a yield for every Preview; an error for one that is drawn
    for more than `most_seconds`."""
    found: list[Result | Exception] = []
    work = pipeline.outcomes(
        requests, background=True, look_again=look_again, most_seconds=most_seconds
    )
    with closing(work) as events:
        for event in events:
            if isinstance(event, Preview):
                yield
            else:
                found.append(event)
    return found


def free_memory() -> None:
    """Hooks and modules refer to each other, so a model goes only when cycles are looked for."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps freed memory by default
        ctypes.CDLL("libc.so.6").malloc_trim(0)
