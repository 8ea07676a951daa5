"""From the requests of an evaluation to pictures, in this process or several.

Small models gain little from a second thread: on two cores two processes of one thread each draw
almost twice as fast as one process of two. They gain from calls that several requests share, in
half precision most.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import read_image
from ipadapter_demo.json_values import Json
from ipadapter_demo.pipeline import ImagePromptPipeline, load
from ipadapter_demo.record import request_to_json, save_png
from ipadapter_demo.request import GenerateRequest

Draw = Callable[[Sequence[GenerateRequest]], list[Image.Image]]  # the first picture of each
ProvenanceOf = Callable[[GenerateRequest], dict[str, Json]]  # a pipeline's
PORTION = 64  # pictures that a stopped evaluation may lose
SHARE = 8  # requests of one call


def drawn_by(pipeline: ImagePromptPipeline) -> Draw:
    """In this process."""
    return lambda requests: [result.images[0] for result in pipeline.generate_all(requests, SHARE)]


def kept_in(folder: Path, draw: Draw, provenance_of: ProvenanceOf) -> Draw:
    """Every picture stays in `folder`, as a PNG that says what made it; what is there of the same
    request and the same provenance is not drawn again, so an evaluation that was stopped goes on.
    Requests name their LoRAs, of which a provenance knows the files and not the weights."""

    def path_of(request: GenerateRequest) -> Path:
        made_by = {
            "request": request_to_json(request)["request"],
            "provenance": provenance_of(request),
        }
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
                save_png(path, image, request, request.seed, 0, provenance_of(request))
        return [read_image(path) for path in paths]

    return read_or_drawn


@contextmanager
def drawn_by_workers(count: int, **options: Any) -> Iterator[Draw]:
    """By `count` processes, each with one thread and a pipeline of its own: `load(**options)`. What
    is yielded raises RequestError where one of them dies."""
    context = get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(count, context, _start, (options,)) as pool:

        def draw(requests: Sequence[GenerateRequest]) -> list[Image.Image]:
            shares = [requests[i : i + SHARE] for i in range(0, len(requests), SHARE)]
            try:
                return [image for images in pool.map(_draw, shares) for image in images]
            except BrokenProcessPool as error:
                raise RequestError(
                    f"workers: one of {count} died, as where memory is short: fewer need less"
                ) from error

        yield draw


_pipeline: ImagePromptPipeline  # of a worker


def _start(options: dict[str, Any]) -> None:
    global _pipeline
    torch.set_num_threads(1)
    _pipeline = load(**options)


def _draw(requests: Sequence[GenerateRequest]) -> list[Image.Image]:
    return drawn_by(_pipeline)(requests)
