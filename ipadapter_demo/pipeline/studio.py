"""One model at a time, for whoever asks: the one before it is given up."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from threading import Condition, RLock
from typing import Any

import torch

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.sources import Report
from ipadapter_demo.pipeline.events import ModelInfo, Result
from ipadapter_demo.pipeline.pipeline import ImagePromptPipeline
from ipadapter_demo.request import GenerateRequest

# (name, report) -> fetches what is missing, and returns what loads it
Prepare = Callable[[str, Report], Callable[[], ImagePromptPipeline]]


def _unheard(text: str, share: float) -> None: ...


class Studio:
    """Stands for the current model's pipeline wherever a page looks at one.

    A page says with every request which model it shows, so visitors with different models get
    their own, one after the other. A comparison of many pictures waits, between two steps, for
    everybody who wants a single one.
    """

    def __init__(self, pipeline: ImagePromptPipeline, prepare: Prepare | None = None,
                 models: Mapping[str, str] | None = None) -> None:
        """`models` are the names that `prepare` knows, and what to call them. Without `prepare`
        there is the one model and no choice."""
        self._pipeline: ImagePromptPipeline | None = pipeline
        self._info, self._prepare = pipeline.info, prepare
        own = {pipeline.info.name: pipeline.info.name}
        self.models = own | dict(models or {}) if prepare is not None else own
        self._lock = RLock()
        self._at_work = RLock()  # held by a comparison's batch, and while the model changes
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

    def encoder_view(self, *arguments: Any) -> Any:
        return self.pipeline.encoder_view(*arguments)

    def structure_map(self, *arguments: Any) -> Any:
        return self.pipeline.structure_map(*arguments)

    def with_model(self, name: str, report: Report = _unheard) -> ImagePromptPipeline:
        """The pipeline of a model, loaded unless it is the current one.

        Raises RequestError for a name that is not offered, and whatever loading raises: then the
        current model is the one before.
        """
        if name not in self.models:
            raise RequestError(f"model must be one of {', '.join(self.models)}, got {name!r:.80}")
        with self._lock:
            if name == self._info.name:
                return self.pipeline
        with self._at_work, self._lock:
            if name != self._info.name:  # nobody else changed it meanwhile
                self._switch(name, report)
            return self.pipeline

    @contextmanager
    def visit(self, name: str, report: Report = _unheard) -> Iterator[ImagePromptPipeline]:
        """`with_model` for somebody who wants a single picture: comparisons wait until the end."""
        with self._change:
            self._visitors.append(name)
            self._change.notify_all()
        try:
            yield self.with_model(name, report)
        finally:
            with self._change:
                self._visitors.remove(name)
                self._change.notify_all()

    def draw_between(self, name: str, requests: Sequence[GenerateRequest]) -> list[Result]:
        """One batch of a comparison, drawn while nobody wants a single picture.

        It pauses between two steps for a visitor with the same model, and for one with another,
        who needs the memory, it gives up and begins again. Raises what `with_model` and
        `stream_together` do.
        """
        while True:
            with self._change:
                self._change.wait_for(lambda: not self._visitors)
            with self._at_work, closing(self.with_model(name).stream_together(requests)) as events:
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

    def _switch(self, name: str, report: Report) -> None:
        """Two large models may not fit: the old one goes before the new one is read, though not
        before everything is at hand."""
        assert self._prepare is not None
        load, back = self._prepare(name, report), self._prepare(self._info.name, _unheard)
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


def free_memory() -> None:
    """Hooks and modules refer to each other, so a model goes only when cycles are looked for."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps what is freed, unless told
        ctypes.CDLL("libc.so.6").malloc_trim(0)
