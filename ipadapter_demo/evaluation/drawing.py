"""From the requests of an evaluation to pictures: a batch at a time, in this process or several.

Small models gain little from a second thread: on two cores two processes of one thread each draw
almost twice as fast as one process of two. They gain from batches, in half precision most.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ipadapter_demo.imaging import read_image
from ipadapter_demo.json_values import Json
from ipadapter_demo.pipeline import ImagePromptPipeline, Result, can_batch, load
from ipadapter_demo.record import request_to_json, save_png
from ipadapter_demo.request import GenerateRequest

Draw = Callable[[Sequence[GenerateRequest]], list[Image.Image]]  # the first picture of each
PORTION = 64  # pictures that a stopped evaluation may lose
BATCH = 8


def drawn_by(pipeline: ImagePromptPipeline) -> Draw:
    """In this process."""
    return lambda requests: [
        image for batch in batches(requests) for image in drawn_in_batches(pipeline, batch)
    ]


def batches(requests: Sequence[GenerateRequest]) -> Iterator[list[GenerateRequest]]:
    """Neighbours that may share one; order stays."""
    batch: list[GenerateRequest] = []
    for request in requests:
        if batch and (len(batch) == BATCH or not can_batch(batch[0], request)):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch


def drawn_in_batches(
    pipeline: ImagePromptPipeline, batch: Sequence[GenerateRequest]
) -> list[Image.Image]:
    return [event.images[0] for event in pipeline.stream_batch(batch) if isinstance(event, Result)]


def kept_in(folder: Path, draw: Draw, provenance: dict[str, Json]) -> Draw:
    """Every picture stays in `folder`, as a PNG that says what made it; what is there of the same
    request and the same `provenance` is not drawn again, so an evaluation that was stopped goes
    on."""

    def path_of(request: GenerateRequest) -> Path:
        made_by = {"request": request_to_json(request)["request"], "provenance": provenance}
        name = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()
        return folder / f"{name[:32]}.png"

    def read_or_drawn(requests: Sequence[GenerateRequest]) -> list[Image.Image]:
        paths = [path_of(request) for request in requests]
        folder.mkdir(parents=True, exist_ok=True)
        missing = [
            (path, request)
            for path, request in zip(paths, requests, strict=True)
            if not path.exists()
        ]
        for start in range(0, len(missing), PORTION):
            portion = missing[start : start + PORTION]
            images = draw([request for _, request in portion])
            for (path, request), image in zip(portion, images, strict=True):
                save_png(path, image, request, request.seed, 0, provenance)
        return [read_image(path) for path in paths]

    return read_or_drawn


@contextmanager
def drawn_by_workers(count: int, **options: Any) -> Iterator[Draw]:
    """By `count` processes, each with one thread and a pipeline of its own: `load(**options)`."""
    context = get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(count, context, _start, (options,)) as pool:
        yield lambda requests: [
            image for images in pool.map(_draw, batches(requests)) for image in images
        ]


_pipeline: ImagePromptPipeline  # of a worker


def _start(options: dict[str, Any]) -> None:
    global _pipeline
    torch.set_num_threads(1)
    _pipeline = load(**options)


def _draw(batch: Sequence[GenerateRequest]) -> list[Image.Image]:
    return drawn_in_batches(_pipeline, batch)
