"""One model at a time, for whoever asks: the previous one is unloaded."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock

import torch

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.sources import Report, no_report
from ipadapter_demo.pipeline.engine import Unloaded
from ipadapter_demo.pipeline.events import ModelInfo, Result
from ipadapter_demo.pipeline.pipeline import ImagePromptPipeline
from ipadapter_demo.pipeline.previews import Previews
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving.line import Line, Turn

# (name, report) -> fetches what is missing, and returns what loads it
Prepare = Callable[[str, Report], Callable[[], ImagePromptPipeline]]


class ModelManager:
    """Stands for the current model's pipeline wherever a page looks at one.

    A page says with every request which model it shows, so visitors with different models get
    their own, one after the other; those with the same one may be at work together. A comparison
    draws in the background, and gives its model up for a visitor who wants another.
    """

    def __init__(
        self,
        pipeline: ImagePromptPipeline,
        prepare: Prepare | None = None,
        models: Mapping[str, str] | None = None,
        most: int = 32,
    ) -> None:
        """`models` are the names that `prepare` knows, and what to call them. Without `prepare`
        there is the one model and no choice. At most `most` visitors stand in line."""
        self._pipeline: ImagePromptPipeline | None = pipeline  # None while the model changes
        self._info, self._prepare = pipeline.info, prepare
        own = {pipeline.info.name: pipeline.info.name}
        self.models = own | dict(models or {}) if prepare is not None else own
        self._known: dict[str, tuple[ModelInfo, Previews]] = {}
        self._remember(pipeline)
        self.line = Line(most, pipeline.share_steps)
        self._changed = self.line.changed  # of the line, the model, and who draws with it
        self._loading = Lock()
        self._comparing = 0  # who draws in the background just now

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

    def info_of(self, name: str) -> ModelInfo | None:
        """Of the current model or one before; None for one that was never loaded."""
        known = self._known.get(name)
        return known and known[0]

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

    @contextmanager
    def turn(self, name: str) -> Iterator[Turn]:
        """A place in line for somebody who wants a single picture of a model. Raises RequestError
        for a name that is not offered, or a full line."""
        self._check(name)
        with self.line.turn(name) as turn:
            yield turn

    def at_turn(self, turn: Turn, report: Report = no_report) -> ImagePromptPipeline:
        """The pipeline of a turn's model, loaded unless it is the current one. Only who is at work
        may ask, and use it as long as the turn lasts. Raises whatever loading raises."""
        assert turn.ahead == 0
        if not self.is_loaded(turn.model):  # nobody takes it away from a turn
            self._load(turn.model, report, lambda: True)
        return self.pipeline

    @contextmanager
    def acquire(self, name: str, report: Report = no_report) -> Iterator[ImagePromptPipeline]:
        """A whole turn, waited for."""
        with self.turn(name) as turn:
            while turn.ahead:
                turn.wait()
            yield self.at_turn(turn, report)

    def draw_in_background(
        self, name: str, requests: Sequence[GenerateRequest]
    ) -> list[Result | Exception]:
        """Some cells of a comparison: of each its Result, or the error that kept it from one.

        They are drawn between what visitors with the same model ask for. For one with another, who
        needs the memory, they stop and begin again. Raises what `with_model` does.
        """
        self._check(name)
        while True:
            with self._background(name):
                outcomes = self._attempt(requests)
            if outcomes is not None:
                return outcomes

    @contextmanager
    def _background(self, name: str) -> Iterator[None]:
        """With a model loaded that nobody takes away before the end. Whoever draws so does not
        refer to the pipeline any more then: a model goes only when nobody does."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_free_for(name))
                if self.is_loaded(name):
                    self._comparing += 1
                    break
            self._load(name, no_report, lambda: self._is_free_for(name))
        try:
            yield
        finally:
            with self._changed:
                self._comparing -= 1
                self._changed.notify_all()

    def _is_free_for(self, name: str) -> bool:
        """True if a comparison may draw with a model, or load it."""
        wanted = all(turn.model == name for turn in self.line.turns)
        return wanted and (self.is_loaded(name) or not self._comparing)

    def is_loaded(self, name: str) -> bool:
        """True if a model is loaded just now."""
        with self._changed:
            return self._pipeline is not None and name == self._info.name

    def _attempt(self, requests: Sequence[GenerateRequest]) -> list[Result | Exception] | None:
        """None where the model is going."""
        try:
            pipeline = self._pipeline
            if pipeline is None:
                return None
            return list(pipeline.outcomes(requests, background=True))
        except Unloaded:
            return None

    def _check(self, name: str) -> None:
        if not isinstance(name, str) or name not in self.models:
            raise RequestError(f"model must be one of {', '.join(self.models)}, got {name!r:.80}")

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


def free_memory() -> None:
    """Hooks and modules refer to each other, so a model goes only when cycles are looked for."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps freed memory by default
        ctypes.CDLL("libc.so.6").malloc_trim(0)
