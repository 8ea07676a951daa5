"""Comparisons for programs: the values of the form in, pictures, names and files out."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gradio.utils import get_upload_folder

from ipadapter_demo.compare import ComparisonWarning, Failed, Job, Plan, Spec, write_bundle
from ipadapter_demo.request import MAX_SEED
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.api import File, file_of, public
from ipadapter_demo.ui.run.api_fields import (
    DESCRIPTIONS,
    SCHEMAS,
    TEXT,
    WHOLE,
    answer,
    parameter,
    picture_schema,
    schema_of,
)
from ipadapter_demo.ui.run.errors import shown_errors
from ipadapter_demo.ui.run.tab import Widgets
from ipadapter_demo.ui.run.updates import LOOK_AGAIN
from ipadapter_demo.ui.run.visitor import this_visitor
from ipadapter_demo.ui.tabs.compare.downloads import files_of
from ipadapter_demo.ui.tabs.compare.form import SIDES

# The endpoint's names for what the form calls otherwise: elsewhere these are a picture's.
NAMES = {"written": "spec", "width": "figure_width", "dpi": "figure_dpi", "zoom": "figure_zoom"}
PICTURES = {"type": "array", "items": picture_schema()}
CELL = {"type": "object", "properties": dict.fromkeys(("name", "page", "row", "column"), TEXT)}
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "pictures": (
        "The pictures to compare, which spec and structure call by their names.",
        PICTURES,
    ),
    "seed": (f"Seed of every cell, from 0 to {MAX_SEED}.", WHOLE),
    "structure": ("The name of the one among the pictures that is the control image.", TEXT),
    "title": ("A title for the figure's caption.", TEXT),
    "figure_zoom": ("A region to magnify: left, top, width, height, as shares of 1.", TEXT),
    "figure_width": ("Width of the figure: a single or double column.", {}),
    "figure_dpi": ("Dots per inch of the figure.", WHOLE),
    "beside": ("What stands beside the cells of a row.", {}),
    "spec": ("A comparison as YAML or JSON, in place of all else but pictures and model.", TEXT),
} | {
    f"{side}_{part}": (f"{what} from {side[:-1]} to {side[:-1]}.", {})
    for side in SIDES
    for part, what in (
        ("axis", "What differs"),
        ("values", "Its values, 0:1.2:0.2, or with commas, or one a line,"),
    )
}


class Compared(NamedTuple):
    """The values that the endpoint returns, in this order; the first two belong together."""

    pictures: list[File]
    cells: list[dict[str, str]]
    status: str
    files: list[File]


def add_compare_api(
    manager: ModelManager,
    inputs: Widgets,
    spec_of: Callable[[Mapping[str, Any]], Spec],
    queue: dict[str, object],
) -> None:
    """`/compare` draws what Compare draws; `spec_of` reads the form's raw values."""
    form = {NAMES.get(name, name): name for name in inputs}

    def compare(**values: Any) -> Iterator[Compared]:
        """Rows and columns of pictures that differ in one thing each. The files are a figure,
        scores, and a bundle with everything to draw it again."""
        given = {form[name]: value for name, value in values.items()}
        with shown_errors(), manager.comparison(this_visitor()):
            folder = Path(get_upload_folder()) / secrets.token_hex(16)
            yield from _compared(Job(Plan(spec_of(given), manager), folder))

    public(
        compare,
        {name: _parameter(name, inputs[field]) for name, field in form.items()},
        [
            answer(PICTURES, "pictures"),
            answer({"type": "array", "items": CELL}, "cells"),
            answer(TEXT, "status"),
            answer(PICTURES, "files"),
        ],
        **queue,
    )


def _parameter(name: str, widget: Any) -> Any:  # noqa: ANN401 - gradio's
    text, schema = OWN.get(name) or (DESCRIPTIONS[name], SCHEMAS.get(name, {}))
    default = None if name == "pictures" else widget.value
    return parameter(name, text, schema or schema_of(widget), default)


def _compared(job: Job) -> Iterator[Compared]:
    """How far it is; then the finished cells, and what is published of them."""
    total = len(job.plan.grid.cells)
    job.save_given()
    messages: list[str] = []
    for event in job.running(LOOK_AGAIN):
        if isinstance(event, ComparisonWarning):
            messages.append(event.message)
        elif isinstance(event, Failed):
            messages.append(f"{event.cell.name}: {event.message}")
        yield Compared([], [], f"{len(job.finished())} of {total} cells.", [])
    published = write_bundle(job)
    cells = job.finished()
    heads = [
        dict(zip(("page", "row", "column"), job.plan.grid.heads(c), strict=True)) for c in cells
    ]
    yield Compared(
        [file_of(job.path(cell)) for cell in cells],
        [{"name": cell.name} | head for cell, head in zip(cells, heads, strict=True)],
        " ".join([f"{len(cells)} of {total} cells.", *messages, *published.warnings]),
        [file_of(path) for path in files_of(job)],
    )
