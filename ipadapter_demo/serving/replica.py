"""A model on a device of its own, which draws for pages in other processes.

Ray Serve runs it, and it knows nothing of Ray. Requests come as records, so nothing in one is
trusted; errors are handed over as values, so that no log repeats what a visitor wrote.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from ipadapter_demo.json_values import Json
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.sources import announced
from ipadapter_demo.pipeline import ImagePromptPipeline, prepare
from ipadapter_demo.pipeline.events import ModelInfo, Preview, Result
from ipadapter_demo.pipeline.warm_up import warm_up
from ipadapter_demo.record import request_from_json

T = TypeVar("T")
Event = Preview | Result | Exception

MOST_AT_ONCE = 64  # requests and questions, each of which keeps a thread


@dataclass(frozen=True, slots=True)
class Description:
    """All that a page needs to know of a replica's model. `model` has no weights, and neither
    LoRAs nor structure networks: `BaseModel.without_weights` gives it empty ones again."""

    info: ModelInfo
    provenance: dict[str, Json]
    model: BaseModel
    share_steps: int


class Replica:
    """Any number of requests may be here at once: the engine of the pipeline has them in order."""

    def __init__(
        self, model: str | CatalogEntry, options: LoadOptions, threads: int | None = None
    ) -> None:
        """Raises ModelError or CheckpointError."""
        if threads is not None:
            torch.set_num_threads(threads)
        self._pipeline = prepare(model, options, announced(print))()
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE)
        if options.compile:
            warm_up(self._pipeline)

    async def description(self) -> Description:
        def described(pipeline: ImagePromptPipeline) -> Description:
            outline: Any = pipeline._model.without_weights()
            outline = replace(outline, loras=None, structures=None)  # locks cannot travel
            return Description(pipeline.info, pipeline.provenance, outline, pipeline.share_steps)

        return await self.ask(described)

    async def ask(self, question: Callable[[ImagePromptPipeline], T]) -> T:
        """What a function finds out about the pipeline."""
        return await asyncio.wrap_future(self._threads.submit(question, self._pipeline))

    async def stream(
        self, record: dict[str, object], *how: Any, **more: Any
    ) -> AsyncGenerator[Event, None]:
        """The events of a request, drawn as `ImagePromptPipeline.stream` draws it, or as the last
        of them the error that ended it. Whoever stops listening cancels it."""

        def events() -> Generator[Event, None, None]:
            yield from self._pipeline.stream(request_from_json(record), *how, **more)

        async for event in self._awaited(events()):
            yield event

    async def outcome(
        self, record: dict[str, object], *how: Any, **more: Any
    ) -> AsyncGenerator[Event, None]:
        """The same for `outcomes`, of one request."""

        def events() -> Generator[Event, None, None]:
            yield from self._pipeline.outcomes([request_from_json(record)], 1, *how, **more)

        async for event in self._awaited(events()):
            yield event

    async def _awaited(self, events: Generator[Event, None, None]) -> AsyncGenerator[Event, None]:
        """The events of a generator that blocks. It is closed in its own thread, since that may be
        inside of it when the caller leaves."""
        pending: Future[Event | None] | None = None
        try:
            while True:
                pending = self._threads.submit(_next, events)
                event = await asyncio.wrap_future(pending)
                if event is None:
                    return
                yield event
        finally:
            if pending is not None:
                pending.add_done_callback(lambda _: events.close())


def _next(events: Generator[Event, None, None]) -> Event | None:
    """None after the last. An error travels without its traceback, so it takes the places in the
    code along as a note."""
    try:
        return next(events, None)
    except Exception as error:
        error.add_note("in a replica:\n" + "".join(traceback.format_tb(error.__traceback__)))
        return error
