"""The start of `generate`: an output, the PNG of another program, or what a model recommends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipadapter_demo.cli.command import progress
from ipadapter_demo.errors import RequestError
from ipadapter_demo.foreign import ForeignSettings, settings_from_png
from ipadapter_demo.record import Record, record_from_png
from ipadapter_demo.request import GenerateRequest

if TYPE_CHECKING:
    from ipadapter_demo.pipeline import ModelInfo


def recorded(path: Path | None) -> tuple[Record | None, ForeignSettings | None]:
    """The record in an output PNG, or the settings in that of another program. Raises
    RequestError for any other file."""
    if path is None:
        return None, None
    try:
        found = settings_from_png(path)
        return (record_from_png(path) if found is None else None), found
    except RequestError as error:
        raise RequestError(f"--from-png {path}: {error}") from error


def adapters_beside(record: Record | None) -> str | None:
    """The models of the catalogue whose adapters a recorded request names, as --adapters."""
    from ipadapter_demo.models.published import PUBLISHED

    if record is None:
        return None
    named = (record.request.adapter, *(r.adapter for r in record.request.references))
    return ",".join(dict.fromkeys(name for name in named if name in PUBLISHED)) or None


def start_of(
    found: ForeignSettings | None, given: dict[str, Any], info: ModelInfo
) -> GenerateRequest:
    """A request with what is `given`, what another program's picture says, and what the model
    recommends beside both. Whatever is not taken over is said."""
    fields, left = found.fitted(info) if found else ({}, [])
    if found:
        progress(f"--from-png is of {found.program}; taken over: {', '.join(fields) or 'nothing'}")
    for sentence in left:
        progress(f"not taken over: {sentence}")
    asked = fields | given
    return GenerateRequest(**info.fields_beside(asked) | asked)
