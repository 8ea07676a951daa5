"""A pipeline on ZeroGPU, the hardware of Hugging Face Spaces that lends a GPU for one call.

A call runs in a process forked from this one. Requests and events travel there and back, so nothing
depends on what an earlier call has set; what it has kept, such as image prompts, saves time alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any
from weakref import ref

import torch
from PIL import Image
from torch import Tensor

from ipadapter_demo.embeds import ImageEmbeds
from ipadapter_demo.errors import DemoError
from ipadapter_demo.pipeline import ImagePromptPipeline, ModelInfo, Preview, Result
from ipadapter_demo.pipeline.passes import passes_of, sizes_of_passes
from ipadapter_demo.pipeline.step_count import guided_calls, unet_calls
from ipadapter_demo.request import GenerateRequest, Reference

log = logging.getLogger(__name__)

START = 10.0  # seconds until a worker has the model on its GPU
# Of one row of a call with 1024 x 1024 pixels: SDXL on a third of an H200, and twice that to be
# sure. A call that takes longer than asked for is ended.
ROW, PICTURE = 0.2, 1.0  # and of a picture, for decoding and its way back


class ZeroGPUPipeline(ImagePromptPipeline):
    """Draws as the pipeline that it is made of, each request in a call with a GPU of its own.

    Built before the page is served: the model is then placed once, for all workers.
    """

    def __init__(self, pipeline: ImagePromptPipeline) -> None:
        import spaces

        super().__init__(pipeline._model, pipeline.share_steps)
        # `spaces` keeps what it decorates for ever: this pipeline is to go with its model
        itself = ref(self)

        def events(request: GenerateRequest, *how: Any) -> Generator[Any, None, None]:
            yield from _with_error_last(ImagePromptPipeline.stream(_alive(itself), request, *how))

        def seconds(request: GenerateRequest, *_: object) -> int:
            return _alive(itself).seconds(request)

        def embeds(images: Sequence[Image.Image]) -> Any:  # noqa: ANN401 - numpy's: a tensor would share memory
            torch.set_num_threads(1)
            return ImagePromptPipeline.image_embeds(_alive(itself), images).cpu().numpy()

        def embeds_of(*how: Any) -> ImageEmbeds | DemoError:
            torch.set_num_threads(1)
            try:
                return ImagePromptPipeline.embeds_of(_alive(itself), *how)
            except DemoError as error:
                return error

        self._events_on_gpu = spaces.GPU(duration=seconds)(events)
        self._embeds_on_gpu = spaces.GPU(embeds)
        self._embeds_of_on_gpu = spaces.GPU(embeds_of)

    @cached_property
    def info(self) -> ModelInfo:
        """Without Live: every frame would be a call."""
        return replace(super().info, live=None)

    def seconds(self, request: GenerateRequest) -> int:
        """Asked for: an upper bound, in proportion to the rows of all calls and their pixels."""
        sizes = sizes_of_passes(request, self.working_size(request))
        seconds = START
        for one, (width, height) in zip(passes_of(request), sizes, strict=True):
            rows = one.count * (unet_calls(one) + guided_calls(one))
            seconds += width * height / 1024**2 * (rows * ROW + one.count * PICTURE)
        return round(seconds) + 1

    def stream(
        self,
        request: GenerateRequest,
        preview_every: int = 0,
        record_attention: bool = False,
        look_again: float | None = None,
        most_seconds: float | None = None,
    ) -> Generator[Preview | Result, None, None]:
        for structure in request.structures:  # read here, once, and not in every worker
            if structure.kind in self._model.entry.structures:
                self._model.structures[structure.kind]
        for event in self._events_on_gpu(
            request, preview_every, record_attention, look_again, most_seconds
        ):
            if isinstance(event, Exception):
                raise event
            yield event

    def outcomes(
        self,
        requests: Iterable[GenerateRequest],
        share: int | None = None,
        background: bool = False,
        record_attention: bool = False,
        look_again: float | None = None,
        most_seconds: float | None = None,
    ) -> Generator[Result | Exception | Preview, None, None]:
        for request in requests:
            try:
                for event in self.stream(request, 0, record_attention, look_again, most_seconds):
                    if look_again is not None or not isinstance(event, Preview):
                        yield event
            except Exception as error:
                yield error

    def image_embeds(self, images: Sequence[Image.Image]) -> Tensor:
        return torch.from_numpy(self._embeds_on_gpu(list(images)))

    def embeds_of(self, reference: Reference, adapter: str | None = None) -> ImageEmbeds:
        found = self._embeds_of_on_gpu(reference, adapter)
        if isinstance(found, DemoError):
            raise found
        return found


def _alive(itself: Callable[[], ZeroGPUPipeline | None]) -> ZeroGPUPipeline:
    pipeline = itself()
    assert pipeline is not None  # who calls it holds it
    return pipeline


def _with_error_last(
    events: Generator[Preview | Result, None, None],
) -> Generator[Preview | Result | Exception, None, None]:
    """In a worker, whose errors `spaces` would tell by the names of their classes alone."""
    torch.set_num_threads(1)  # the threads of OpenMP do not survive a fork
    try:
        yield from events
    except DemoError as error:
        yield error
    except Exception as error:
        log.exception("a request failed on its GPU")
        yield RuntimeError(f"{type(error).__name__}: {error}")
