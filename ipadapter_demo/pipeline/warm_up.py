"""A compiled model draws a step of what visitors ask for, so that none of them waits for a
compiler."""

from __future__ import annotations

import time
from collections.abc import Iterator

from PIL import Image

from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.models.sources import Hub
from ipadapter_demo.pipeline.pipeline import ImagePromptPipeline
from ipadapter_demo.request import GenerateRequest, Structure


def warm_up(pipeline: ImagePromptPipeline) -> float:
    """The seconds that it took."""
    began = time.monotonic()
    for request in _requests(pipeline.entry):
        pipeline.generate(request)
    return time.monotonic() - began


def _requests(entry: CatalogEntry) -> Iterator[GenerateRequest]:
    """One for each graph: with guidance and without, for one picture and for several, with each
    structure network at hand that takes a ready map."""
    yield GenerateRequest(steps=1, guidance=2.0, count=2)
    yield GenerateRequest(steps=1, guidance=2.0)
    yield GenerateRequest(steps=1, guidance=1.0)
    for kind, structure in entry.structures.items():
        if "none" in structure.annotators and not isinstance(structure.folder, Hub):
            given = Structure(kind=kind, image=Image.new("RGB", (64, 64)), annotator="none")
            for guidance in (2.0, 1.0):  # the steps outside a window are without it
                yield GenerateRequest(steps=1, guidance=guidance, structures=(given,))
