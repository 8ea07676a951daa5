"""A comparison in one file that can be published, and drawn again by whoever doubts it; see
publish.py for how it is written.

    figure-p1.pdf .svg .png, figure.tex   to print
    cells/, given/, maps/, inputs/        pictures without loss; cells hold their whole request
    scores.csv                            numbers beside them
    warnings.txt                          what is missing and why, where something is
    spec.json, manifest.json, rerun.sh    to make it again

Equal comparisons on one machine give equal bundles, byte for byte.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ipadapter_demo.compare.archive import read_from_zip
from ipadapter_demo.compare.grid import Cell
from ipadapter_demo.compare.job import Job
from ipadapter_demo.compare.manifest import (
    CellEntry,
    checksum,
    manifest_from_text,
    spec_of_manifest,
    with_weights_of,
)
from ipadapter_demo.compare.names import MANIFEST
from ipadapter_demo.compare.plan import Plan
from ipadapter_demo.compare.spec import Spec
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.imaging import read_bytes, read_image
from ipadapter_demo.json_values import Json
from ipadapter_demo.lora import Lora
from ipadapter_demo.pipeline import ImagePromptPipeline, Result, effective_request
from ipadapter_demo.record import record_from_png
from ipadapter_demo.request import GenerateRequest, Structure
from ipadapter_demo.serving import ModelManager

MAX_GREY_LEVELS = 1  # between two drawings of one cell in float32, whatever shares their calls

RERUN = """\
#!/bin/sh
# Draws every cell again and says how far it is from the one here, in grey levels.
cd "$(dirname "$0")" || exit 1
exec python -m ipadapter_demo compare --verify . "$@"
"""


@dataclass(frozen=True, slots=True)
class Verified:
    """The largest difference of any channel of any pixel, in grey levels, or why there is none."""

    cell: Cell
    difference: int | None
    message: str = ""


def maps_by_cell(job: Job) -> dict[str, dict[str, bytes]]:
    """The maps of each finished cell, as files named by their content."""
    found = {}
    for cell in job.finished():
        contents = []
        for image in job.plan.maps(cell.model, cell.request):
            content = io.BytesIO()
            image.save(content, "PNG")
            contents.append(content.getvalue())
        found[cell.name] = {f"maps/{checksum(content)[:16]}.png": content for content in contents}
    return found


def spec_from_manifest(text: str | bytes) -> Spec:
    """The comparison of an untrusted manifest, with its pictures. Raises RequestError."""
    return spec_of_manifest(manifest_from_text(text))


class Bundle:
    """An untrusted bundle: a zip file, or the folder that it was unpacked to."""

    def __init__(self, path: Path) -> None:
        """Raises RequestError."""
        self.path = path
        self.manifest = manifest_from_text(self.read(MANIFEST))
        self.spec = spec_of_manifest(self.manifest)

    def read(self, name: str) -> bytes:
        if self.path.is_dir():
            return read_bytes(self.path / name, name)
        return read_from_zip(self.path, name)

    def verified(self, manager: ModelManager) -> Iterator[Verified]:
        """Every cell drawn again."""
        plan = Plan(self.spec, manager, again=True)
        there = {entry.name: entry for entry in self.manifest.cells if entry.file}
        for model, cells in plan.cells.items():
            for cell, outcome in plan.drawn(model, [c for c in cells if c.name in there]):
                yield self._compared(cell, outcome, there[cell.name])

    def changes(self, manager: ModelManager) -> list[str]:
        """Differences from when the bundle was made, named as in the manifest."""
        found = []
        for model, provenance in self.manifest.models.items():
            now = _provenance_now(manager.with_model(model), provenance)
            found += [
                f"{model}: {name} was {provenance.get(name)!r:.200}, is {now.get(name)!r:.200}"
                for name in now
                if provenance.get(name) != now[name]
            ]
        return found

    def _compared(self, cell: Cell, outcome: Result | Exception, entry: CellEntry) -> Verified:
        if isinstance(outcome, Exception):
            return Verified(cell, None, str(outcome))
        content = self.read(f"cells/{cell.name}.png")
        if checksum(content) != entry.sha256:
            return Verified(cell, None, "its file is not the one that the manifest names")
        if effective_request(record_from_png(content).request) != cell.request:
            return Verified(cell, None, "its request is not the one that the spec asks for")
        return Verified(cell, difference(read_image(content), outcome.images[0]))


def _provenance_now(pipeline: ImagePromptPipeline, before: dict[str, Json]) -> dict[str, Json]:
    """With those of the LoRAs, structure networks and autoencoders of before that the model has."""
    weights = before.get("weights")
    names = list(weights) if isinstance(weights, dict) else []
    nothing = Image.new("RGB", (8, 8))  # a network's weights are named by its kind alone
    requests = [
        *(GenerateRequest(loras=(Lora(name=name),)) for name in _beyond("lora", names)),
        *(GenerateRequest(vae=name) for name in _beyond("vae", names)),
        *(
            GenerateRequest(structures=(Structure(kind=kind, image=nothing),))
            for kind in _beyond("structure", names)
        ),
    ]
    now = pipeline.provenance
    for request in requests:
        with suppress(RequestError, ModelError):
            now = with_weights_of(now, pipeline.provenance_of(request))
    return now


def _beyond(start: str, names: list[str]) -> list[str]:
    """What is named in "start/WHAT" or "start/WHAT/...", each once."""
    parts = [name.split("/") for name in names]
    return list(dict.fromkeys(part[1] for part in parts if part[0] == start and part[1:]))


def difference(one: Image.Image, other: Image.Image) -> int | None:
    """The largest, over pixels and channels, in grey levels; None for different sizes."""
    if one.size != other.size:
        return None
    levels = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in (one, other))
    return int(np.abs(np.subtract(*levels)).max())
