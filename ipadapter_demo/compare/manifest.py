"""The manifest of a comparison: its inputs, models and cells. Read from untrusted files too."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ipadapter_demo.compare.comparison import MAX_CELLS
from ipadapter_demo.compare.complete import with_everything_said
from ipadapter_demo.compare.job import Job
from ipadapter_demo.compare.schema import CellName, Part, checked
from ipadapter_demo.compare.spec import Spec, spec_from_document
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import MAX_FILE_BYTES
from ipadapter_demo.json_values import Json
from ipadapter_demo.record import check_values, record_from_png, request_to_json

MAX_VALUES = 1_000_000  # about: see record.check_values

Sum = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Input(Part):
    file: Annotated[str, Field(max_length=1000)]
    sha256: Sum
    bytes: int
    content: str
    """In base64."""


class CellEntry(Part):
    name: CellName
    heads: tuple[str, str, str]
    """Of its page, row and column."""
    model: str
    request: dict[str, object]
    """Pictures by the SHA-256 of their PNG."""
    file: str | None = None
    sha256: Sum | None = None
    maps: tuple[str, ...] = ()
    """The maps that the structure networks read."""
    error: str | None = None
    """The error that kept the cell from being drawn."""


class Manifest(Part):
    model_config = ConfigDict(title="What a comparison was made of, and with")

    version: Literal[1] = Field(alias="schema")
    spec: dict[str, object]
    """As `compare --schema` describes it."""
    inputs: Annotated[tuple[Input, ...], Field(max_length=300)]
    """The files that the spec names, byte for byte."""
    batch: Annotated[int, Field(ge=1)]
    """Cells that shared a call of the model, at most."""
    models: dict[str, dict[str, Any]]
    """By name: hashes of the weights, LoRAs included, scheduler, device, dtype, versions."""
    cells: Annotated[tuple[CellEntry, ...], Field(max_length=MAX_CELLS)]


def _manifest(job: Job, maps: Mapping[str, Mapping[str, bytes]]) -> Manifest:
    cells: list[CellEntry] = []
    models: dict[str, dict[str, Json]] = {}
    for cell in job.plan.grid.cells:
        entry: dict[str, Any] = {
            "name": cell.name,
            "heads": job.plan.grid.heads(cell),
            "model": cell.model,
            "request": request_to_json(cell.request)["request"],
        }
        if job.path(cell).exists():
            content = job.path(cell).read_bytes()
            provenance = record_from_png(content).provenance
            models[cell.model] = with_weights_of(models.get(cell.model, provenance), provenance)
            entry |= {"file": f"cells/{cell.name}.png", "sha256": checksum(content)}
            entry |= {"maps": tuple(maps[cell.name])} if maps.get(cell.name) else {}
        elif message := job.message(cell):
            entry["error"] = message
        cells.append(CellEntry(**entry))
    inputs = [
        Input(
            file=name,
            sha256=checksum(content),
            bytes=len(content),
            content=base64.b64encode(content).decode(),
        )
        for name, content in sorted(job.plan.spec.files.items())
    ]
    return Manifest(
        schema=1,
        spec=job.plan.spec.document,
        inputs=tuple(inputs),
        batch=job.plan.share,
        models=models,
        cells=tuple(cells),
    )


def with_weights_of(one: dict[str, Json], other: dict[str, Json]) -> dict[str, Json]:
    """The provenance of several cells of a model: they may differ in their LoRAs alone."""
    ours, theirs = one["weights"], other["weights"]
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    return one | {"weights": ours | theirs}


def manifest_text(job: Job, maps: Mapping[str, Mapping[str, bytes]]) -> str:
    """`maps` are files by cell."""
    return json.dumps(_manifest(job, maps).document(), indent=1) + "\n"


def manifest_from_text(text: str | bytes) -> Manifest:
    """Of an untrusted manifest. Raises RequestError."""
    if len(text) > MAX_FILE_BYTES:
        raise RequestError(f"manifest must have at most {MAX_FILE_BYTES:,} bytes")
    check_values("manifest", text, MAX_VALUES)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"manifest is not JSON: {error}") from error
    return checked(document, Manifest, "manifest")


def spec_of_manifest(manifest: Manifest) -> Spec:
    """The comparison, with its files. Raises RequestError."""
    files = {}
    for given in manifest.inputs:
        try:
            files[given.file] = base64.b64decode(given.content, validate=True)
        except ValueError as error:
            raise RequestError(f"manifest.inputs: {given.file:.80} is not base64") from error
        if checksum(files[given.file]) != given.sha256:
            raise RequestError(f"manifest.inputs: {given.file:.80} is damaged")

    def read(name: str) -> bytes:
        if name not in files:
            raise RequestError(f"manifest.inputs: {name:.80} is missing")
        return files[name]

    return spec_from_document(with_everything_said(manifest.spec), read)


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
