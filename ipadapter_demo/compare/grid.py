"""From a spec to cells: one request each, its place, and what stands at the head of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any, Literal

from ipadapter_demo.compare.spec import (
    Document,
    Spec,
    axes,
    schema,
    shortened,
    with_files_named,
)
from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline import ModelInfo, effective_request
from ipadapter_demo.request import (
    GenerateRequest,
    Inpaint,
    Reference,
    Structure,
    structure_parts,
)

MAX_CELLS = 400
MAX_HEAD = 500  # characters, as in spec.schema.json

Side = Literal["pages", "rows", "columns"]
SIDES: tuple[Side, ...] = ("pages", "rows", "columns")
# In this order axes act on the shared request: what comes later changes what is there by then.
ORDER = (
    "model",
    "reference",
    "structure",
    "prompt",
    "negative_prompt",
    "image_scale",
    "image_layers",
    "adapter",
    "combine",
    "guidance",
    "guidance_rescale",
    "steps",
    "sampler",
    "seed",
    "fit",
    "structure_weight",
    "method",
)
GIVEN = ("reference", "structure")  # their heads as well
DRAWN_HEADS = {"no_image": "λ = 0", "text_only": "text only"}

Fields = dict[str, Any]  # of a request, and "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A picture to draw. `planned` is what will run, `effective_request`; `redrawn` is the seed
    that takes the place of its own."""

    page: int  # from 1, as row and column
    row: int
    column: int
    model: str
    planned: GenerateRequest
    redrawn: int | None = None

    @property
    def name(self) -> str:
        return f"p{self.page}-r{self.row}-c{self.column}"

    @property
    def request(self) -> GenerateRequest:
        return self.planned if self.redrawn is None else replace(self.planned, seed=self.redrawn)


@dataclass(frozen=True, slots=True)
class Given:
    """A picture that is shown beside the cells of `request`, not drawn: its reference or map."""

    name: str
    kind: Literal["reference", "structure"]
    model: str
    request: GenerateRequest


@dataclass(frozen=True, slots=True)
class Page:
    """panels[row][column] under their heads; None where there is nothing to show."""

    label: str
    row_heads: tuple[str, ...]
    column_heads: tuple[str, ...]
    panels: tuple[tuple[Cell | Given | None, ...], ...]

    @property
    def cells(self) -> list[Cell]:
        return [panel for row in self.panels for panel in row if isinstance(panel, Cell)]


@dataclass(frozen=True, slots=True)
class Grid:
    pages: tuple[Page, ...]

    @property
    def cells(self) -> list[Cell]:
        return [cell for page in self.pages for cell in page.cells]

    def heads(self, cell: Cell) -> tuple[str, str, str]:
        """What stands at the head of a cell's page, row and column."""
        page = self.pages[cell.page - 1]
        row, column = next(
            (r, c)
            for r, panels in enumerate(page.panels)
            for c, panel in enumerate(panels)
            if panel is cell
        )
        return page.label, page.row_heads[row], page.column_heads[column]


def completed(spec: Spec, info: ModelInfo) -> Spec:
    """The same comparison with everything said: the model, what it recommends, the heads, and
    files by their content. Equal comparisons are equal documents, wherever they come from."""
    document, files = spec.document, {}
    count_cells(document)  # before anything is written out that many times
    differs, given = axes_of(document), document.get("request", {})
    recommended: Fields = {"seed": 0} | info.recommended.fields_beside(
        {
            "prompt": any([*differs.get("prompt", ()), given.get("prompt", "")]),
            "structures": any([*differs.get("structure", ()), *given.get("structures", ())]),
            "inpaint": given.get("inpaint"),
        }
    )
    labels = {side: [head for head, _ in _values(document, side)] for side in SIDES}

    def by_content(name: str) -> str:
        suffix = PurePosixPath(name).suffix.lower()
        known = suffix if suffix in (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp") else ""
        place = f"inputs/{sha256(spec.files[name]).hexdigest()[:16]}{known}"
        files[place] = spec.files[name]
        return place

    document = with_files_named(document, by_content)
    document = {"title": "", "model": info.name, **document, "schema": 1, "labels": labels}
    document["request"] = recommended | document.get("request", {})
    if "inpaint" in document["request"]:
        document["request"]["inpaint"] = (
            info.recommended.inpainting | document["request"]["inpaint"]
        )
    return Spec(_in_order(document, schema("spec")["properties"]), files)


def _in_order(document: Document, known: Document) -> Document:
    """As the schema lists the fields; the order of axes is the reader's, and stays."""
    return {
        name: _in_order(document[name], part.get("properties", {}))
        if name in ("request", "figure")
        else document[name]
        for name, part in known.items()
        if name in document
    }


def axes_of(document: Document) -> dict[str, list[Any]]:
    """The axes of all three sides. Raises RequestError for one that is on two of them."""
    found: dict[str, list[Any]] = {}
    for side in SIDES:
        for name, values in axes(document, side).items():
            if name in found:
                raise RequestError(f"{side}.{name}: {name} is already on another side")
            found[name] = values
    return found


def count_cells(document: Document) -> int:
    """Raises RequestError above MAX_CELLS, before anything is built."""
    drawn = sum(kind in DRAWN_HEADS for kind in document.get("beside", ()))
    rows = math.prod(len(v) for side in ("pages", "rows") for v in axes(document, side).values())
    columns = math.prod(map(len, axes(document, "columns").values()))
    total = rows * (columns + drawn)
    if total > MAX_CELLS:
        raise RequestError(f"a comparison must have at most {MAX_CELLS} cells, got {total:,}")
    return total


def grid_from_spec(spec: Spec, info: ModelInfo) -> Grid:
    """Every cell of a `completed` spec built, and so every value checked. Raises RequestError."""
    build = _Builder(spec, info)
    sides = [list(_values(spec.document, side)) for side in SIDES]
    grid = Grid(
        tuple(
            build.page(number, head, chosen, sides[1], sides[2])
            for number, (head, chosen) in enumerate(sides[0], 1)
        )
    )
    if unknown := set(build.redrawn) - {cell.name for cell in grid.cells}:
        raise RequestError(f"redraw: there is no cell {', '.join(sorted(unknown)):.80}")
    return grid


class _Builder:
    def __init__(self, spec: Spec, info: ModelInfo) -> None:
        self.spec, self.info = spec, info
        self.pictures: dict[str, Any] = {}
        self.beside = spec.document.get("beside", [])
        self.redrawn: dict[str, int] = spec.document.get("redraw", {})
        self.shared = self._shared(spec.document)
        self.samplers_differ = "sampler" in axes_of(spec.document)
        columns = axes(spec.document, "columns")
        # what differs from column to column is shown above them, all else to their left
        self.above = [k for k in GIVEN if k in self.beside and k in columns]
        self.left = [k for k in GIVEN if k in self.beside and k not in columns]

    def page(
        self,
        number: int,
        head: str,
        chosen: Fields,
        rows: list[tuple[str, Fields]],
        columns: list[tuple[str, Fields]],
    ) -> Page:
        extra = [kind for kind in DRAWN_HEADS if kind in self.beside]
        blank = [None] * len(self.left)
        panels: list[tuple[Cell | Given | None, ...]] = []
        for kind in self.above:
            firsts = [self.fields(chosen | rows[0][1] | values) for _, values in columns]
            given = [self._given(f"p{number}-c{c}", kind, f) for c, f in enumerate(firsts, 1)]
            panels.append((*blank, *[None] * len(extra), *given))
        for r, (_, row) in enumerate(rows, 1):
            alone = self.fields(chosen | row)
            drawn = [self._without(kind, alone) for kind in extra]
            drawn += [self.fields(chosen | row | values) for _, values in columns]
            panels.append(
                (
                    *(self._given(f"p{number}-r{r}", kind, drawn[-1]) for kind in self.left),
                    *(self._cell(number, r, c, f) for c, f in enumerate(drawn, 1)),
                )
            )
        return Page(
            head,
            (*self.above, *(head for head, _ in rows)),
            (*self.left, *(DRAWN_HEADS[k] for k in extra), *(head for head, _ in columns)),
            tuple(panels),
        )

    def fields(self, chosen: Fields) -> Fields:
        fields = dict(self.shared)
        for name in sorted(chosen, key=ORDER.index):
            self._apply(fields, name, chosen[name])
        return fields

    def _apply(self, fields: Fields, name: str, value: Any) -> None:
        references, structures = fields["references"], fields["structures"]
        if name == "reference" and value is None:
            fields["references"] = ()
        elif name == "reference":
            image = self._picture(value)
            first = replace(references[0], image=image) if references else Reference(image=image)
            fields["references"] = (first, *references[1:])
        elif name == "structure":
            fields["structures"] = () if value is None else (self._structure(value),)
        elif name == "fit":
            fields["references"] = tuple(replace(r, fit=value) for r in references)
        elif name == "structure_weight":
            fields["structures"] = tuple(replace(s, weight=value) for s in structures)
        elif name == "method":
            self._by_method(fields, value)
        else:
            fields[name] = value

    def _by_method(self, fields: Fields, method: str) -> None:
        if method == "image only":
            fields["prompt"] = ""
        elif method == "text only":
            fields["image_scale"] = 0.0
        elif method == "image to image":
            if not fields["references"]:
                raise RequestError("method: image to image needs a reference to begin from")
            fields |= {"init_image": fields["references"][0].image, "image_scale": 0.0}

    def _without(self, kind: str, fields: Fields) -> Fields:
        silent = fields | {"image_scale": 0.0}
        return silent if kind == "no_image" else silent | {"structures": ()}

    def _cell(self, page: int, row: int, column: int, fields: Fields) -> Cell:
        values = dict(fields)
        model = values.pop("model")
        name = f"p{page}-r{row}-c{column}"
        asked = _request(name, values)
        drawn = effective_request(asked)
        if drawn.sampler != asked.sampler and self.samplers_differ:
            raise RequestError(
                f"cell {name}: sampler {asked.sampler} cannot be compared while "
                f"inpaint.repaint_passes is {values['inpaint'].repaint_passes}: every cell would "
                f"be drawn by {drawn.sampler}; set inpaint.repaint_passes to 1"
            )
        place = Cell(page=page, row=row, column=column, model=model, planned=drawn)
        seed = self.redrawn.get(place.name)
        if seed is not None:
            _request(f"{place.name} drawn again", values | {"seed": seed})  # is it one?
        return place if seed is None else replace(place, redrawn=seed)

    def _given(self, place: str, kind: Any, fields: Fields) -> Given | None:
        if not fields["references" if kind == "reference" else "structures"]:
            return None
        values = dict(fields)
        model = values.pop("model")
        return Given(f"{place}-{kind}", kind, model, _request(place, values))

    def _shared(self, document: Document) -> Fields:
        fields: Fields = {"model": document["model"], "references": (), "structures": ()}
        given = dict(document["request"])
        if "references" in given:
            fields["references"] = tuple(
                Reference(
                    **r
                    | {"image": self._picture(r["image"])}
                    | ({"mask": self.spec.mask(r["mask"])} if "mask" in r else {})
                )
                for r in given.pop("references")
            )
        if "structures" in given:
            fields["structures"] = tuple(
                Structure(**self._detected(s) | {"image": self._picture(s["image"])})
                for s in given.pop("structures")
            )
        if "inpaint" in given:
            inpaint = given.pop("inpaint")
            fields["inpaint"] = Inpaint(
                **inpaint
                | {
                    "image": self.spec.whole_picture(inpaint["image"]),
                    "mask": self.spec.mask(inpaint["mask"]),
                }
            )
        if "init_image" in given:
            fields["init_image"] = self._picture(given.pop("init_image"))
        return fields | given

    def _structure(self, value: str) -> Structure:
        kind, annotator, name = structure_parts(value)
        how = {"kind": kind} | ({} if annotator is None else {"annotator": annotator})
        return Structure(image=self._picture(name), **self._detected(how))

    def _detected(self, values: Fields) -> Fields:
        """With the first detector that the model offers for the kind, where none is named."""
        return {"annotator": self.info.usual_annotator(values["kind"])} | values

    def _picture(self, name: str) -> Any:
        if name not in self.pictures:
            self.pictures[name] = self.spec.picture(name)
        return self.pictures[name]


def _request(cell: str, values: Fields) -> GenerateRequest:
    try:
        return GenerateRequest(**values)
    except RequestError as error:
        raise RequestError(f"cell {cell}: {error}") from error


def _values(document: Document, side: Side) -> Iterator[tuple[str, Fields]]:
    """(head, value of every axis) along a side; one without a head where nothing differs."""
    along = axes(document, side)
    combinations = list(itertools.product(*along.values()))
    heads = document.get("labels", {}).get(side)
    if heads is not None and len(heads) != len(combinations):
        raise RequestError(
            f"labels.{side} must be {len(combinations)}, one for each, got {len(heads)}"
        )
    for number, values in enumerate(combinations):
        chosen = dict(zip(along, values, strict=True))
        written = ", ".join(head_of(name, value) for name, value in chosen.items())
        yield (shortened(written, MAX_HEAD) if heads is None else heads[number]), chosen


def head_of(axis: str, value: Any) -> str:
    """What stands at the head of a row or column, said in the field's own terms."""
    if axis == "reference":
        return "no reference" if value is None else _stem(value)
    if axis == "structure":
        if value is None:
            return "no structure"
        kind, annotator, name = structure_parts(value)
        return f"{annotator or kind} of {_stem(name)}"
    if axis in ("prompt", "negative_prompt"):
        said = value or "no prompt"
        return said if axis == "prompt" else f"not: {said}"
    if axis == "image_layers" and not isinstance(value, str):
        return "layers " + " ".join(f"{factor:g}" for factor in value)
    patterns = {
        "image_scale": "λ = {:g}",
        "guidance": "guidance {:g}",
        "steps": "{:g} steps",
        "guidance_rescale": "rescale {:g}",
        "seed": "seed {:.0f}",
        "structure_weight": "structure × {:g}",
    }
    return patterns.get(axis, "{}").format(value)


def _stem(name: str) -> str:
    return shortened(PurePosixPath(name.replace("\\", "/")).stem)
