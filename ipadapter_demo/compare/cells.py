"""From a completed spec to its grid: a request for every cell, built and so checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from PIL import Image

from ipadapter_demo.compare.axes import (
    DRAWN_HEADS,
    SIDES,
    Fields,
    all_axes,
    combinations,
)
from ipadapter_demo.compare.comparison import (
    ComparisonSpec,
    SharedReference,
    SharedStructure,
)
from ipadapter_demo.compare.grid import Cell, Given, Grid, Page
from ipadapter_demo.compare.spec import Spec
from ipadapter_demo.embeds import is_embeds
from ipadapter_demo.errors import RequestError
from ipadapter_demo.imaging import flatten_image
from ipadapter_demo.lora import loras_from_text, loras_from_texts
from ipadapter_demo.own_files import structure_parts
from ipadapter_demo.pipeline import ModelInfo, effective_request
from ipadapter_demo.request import GenerateRequest, Inpaint, Reference, Structure
from ipadapter_demo.upscale import Upscale

# In this order axes act on the shared request: what comes later changes what is there by then.
ORDER = (
    "model",
    "reference",
    "face_embeds",
    "structure",
    "prompt",
    "negative_prompt",
    "prompt_2",
    "negative_prompt_2",
    "prompt_syntax",
    "clip_skip",
    "image_scale",
    "image_window",
    "image_layers",
    "adapter",
    "loras",
    "vae",
    "combine",
    "guidance",
    "guidance_window",
    "guidance_rescale",
    "steps",
    "sampler",
    "noise_schedule",
    "seed",
    "fit",
    "structure_weight",
    "strength",
    "upscale_strength",
    "method",
)
GIVEN: tuple[Literal["reference", "structure"], ...] = ("reference", "structure")  # heads as well


def grid_from_spec(spec: Spec, info: ModelInfo) -> Grid:
    """Every cell of a `completed` spec built, and so every value checked. Raises RequestError."""
    build = _Builder(spec, info)
    sides = [list(combinations(spec.comparison, side)) for side in SIDES]
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
        self.pictures: dict[str, Image.Image] = {}
        self.made: dict[tuple[object, ...], tuple[Reference | None, Reference]] = {}
        self.beside, self.redrawn = spec.comparison.beside, spec.comparison.redraw
        self.shared = self._shared(spec.comparison)
        self.differing = set(all_axes(spec.comparison)) & {"sampler", "noise_schedule"}
        columns = dict(spec.comparison.columns)
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

    def _apply(self, fields: Fields, name: str, value: Any) -> None:  # noqa: ANN401 - as in Fields
        references, structures = fields["references"], fields["structures"]
        if name == "reference" and value is None:
            fields["references"] = ()
        elif name == "reference":
            before = references[0] if references else None
            fields["references"] = (self._reference(before, image=value), *references[1:])
        elif name == "face_embeds":
            if not references:
                raise RequestError("face_embeds needs a reference: name its picture")
            fields["references"] = (self._reference(references[0], face=value), *references[1:])
        elif name == "structure":
            fields["structures"] = () if value is None else (self._structure(value),)
        elif name == "fit":
            fields["references"] = tuple(self._reference(r, fit=value) for r in references)
        elif name == "structure_weight":
            fields["structures"] = tuple(replace(s, weight=value) for s in structures)
        elif name == "strength" and fields.get("inpaint") is not None:
            fields["inpaint"] = replace(fields["inpaint"], strength=value)
        elif name == "upscale_strength":
            fields["upscale"] = replace(fields.get("upscale") or Upscale(), strength=value)
        elif name == "vae":
            fields["vae"] = None if value.strip() == "none" else value
        elif name == "loras":
            fields["loras"] = loras_from_text(value)
        elif name == "method":
            self._by_method(fields, value)
        else:
            fields[name] = value

    def _by_method(self, fields: Fields, method: str) -> None:
        if method == "image only":
            fields |= {"prompt": "", "prompt_2": ""}
        elif method == "text only":
            fields["image_scale"] = 0.0
        elif method == "image to image":
            if not fields["references"]:
                raise RequestError("method: image to image needs a reference to begin from")
            fields |= {"init_image": fields["references"][0].picture, "image_scale": 0.0}

    def _without(self, kind: str, fields: Fields) -> Fields:
        silent = fields | {"image_scale": 0.0}
        return silent if kind == "no_image" else silent | {"structures": ()}

    def _cell(self, page: int, row: int, column: int, fields: Fields) -> Cell:
        values = dict(fields)
        model = values.pop("model")
        name = f"p{page}-r{row}-c{column}"
        asked = _request(name, values)
        drawn = effective_request(asked)
        for axis in sorted(self.differing):
            if getattr(drawn, axis) != (wanted := getattr(asked, axis)):
                raise RequestError(
                    f"cell {name}: {axis} {wanted} cannot be compared while "
                    f"inpaint.repaint_passes is {values['inpaint'].repaint_passes}: every cell "
                    f"would be drawn by {drawn.sampler}; set inpaint.repaint_passes to 1"
                )
        place = Cell(page=page, row=row, column=column, model=model, planned=drawn)
        seed = self.redrawn.get(place.name)
        if seed is not None:
            _request(f"{place.name} drawn again", values | {"seed": seed})  # is it one?
        return place if seed is None else replace(place, redrawn=seed)

    def _given(
        self, place: str, kind: Literal["reference", "structure"], fields: Fields
    ) -> Given | None:
        shown = fields["references" if kind == "reference" else "structures"]
        if not shown or shown[0].image is None:  # embeds show nothing
            return None
        values = dict(fields)
        model = values.pop("model")
        return Given(f"{place}-{kind}", kind, model, _request(place, values))

    def _shared(self, comparison: ComparisonSpec) -> Fields:
        given = comparison.request
        fields: Fields = {"model": comparison.model} | given.given()
        fields["references"] = tuple(
            Reference(**self._read(r) | self._seen(r.image) | self._face(r))
            for r in given.references
        )
        fields["structures"] = tuple(
            Structure(**self._detected(self._read(s))) for s in given.structures
        )
        if given.loras is not None:
            fields["loras"] = loras_from_texts(given.loras)
        if given.upscale is not None:
            fields["upscale"] = Upscale(**given.upscale.given())
        if given.inpaint is not None:
            whole = {
                "image": self.spec.whole_picture(given.inpaint.image),
                "mask": self.spec.whole_mask(given.inpaint.mask),
            }
            fields["inpaint"] = Inpaint(**given.inpaint.given() | whole)
        if given.init_image is not None:
            fields["init_image"] = self._picture(given.init_image)
        return fields

    def _read(self, part: SharedReference | SharedStructure) -> Fields:
        """The fields of a part that are set, with pictures in place of the names of files."""
        fields = part.given()
        for name in ("mask", "clip_mask"):
            if name in fields:
                fields[name] = self.spec.mask(fields[name])
        fields.pop("face_embeds", None)
        return fields | ({} if is_embeds(part.image) else {"image": self._picture(part.image)})

    def _seen(self, name: str) -> Fields:
        """The picture of a reference, or embeds in its place."""
        if is_embeds(name):
            return {"image": None, "embeds": self.spec.embeds(name)}
        return {"image": self._picture(name), "embeds": None}

    def _face(self, part: SharedReference) -> Fields:
        """The embeds of a face beside the picture of a reference."""
        if part.face_embeds is None:
            return {}
        if is_embeds(part.image):
            raise RequestError("references.face_embeds needs a picture as image, got embeds")
        return {"embeds": self.spec.embeds(part.face_embeds)}

    def _reference(self, before: Reference | None, **changed: Any) -> Reference:
        """`before` with another picture, by its file, or another fit: each made once, as there may
        be hundreds of cells."""
        key = (id(before), *changed.items())
        if key not in self.made:
            values = changed
            if "image" in changed:
                values = self._seen(changed["image"])
                beside = before is not None and before.image is not None and values["image"]
                if beside:  # a face's stay with the next picture
                    values.pop("embeds")
            elif "face" in changed:
                name = changed["face"]
                values = {"embeds": None if name is None else self.spec.embeds(name)}
            made = Reference(**values) if before is None else replace(before, **values)
            self.made[key] = before, made  # both, so that the first one's id is not another's
        return self.made[key][1]

    def _structure(self, value: str) -> Structure:
        kind, annotator, name = structure_parts(value)
        how = {"kind": kind} | ({} if annotator is None else {"annotator": annotator})
        return Structure(image=self._picture(name), **self._detected(how))

    def _detected(self, values: Fields) -> Fields:
        """With the first detector that the model offers for the kind, where none is named."""
        return {"annotator": self.info.usual_annotator(values["kind"])} | values

    def _picture(self, name: str) -> Image.Image:
        if name not in self.pictures:
            self.pictures[name] = flatten_image(self.spec.picture(name))  # a flat one is shared
        return self.pictures[name]


def _request(cell: str, values: Fields) -> GenerateRequest:
    try:
        return GenerateRequest(**values)
    except RequestError as error:
        raise RequestError(f"cell {cell}: {error}") from error
