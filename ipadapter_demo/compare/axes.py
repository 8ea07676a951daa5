"""The axes of a comparison: values, their combinations, and their heads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

from ipadapter_demo.compare.comparison import MAX_CELLS, MAX_HEAD, MAX_VALUES, ComparisonSpec
from ipadapter_demo.compare.spec import shortened
from ipadapter_demo.errors import RequestError
from ipadapter_demo.own_files import structure_parts
from ipadapter_demo.request import GenerateRequest

Side = Literal["pages", "rows", "columns"]
SIDES: tuple[Side, ...] = ("pages", "rows", "columns")
DRAWN_HEADS = {"no_image": "λ = 0", "text_only": "text only"}  # of cells beside the columns
HEADS = {
    "image_scale": "λ = {:g}",
    "guidance": "guidance {:g}",
    "steps": "{:g} steps",
    "clip_skip": "clip skip {:g}",
    "prompt_syntax": "prompt {}",
    "guidance_rescale": "rescale {:g}",
    "seed": "seed {:.0f}",
    "structure_weight": "structure × {:g}",
    "strength": "strength {:g}",
    "upscale_strength": "second pass {:g}",
}

Fields = dict[str, Any]  # of a request, and "model": each of its own type

OF_REFERENCES = {"image_scale", "image_window", "image_layers", "adapter", "combine", "fit"}
OF_GUIDANCE = {"negative_prompt", "negative_prompt_2", "guidance_window", "guidance_rescale"}


def axes_of_side(comparison: ComparisonSpec, side: Side) -> dict[str, list[object]]:
    """By the name of the axis, in the reader's order."""
    along = getattr(comparison, side)
    return {name: expanded(f"{side}.{name}", values) for name, values in along}


def all_axes(comparison: ComparisonSpec) -> dict[str, list[object]]:
    """The axes of all three sides. Raises RequestError for one that is on two of them."""
    found: dict[str, list[object]] = {}
    for side in SIDES:
        for name, values in axes_of_side(comparison, side).items():
            if name in found:
                raise RequestError(f"{side}.{name}: {name} is already on another side")
            found[name] = values
    return found


def expanded(field: str, values: str | Iterable[object]) -> list[object]:
    """A list as it is, and first:last:step as the numbers that it means, both ends included."""
    if not isinstance(values, str):
        return list(values)
    first, last, *more = (float(part) for part in values.split(":"))
    step = more[0] if more else 1.0
    if step <= 0 or last < first or not all(map(math.isfinite, (first, last, step))):
        raise RequestError(f"{field} must be written first:last:step, rising, got {values!r:.80}")
    intervals = (last - first) / step  # infinite where the step is tiny
    if intervals >= MAX_VALUES:
        many = f"{intervals + 1:,.0f}" if intervals < 1e12 else "far more"
        raise RequestError(f"{field} must have at most {MAX_VALUES} values, got {many}")
    count = math.floor(intervals + 1e-6) + 1
    numbers = [round(first + i * step, 10) for i in range(count)]
    return [int(n) if n.is_integer() else n for n in numbers]


def count_cells(comparison: ComparisonSpec) -> int:
    """Raises RequestError above MAX_CELLS, before anything is built."""
    drawn = sum(kind in DRAWN_HEADS for kind in comparison.beside)
    pages, rows, columns = (
        math.prod(map(len, axes_of_side(comparison, side).values())) for side in SIDES
    )
    total = pages * rows * (columns + drawn)
    if total > MAX_CELLS:
        raise RequestError(f"a comparison must have at most {MAX_CELLS} cells, got {total:,}")
    return total


def check_effect(comparison: ComparisonSpec, requests: Sequence[GenerateRequest]) -> None:
    """Raises RequestError for an axis along which all cells are drawn alike, while their heads say
    that they differ."""
    for side in SIDES:
        for name, values in axes_of_side(comparison, side).items():
            field = f"{side}.{name}"
            if len(values) < 2:
                continue
            if name in OF_REFERENCES and not any(one.references for one in requests):
                raise RequestError(f"{field} has no effect: no cell has a reference")
            if name in OF_GUIDANCE and not any(one.guidance > 1 for one in requests):
                raise RequestError(f"{field} has no effect: no cell has guidance above 1")
            if name == "structure_weight" and not any(one.structures for one in requests):
                raise RequestError(f"{field} has no effect: no cell has a structure")
            if name == "strength" and not any(one.init_image or one.inpaint for one in requests):
                raise RequestError(f"{field} has no effect: no cell begins from a picture")


def combinations(comparison: ComparisonSpec, side: Side) -> Iterator[tuple[str, Fields]]:
    """(head, value of every axis) along a side; one without a head where nothing differs."""
    along = axes_of_side(comparison, side)
    found = list(itertools.product(*along.values()))
    heads = getattr(comparison.labels, side)
    if heads is not None and len(heads) != len(found):
        raise RequestError(f"labels.{side} must be {len(found)}, one for each, got {len(heads)}")
    for number, values in enumerate(found):
        chosen = dict(zip(along, values, strict=True))
        written = ", ".join(head_of(name, value) for name, value in chosen.items())
        yield (shortened(written, MAX_HEAD) if heads is None else heads[number]), chosen


def head_of(axis: str, value: Any) -> str:  # noqa: ANN401 - of the axis' own type
    """The head of a row or column, said in the field's own terms."""
    if axis == "reference":
        return "no reference" if value is None else _stem(value)
    if axis == "face_embeds":
        return "no face" if value is None else f"face {_stem(value)}"
    if axis == "structure":
        if value is None:
            return "no structure"
        kind, annotator, name = structure_parts(value)
        return f"{annotator or kind} of {_stem(name)}"
    if axis in ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2"):
        said = value or ("no second prompt" if axis.endswith("_2") else "no prompt")
        return f"not: {said}" if axis.startswith("negative") else said
    if axis == "vae":
        return "the model's VAE" if value.strip() == "none" else f"VAE {value}"
    if axis == "loras":
        return "no LoRA" if value.strip() == "none" else str(value)
    if axis in ("guidance_window", "image_window"):
        acts = "guided" if axis == "guidance_window" else "image"
        return "{} from {:g} to {:g}".format(acts, *value)
    if axis == "image_layers" and not isinstance(value, str):
        return "layers " + " ".join(f"{factor:g}" for factor in value)
    return HEADS.get(axis, "{}").format(value)


def _stem(name: str) -> str:
    return shortened(PurePosixPath(name.replace("\\", "/")).stem)
