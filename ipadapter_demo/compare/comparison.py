"""The type of a comparison: what a spec may say, as JSON or YAML.

Files are named; `checked(document, ComparisonSpec, "spec", rename)` puts `rename(name)` in place of
every name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from ipadapter_demo.compare.schema import RANGE, CellName, Part
from ipadapter_demo.errors import RequestError
from ipadapter_demo.lora import MAX_LORAS
from ipadapter_demo.own_files import structure_parts

MAX_CELLS = 400
MAX_VALUES = 100  # along one axis
MAX_HEAD = 500  # characters


def _file_named(name: str, info: ValidationInfo) -> str:
    if PurePosixPath(name.replace("\\", "/")).name in ("", "..") or min(name) < " ":
        raise RequestError(f"spec: {name!r:.80} is not the name of a file")
    return info.context(name) if info.context else name


def _map_named(text: str, info: ValidationInfo) -> str:
    if not info.context:
        return text
    name = structure_parts(text)[2]
    return text.removesuffix(name) + _file_named(name, info)


Number = int | float  # as it is written: 3 stays 3
File = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_file_named)]
MapOfFile = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_map_named)]
Window = tuple[Number, Number]
Layers = Annotated[str, Field(max_length=20)] | Annotated[tuple[Number, ...], Field(max_length=200)]
_SOME = Field(min_length=1, max_length=MAX_VALUES)
Texts = Annotated[tuple[str, ...], _SOME]
Range = Annotated[
    str,
    Field(pattern=RANGE, description="first:last:step, both ends included; without a step, 1."),
]
Numbers = Range | Annotated[tuple[Number, ...], _SOME]
Labels = Annotated[
    tuple[Annotated[str, Field(max_length=MAX_HEAD)], ...], Field(max_length=MAX_VALUES)
]
Method = Literal["as it is", "image only", "text only", "image to image"]
_FRACTION, _INCHES = Field(ge=0, le=1), Field(ge=1, le=20)
Fraction = Annotated[int, _FRACTION] | Annotated[float, _FRACTION]
Inches = Annotated[int, _INCHES] | Annotated[float, _INCHES]


class SharedReference(Part):
    image: File
    """A picture, or a .safetensors file of image embeds."""
    weight: Number | None = None
    fit: str | None = None
    clip_mask: File | None = None
    noise: Number | None = None
    face: int | None = None
    face_embeds: File | None = None
    """A .safetensors file of a face's embeds, beside the picture."""
    adapter: str | None = None
    layers: Layers | None = None
    mask: File | None = None
    negative: bool | None = None
    window: Window | None = None


class SharedStructure(Part):
    kind: str
    image: File
    annotator: str | None = None
    weight: Number | None = None
    fit: str | None = None
    window: Window | None = None


class SharedInpaint(Part):
    image: File
    mask: File
    strength: Number | None = None
    feather: int | None = None
    repaint_passes: int | None = None
    context: Number | None = None
    background_weight: Number | None = None


class SharedUpscale(Part):
    factor: Number | None = None
    strength: Number | None = None
    enlarge: str | None = None


class SharedRequest(Part):
    prompt: str = ""
    negative_prompt: str = ""
    prompt_2: str = ""
    negative_prompt_2: str = ""
    prompt_syntax: str | None = None
    clip_skip: int | None = None
    references: Annotated[tuple[SharedReference, ...], Field(max_length=8)] = ()
    image_scale: Number | None = None
    image_window: Window | None = None
    image_layers: Layers | None = None
    combine: str | None = None
    adapter: str | None = None
    loras: Annotated[tuple[str, ...], Field(max_length=MAX_LORAS)] | None = None
    vae: str | None = None
    guidance: Number | None = None
    guidance_window: Window | None = None
    guidance_rescale: Number | None = None
    steps: int | None = None
    sampler: str | None = None
    noise_schedule: str | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    structures: Annotated[tuple[SharedStructure, ...], Field(max_length=8)] = ()
    inpaint: SharedInpaint | None = None
    init_image: File | None = None
    strength: Number | None = None
    upscale: SharedUpscale | None = None


class Axes(Part):
    """Fields that differ, and their values; of several, every combination."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    model: Texts | None = None
    adapter: Texts | None = None
    reference: Annotated[tuple[File | None, ...], _SOME] | None = None
    face_embeds: Annotated[tuple[File | None, ...], _SOME] | None = None
    """Of the first reference, beside its picture; null for none."""
    fit: Texts | None = None
    combine: Texts | None = None
    structure: Annotated[tuple[MapOfFile | None, ...], _SOME] | None = None
    """KIND=FILE or KIND:ANNOTATOR=FILE; null for none."""
    structure_weight: Numbers | None = None
    prompt: Texts | None = None
    negative_prompt: Texts | None = None
    prompt_2: Texts | None = None
    negative_prompt_2: Texts | None = None
    prompt_syntax: Texts | None = None
    clip_skip: Numbers | None = None
    image_scale: Numbers | None = None
    image_window: Annotated[tuple[Window, ...], _SOME] | None = None
    image_layers: Annotated[tuple[Layers, ...], _SOME] | None = None
    guidance: Numbers | None = None
    guidance_window: Annotated[tuple[Window, ...], _SOME] | None = None
    guidance_rescale: Numbers | None = None
    steps: Numbers | None = None
    sampler: Texts | None = None
    noise_schedule: Texts | None = None
    seed: Numbers | None = None
    strength: Numbers | None = None
    """Of the picture that is started from, or of what is inpainted."""
    upscale_strength: Numbers | None = None
    """Of the second pass, which there is then."""
    loras: Texts | None = None
    """Names, with a weight as style:0.7, several of them with commas; none for no LoRA."""
    vae: Texts | None = None
    """Names of those in the folder of models; none for the model's own."""
    method: Annotated[tuple[Method, ...], _SOME] | None = None
    """The request as it is; without its words; without its pictures; begun from the reference's
    pixels instead of reading it."""
    _order: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="wrap")
    @classmethod
    def _ordered(cls, values: object, handler: ModelWrapValidatorHandler[Axes]) -> Axes:
        axes = handler(values)
        axes._order = tuple(values) if isinstance(values, dict) else axes._order
        return axes

    @model_serializer
    def _written(self) -> dict[str, Any]:
        return dict(self)

    def __iter__(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
        """(axis, values as they are written), in the reader's order."""
        yield from ((name, getattr(self, name)) for name in self._order)


class Heads(Part):
    """In place of the heads that are written from the values, one for each."""

    pages: Labels | None = None
    rows: Labels | None = None
    columns: Labels | None = None


class Figure(Part):
    width: Literal["single", "double"] | Inches = "double"
    """A column of a paper, both, or inches."""
    dpi: Annotated[int, Field(ge=72, le=600)] = 300
    zoom: tuple[Fraction, Fraction, Fraction, Fraction] | None = None
    """The part of every cell that is shown larger in its corner: left, top, width and height, in
    fractions."""


class ComparisonSpec(Part):
    """Rows, columns and pages of pictures that differ in what is named here and in nothing else."""

    model_config = ConfigDict(title="A comparison")

    version: Literal[1] = Field(1, alias="schema")
    title: Annotated[str, Field(max_length=500)] = ""
    """For the caption."""
    model: Annotated[str, Field(max_length=100)] | None = None
    """Of the catalogue; without it, the one that is loaded."""
    request: SharedRequest = SharedRequest()
    """The settings that all cells share: the fields of a request, its pictures by file name. What
    is not given is the model's recommendation."""
    columns: Axes
    rows: Axes = Axes()
    pages: Axes = Axes()
    beside: Annotated[
        tuple[Literal["reference", "structure", "no_image", "text_only"], ...],
        Field(json_schema_extra={"uniqueItems": True}),
    ] = ()
    """Further columns: the reference, the map of the structure, the same at λ = 0, the text
    alone."""
    labels: Heads = Heads()
    redraw: Annotated[
        dict[CellName, int],
        Field(max_length=MAX_CELLS, json_schema_extra={"additionalProperties": False}),
    ] = Field({})
    """Cells drawn from another seed than the rest, by name, as p1-r2-c3."""
    figure: Figure = Figure()
