"""How the requests of an evaluation become pictures: one after the other, or by several processes.

Small models gain little from a second thread: on two cores two processes of one thread each draw
almost twice as fast as one process of two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import torch
from PIL import Image

from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.request import GenerateRequest

Draw = Callable[[Sequence[GenerateRequest]], list[Image.Image]]  # the first picture of each


def drawn_by(pipeline: ImagePromptPipeline) -> Draw:
    """One after the other, in this process."""
    return lambda requests: [pipeline.generate(request).images[0] for request in requests]


@contextmanager
def drawn_by_workers(count: int, **options: Any) -> Iterator[Draw]:
    """By `count` processes, each with one thread and a pipeline of its own: `load(**options)`."""
    context = get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(count, context, _start, (options,)) as pool:
        yield lambda requests: list(pool.map(_draw, requests, chunksize=4))


_pipeline: ImagePromptPipeline  # of a worker


def _start(options: dict[str, Any]) -> None:
    global _pipeline
    torch.set_num_threads(1)
    _pipeline = load(**options)


def _draw(request: GenerateRequest) -> Image.Image:
    return _pipeline.generate(request).images[0]
