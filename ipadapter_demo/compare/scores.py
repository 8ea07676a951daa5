"""Numbers beside the pictures, an aid and no verdict: they agree with people only loosely.

CLIP-I is the cosine between a cell and its first reference, CLIP-T that between a cell and its
prompt (arXiv 2308.06721, section 4.2). Attributes are what the tabletop classifier finds in a cell
as in its reference; of a reference from another world they say nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from PIL import Image
from torch import Tensor

from ipadapter_demo.compare.grid import Cell
from ipadapter_demo.compare.job import Job
from ipadapter_demo.compare.text import csv_cell
from ipadapter_demo.evaluation.attribute_classifier import (
    COUNTED,
    load_attribute_classifier,
)
from ipadapter_demo.evaluation.similarity import Clip, NamedClip, Similarity
from ipadapter_demo.imaging import read_image
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.pipeline import ImagePromptPipeline

MEASURES = ("clip_i", "clip_t", "attributes")


@dataclass(frozen=True, slots=True)
class Score:
    """None where a cell has no reference, no prompt, or a model no such encoder."""

    cell: Cell
    clip_i: float | None
    clip_t: float | None
    attributes: float | None


def scores(job: Job, clip: Path | None = None) -> list[Score]:
    """Of every finished cell, by the CLIP model in the folder `clip`, or else the model's own."""
    found = []
    for model in dict.fromkeys(cell.model for cell in job.finished()):
        cells = [cell for cell in job.finished() if cell.model == model]
        images = [read_image(job.path(cell)).convert("RGB") for cell in cells]
        eye = _clip(job, model, clip)
        kept = _attributes_kept(cells, images) if model == TABLETOP.name else [None] * len(cells)
        shown = [picture for cell in cells if (picture := _reference(cell)) is not None]
        seen = eye.of_images([*images, *shown])
        own, theirs = seen[: len(cells)], seen[len(cells) :]
        found += [
            Score(*row)
            for row in zip(
                cells, _clip_i(cells, own, theirs), _clip_t(eye, cells, own), kept, strict=True
            )
        ]
    order = {cell.name: number for number, cell in enumerate(job.plan.grid.cells)}
    return sorted(found, key=lambda score: order[score.cell.name])


def by_row(found: Sequence[Score]) -> list[tuple[Cell, dict[str, tuple[float, float]]]]:
    """A row's first cell, and measure -> mean and standard deviation over the row's cells."""
    rows: dict[tuple[int, int], list[Score]] = {}
    for score in found:
        rows.setdefault((score.cell.page, score.cell.row), []).append(score)
    return [
        (row[0].cell, {name: _spread(known) for name in MEASURES if (known := _known(row, name))})
        for row in rows.values()
    ]


def scores_csv(job: Job, found: Sequence[Score]) -> str:
    """A line for each cell, then the means and standard deviations of the rows."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["cell", "page", "row", "column", "seed", *MEASURES])
    for score in found:
        places = map(csv_cell, job.plan.grid.heads(score.cell))
        table.writerow(
            [
                score.cell.name,
                *places,
                score.cell.request.seed,
                *(_number(getattr(score, name)) for name in MEASURES),
            ]
        )
    for cell, spread in by_row(found):
        page, row, _ = map(csv_cell, job.plan.grid.heads(cell))
        for which, name in enumerate(("mean of the row", "standard deviation")):
            values = [_number(spread[m][which]) if m in spread else "" for m in MEASURES]
            table.writerow([name, page, row, "", "", *values])
    return text.getvalue()


class _ModelsEye:
    """The image encoder that a model's adapter reads pictures with; it knows no words."""

    def __init__(self, pipeline: ImagePromptPipeline) -> None:
        self.of_images = pipeline.image_embeds

    def of_texts(self, texts: Sequence[str]) -> None:
        return None


def _clip(job: Job, model: str, named: Path | None) -> Clip:
    if named is not None:
        return NamedClip(named)
    if model == TABLETOP.name:
        return Similarity(TABLETOP.folder)
    return _ModelsEye(job.plan.manager.with_model(model))


def _clip_i(cells: Sequence[Cell], seen: Tensor, references: Tensor) -> list[float | None]:
    """`references` (R, K): the first of every cell that has one."""
    theirs = iter(references)
    return [
        None if _reference(cell) is None else _cosine(own, next(theirs))
        for cell, own in zip(cells, seen, strict=True)
    ]


def _clip_t(eye: Clip, cells: Sequence[Cell], seen: Tensor) -> list[float | None]:
    texts = eye.of_texts([cell.request.prompt for cell in cells])
    if texts is None:
        return [None] * len(cells)
    return [
        _cosine(own, text) if cell.request.prompt else None
        for cell, own, text in zip(cells, seen, texts, strict=True)
    ]


def _attributes_kept(cells: Sequence[Cell], images: Sequence[Image.Image]) -> list[float | None]:
    """Of each cell the share of its reference's attributes, of those COUNTED; a second solid's
    where there is one."""
    classifier = load_attribute_classifier(TABLETOP.folder / "attribute_classifier.safetensors")
    shown = [_reference(cell) for cell in cells]
    found = classifier.classify(images)
    wanted = classifier.classify(
        [image if given is None else given for given, image in zip(shown, images, strict=True)]
    )
    kept: list[float | None] = []
    for i, given in enumerate(shown):
        two = bool(wanted["count"][i] == 1)
        names = [name for name in COUNTED if two or not name.startswith("second")]
        alone = bool(found["count"][i] == 0)  # so nothing of a second solid is right
        right = [
            bool(found[name][i] == wanted[name][i]) and not (alone and name.startswith("second"))
            for name in names
        ]
        kept.append(None if given is None else mean(right))
    return kept


def _reference(cell: Cell) -> Image.Image | None:
    """The picture of the first reference that acts for something; it may be embeds."""
    for reference in cell.request.references:
        if not reference.negative and reference.weight > 0:
            return reference.image
    return None


def _known(row: Sequence[Score], name: str) -> list[float]:
    return [value for score in row if (value := getattr(score, name)) is not None]


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def _cosine(one: Tensor, other: Tensor) -> float:
    return float((one.double() * other.double()).sum())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
