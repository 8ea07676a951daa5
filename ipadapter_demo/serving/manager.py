"""One model at a time, for whoever asks: the previous one is unloaded."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from threading import Condition, RLock

import torch

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.sources import Report, no_report
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
    their own, one after the other. A comparison of many pictures waits, between two steps, for
    everybody who wants a single one.
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
        self._pipeline: ImagePromptPipeline | None = pipeline
        self._info, self._prepare = pipeline.info, prepare
        own = {pipeline.info.name: pipeline.info.name}
        self.models = own | dict(models or {}) if prepare is not None else own
        self._known: dict[str, tuple[ModelInfo, Previews]] = {}
        self._remember(pipeline)
        self._lock = RLock()
        self._at_work = RLock()  # held by a comparison's batch, and while the model changes
        self.line = Line(most)
        self._visitors: list[str] = []  # the models of those who want a single picture
        self._change = Condition()

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def pipeline(self) -> ImagePromptPipeline:
        with self._lock:  # while another is being read, wait for it
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
        """The pipeline of a model, loaded unless it is the current one, while nobody wants a
        single picture.

        Raises RequestError for a name that is not offered, and whatever loading raises: then the
        current model is the one before.
        """
        self._check(name)
        while True:
            with self._lock:
                if name == self._info.name:
                    return self.pipeline
            with self._change:
                self._change.wait_for(lambda: not self._visitors)
            with self._at_work:
                if not self._visitors:
                    return self._loaded(name, report)

    @contextmanager
    def turn(self, name: str) -> Iterator[Turn]:
        """A place in line for somebody who wants a single picture of a model; comparisons wait
        until the end. Raises RequestError for a name that is not offered, or a full line."""
        self._check(name)
        with self.line.turn() as turn:
            with self._change:
                self._visitors.append(name)
                self._change.notify_all()
            try:
                yield turn
            finally:
                with self._change:
                    self._visitors.remove(name)
                    self._change.notify_all()

    def at_turn(self, turn: Turn, name: str, report: Report = no_report) -> ImagePromptPipeline:
        """The model's pipeline, loaded unless it is the current one. Only whoever is first in line
        may ask, and use it as long as it is. Raises whatever loading raises."""
        assert turn.ahead == 0
        return self._loaded(name, report)

    @contextmanager
    def acquire(self, name: str, report: Report = no_report) -> Iterator[ImagePromptPipeline]:
        """A whole turn, waited for."""
        with self.turn(name) as turn:
            while turn.ahead:
                turn.wait()
            yield self.at_turn(turn, name, report)

    def draw_in_background(self, name: str, requests: Sequence[GenerateRequest]) -> list[Result]:
        """One batch of a comparison, drawn while nobody wants a single picture.

        It pauses between two steps for a visitor with the same model, and for one with another,
        who needs the memory, it stops and begins again. Raises what `with_model` and
        `stream_batch` do.
        """
        self._check(name)
        while True:
            with self._change:
                self._change.wait_for(lambda: not self._visitors)
            with self._at_work, closing(self._loaded(name).stream_batch(requests)) as events:
                results = []
                for event in events:
                    if isinstance(event, Result):
                        results.append(event)
                    elif self._another_is_wanted(name):
                        break
                else:
                    return results

    def _another_is_wanted(self, name: str) -> bool:
        """Waits while visitors are content with the model `name`."""
        with self._change:
            self._change.wait_for(lambda: set(self._visitors) != {name})
            return bool(self._visitors)

    def _check(self, name: str) -> None:
        if not isinstance(name, str) or name not in self.models:
            raise RequestError(f"model must be one of {', '.join(self.models)}, got {name!r:.80}")

    def _loaded(self, name: str, report: Report = no_report) -> ImagePromptPipeline:
        with self._lock:
            if name == self._info.name:
                return self.pipeline
        with self._at_work, self._lock:
            if name != self._info.name:  # nobody else changed it meanwhile
                self._switch(name, report)
            return self.pipeline

    def _remember(self, pipeline: ImagePromptPipeline) -> None:
        self._known[pipeline.info.name] = pipeline.info, pipeline.previews()

    def _switch(self, name: str, report: Report) -> None:
        """Two large models may not fit: the old one goes before the new one is read, though not
        before everything is at hand."""
        assert self._prepare is not None
        load, back = self._prepare(name, report), self._prepare(self._info.name, no_report)
        self._pipeline = None
        free_memory()
        try:
            self._pipeline = load()
        except BaseException:
            free_memory()
            self._pipeline = back()
            raise
        finally:
            assert self._pipeline is not None
            self._info = self._pipeline.info
            self._remember(self._pipeline)


def free_memory() -> None:
    """Hooks and modules refer to each other, so a model goes only when cycles are looked for."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps freed memory by default
        ctypes.CDLL("libc.so.6").malloc_trim(0)
