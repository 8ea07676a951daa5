"""A pipeline whose model is elsewhere, with replicas that draw what it is asked for."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.embeds import ImageEmbeds
from ipadapter_demo.errors import ModelError
from ipadapter_demo.json_values import Json
from ipadapter_demo.pipeline import ImagePromptPipeline, Previews
from ipadapter_demo.pipeline.conditioning import ContentCache
from ipadapter_demo.pipeline.events import Preview, Result
from ipadapter_demo.pipeline.request_log import logged
from ipadapter_demo.record import request_to_json
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.serving.replica import Description

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

T = TypeVar("T")
Begin = Callable[[], "DeploymentResponseGenerator"]

# A request that brings down whoever draws it must not bring down one replica after the other.
ATTEMPTS = 3
REMEMBERED = 64  # choices of LoRAs

log = logging.getLogger(__name__)


class RemotePipeline(ImagePromptPipeline):
    """The same in every way for whoever asks, but for the seconds that it takes.

    Views before drawing are made here; the rest is asked of one of the replicas. When that dies,
    another draws the request again from its beginning: the pictures are the same bytes, and the
    previews begin anew.
    """

    def __init__(self, handle: DeploymentHandle, replicas: int = 1) -> None:
        """`replicas` is the largest number that there may be. Raises what `Replica` does."""
        described: Description = handle.description.remote().result()
        Previews.__init__(self, described.model.without_weights())
        self.info, self.provenance = described.info, described.provenance
        self.share_steps = replicas * described.share_steps
        self._handle, self._streams = handle, handle.options(stream=True)
        self._provenances = ContentCache(REMEMBERED)  # by the LoRAs, which visitors choose

    @logged
    def stream(
        self, request: GenerateRequest, *how: Any, **more: Any
    ) -> Generator[Preview | Result, None, None]:
        record = request_to_json(request)
        yield from _Drawing(partial(self._streams.stream.remote, record, *how, **more)).events()

    @logged
    def outcomes(
        self,
        requests: Iterable[GenerateRequest],
        share: int | None = None,
        *how: Any,
        **more: Any,
    ) -> Generator[Result | Exception | Preview, None, None]:
        """`share` of them are with replicas at once."""
        share, todo = share or self.share_steps, iter(requests)
        draw, at_work = self._streams.outcome.remote, deque[_Drawing]()
        try:
            while True:
                at_work += [
                    _Drawing(partial(draw, request_to_json(one), *how, **more))
                    for one in islice(todo, share - len(at_work))
                ]
                if not at_work:
                    return
                yield from at_work[0].outcome()
                at_work.popleft()
        finally:
            for drawing in at_work:
                drawing.cancel()

    def image_embeds(self, images: Sequence[Image.Image]) -> Tensor:
        found = self._ask(lambda pipeline: pipeline.image_embeds(images).cpu())
        return torch.as_tensor(found)

    def embeds_of(self, reference: Reference, adapter: str | None = None) -> ImageEmbeds:
        return self._ask(lambda pipeline: pipeline.embeds_of(reference, adapter))

    def provenance_of(self, request: GenerateRequest) -> dict[str, Json]:
        def found() -> dict[str, Json]:
            return self._ask(lambda pipeline: pipeline.provenance_of(request))

        return self._provenances.get(request.loras, found)

    def unload(self) -> None:
        """Nothing: replicas keep their models."""

    def _ask(self, question: Callable[[ImagePromptPipeline], T]) -> T:
        """What a function finds out about the pipeline of one of the replicas."""
        from ray.exceptions import RayTaskError

        try:
            return self._handle.ask.remote(question).result()
        except RayTaskError as error:
            raise error.cause from None


class _Drawing:
    """A request with a replica, from now on; `begin` gives it to one."""

    def __init__(self, begin: Begin) -> None:
        self._begin, self._response = begin, begin()

    def events(self) -> Generator[Any, None, None]:
        """Raises the request's error. Closing the generator cancels it."""
        from ray.exceptions import ObjectLostError, RayActorError

        attempt = 1
        try:
            while True:
                try:
                    for event in self._response:
                        if isinstance(event, Exception):
                            raise event
                        yield event
                    return
                except (RayActorError, ObjectLostError) as error:
                    if attempt == ATTEMPTS:
                        raise ModelError(
                            f"{attempt} replicas died while they drew this request"
                        ) from error
                    log.warning("a replica died; another draws its request again")
                    attempt, self._response = attempt + 1, self._begin()
        finally:
            self.cancel()

    def outcome(self) -> Generator[Any, None, None]:
        """The same, with the error as the last event."""
        try:
            yield from self.events()
        except Exception as error:
            yield error

    def cancel(self) -> None:
        """Before the replica's next step."""
        self._response.cancel()
