"""Comparisons: what a spec means, what is drawn, what is left after a stop, what is published."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pypdf import PdfReader
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
)

from ipadapter_demo.compare import (
    Bundle,
    ComparisonWarning,
    Done,
    Failed,
    Job,
    Pace,
    Plan,
    Spec,
    draw_comparison,
    scores,
    spec_from_document,
    spec_from_file,
    spec_from_manifest,
    spec_from_text,
    write_bundle,
)
from ipadapter_demo.compare.axes import count_cells, expanded, head_of
from ipadapter_demo.compare.comparison import ComparisonSpec
from ipadapter_demo.compare.complete import completed
from ipadapter_demo.compare.figure import _show
from ipadapter_demo.compare.grid import Cell, Given
from ipadapter_demo.compare.latex import caption
from ipadapter_demo.compare.manifest import Manifest, manifest_text
from ipadapter_demo.compare.schema import Part, json_schema
from ipadapter_demo.compare.scores import _attributes_kept, by_row, scores_csv
from ipadapter_demo.compare.strip import SCALES, filmstrip
from ipadapter_demo.compare.text import csv_cell, latex, listed, printable, text_width, wrapped
from ipadapter_demo.compare.votes import Share, ballot, shares, votes_csv
from ipadapter_demo.errors import ModelError, RequestError
from ipadapter_demo.evaluation.attribute_classifier import (
    CLASSIFIER_SIZE,
    COUNTED,
    load_attribute_classifier,
)
from ipadapter_demo.lora import texts_from_loras
from ipadapter_demo.models.catalog import TABLETOP, CatalogEntry, LoraEntry
from ipadapter_demo.models.few_step import FewStep
from ipadapter_demo.models.sources import Hub
from ipadapter_demo.pipeline import (
    ImagePromptPipeline,
    Result,
    effective_request,
    load,
    prepare,
)
from ipadapter_demo.record import record_from_png
from ipadapter_demo.request import SAMPLERS, GenerateRequest, Inpaint, Reference, Structure
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.tabletop.files import pictures_of as rendered
from ipadapter_demo.tabletop.scene import sample_scenes
from ipadapter_demo.upscale import Upscale
from tests.tiny import box_mask, picture

HOSTILE = [
    "<script>alert(1)</script>",
    r"\input{/etc/passwd} $x^2$ 50% #1_~",
    "../../x",
    "λ " * 250,
    "😀🎉 party",
    "שלום مرحبا",
    "=1+1",
    "\x00\u202e a\nb",
]


def files(*names: str) -> Callable[[str], bytes]:
    """A picture for every name, another for each."""

    def read(name: str) -> bytes:
        assert name in names, name
        content = io.BytesIO()
        picture(names.index(name)).save(content, "PNG")
        return content.getvalue()

    return read


def spec(document: dict[str, Any]) -> Spec:
    return spec_from_document(document, files("a.png", "b.png", "c.png", "m.png"))


SMALL: dict[str, Any] = {
    "title": "Two references",
    "request": {"steps": 2, "guidance": 3.0, "prompt": "a cube"},
    "rows": {"reference": ["a.png", "b.png"]},
    "columns": {"image_scale": "0.5:1:0.5"},
    "beside": ["reference", "no_image"],
}


@pytest.fixture
def manager(entry: CatalogEntry, pipeline: ImagePromptPipeline) -> ModelManager:
    """With a second model, the same under another name."""
    return ModelManager(
        pipeline, lambda name, report: prepare(replace(entry, name=name)), {"other": "other"}
    )


def plan(document: dict[str, Any], manager: ModelManager) -> Plan:
    return Plan(spec(document), manager)


def drawn(plan: Plan, folder: Path) -> Job:
    job = Job(plan, folder)
    job.save_given()
    for event in job.run():
        assert isinstance(event, Done), event
    return job


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def test_masks_of_references_are_shrunk_as_their_pictures_are(manager: ModelManager) -> None:
    """What is inpainted keeps every pixel, and its mask with it."""
    large = {"a.png": picture(1, 1500, 1200), "m.png": box_mask((0, 0, 750, 600), 1500, 1200)}

    def read(name: str) -> bytes:
        content = io.BytesIO()
        large[name].save(content, "PNG")
        return content.getvalue()

    reference = {"image": "a.png", "mask": "m.png", "clip_mask": "m.png"}
    painted = {"image": "a.png", "mask": "m.png"}
    document = {"columns": {"seed": [1]}, "request": {"references": [reference]}}
    asked = [document, document | {"request": {"references": [reference], "inpaint": painted}}]
    for one in asked:
        request = Plan(spec_from_document(one, read), manager).grid.cells[0].request
        [shown] = request.references
        assert shown.image is not None
        assert shown.mask is not None
        assert shown.clip_mask is not None
        assert shown.image.size == shown.mask.size == shown.clip_mask.size == (1144, 915)
        assert shown.mask.getbbox() == (0, 0, 572, 458)
    assert request.inpaint is not None
    assert request.inpaint.image.size == request.inpaint.mask.size == (1500, 1200)


def test_cells_share_their_pictures(manager: ModelManager) -> None:
    """Hundreds of cells with one picture hold it once."""
    document = SMALL | {"pages": {"fit": ["crop", "pad"]}, "columns": {"image_scale": "0:1:0.1"}}
    given = plan(document, manager)
    pictures = {
        id(reference.image) for cell in given.grid.cells for reference in cell.request.references
    }
    assert len(given.grid.cells) > 40
    assert len(pictures) == 2


@pytest.mark.parametrize(
    "request_",
    [
        {"init_image": "a.png"},
        {"inpaint": {"image": "a.png", "mask": "m.png"}},
        {"structures": [{"image": "a.png", "kind": "canny"}]},
        {"references": [{"image": "a.png", "mask": "m.png", "clip_mask": "m.png"}]},
    ],
    ids=lambda one: next(iter(one)),
)
def test_cells_share_whatever_picture_they_are_given(
    request_: dict[str, Any], manager: ModelManager
) -> None:
    [kind] = request_
    axis = {
        "init_image": {"strength": [0.5, 0.7]},
        "inpaint": {"strength": [0.5, 0.7]},
        "structures": {"structure_weight": [0.5, 0.7]},
        "references": {"fit": ["crop", "pad"]},
    }[kind]
    document = {"request": SMALL["request"] | request_, "rows": axis}
    cells = plan(document | {"columns": {"guidance": [2, 3]}}, manager).grid.cells
    found = {image_id for cell in cells for image_id in map(id, pictures_of(cell.request))}
    assert len(cells) == 4
    assert len(found) == str(request_).count(".png")


def pictures_of(part: Any) -> Iterator[Image.Image]:
    if isinstance(part, Image.Image):
        yield part
    elif isinstance(part, tuple):
        for one in part:
            yield from pictures_of(one)
    elif is_dataclass(part):
        for field in fields(part):
            yield from pictures_of(getattr(part, field.name))


class TestSpec:
    def test_yaml_and_json_say_the_same(self) -> None:
        text = """
            rows: {seed: 1:3}
            columns: {image_scale: 0:1.2:0.2, reference: [a.png, ~]}
        """
        document = {
            "rows": {"seed": "1:3"},
            "columns": {"image_scale": "0:1.2:0.2", "reference": ["a.png", None]},
        }
        read = files("a.png")
        assert spec_from_text(text, read) == spec_from_text(json.dumps(document), read)

    @pytest.mark.parametrize(
        ("text", "values"),
        [
            ("0:1.2:0.2", [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2]),
            ("1:4", [1, 2, 3, 4]),
            ("10:30:10", [10, 20, 30]),
            ("0.1:0.3:0.1", [0.1, 0.2, 0.3]),
            ("5:5", [5]),
        ],
    )
    def test_a_range_includes_both_ends(self, text: str, values: list[float]) -> None:
        assert expanded("columns.x", text) == values
        assert [type(v) for v in expanded("columns.x", text)] == [type(v) for v in values]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"columns": {"image_scale": "1:0"}},
                r"columns.image_scale must be .* rising, got '1:0'",
            ),
            ({"columns": {"image_scale": "0:1:0.001"}}, "must have at most 100 values, got 1,001"),
            ({"columns": {"sharpness": [1]}}, r"spec.columns.*'sharpness'"),
            ({"columns": {}}, r"spec.columns"),
            (
                {"rows": {"image_scale": [1]}},
                "columns.image_scale: image_scale is already on another",
            ),
            ({"rows": {"seed": "1:100"}, "pages": {"steps": [1, 2]}}, "at most 400 cells, got 600"),
            (
                {
                    "columns": {
                        n: [1] * 100
                        for n in (
                            "seed",
                            "steps",
                            "guidance",
                            "guidance_rescale",
                            "structure_weight",
                        )
                    }
                },
                "at most 400 cells, got",
            ),
            ({"request": {"prompt": 7}}, r"spec.request.prompt: 7 is not of type 'string'"),
            (
                {"request": {"image_scale": 3.0}, "columns": {"seed": [1]}},
                r"cell p1-r1: image_scale must be from 0 to 2, got 3.0",
            ),
            ({"columns": {"steps": [0]}}, r"cell p1-r1: steps must be from 1 to 200, got 0"),
            ({"labels": {"columns": ["one"]}}, "labels.columns must be 2, one for each, got 1"),
            ({"redraw": {"p9-r9-c9": 1}}, "redraw: there is no cell p9-r9-c9"),
            ({"columns": {"structure": ["a.png"]}}, "structure must be KIND=FILE"),
            ({"model": "sd99"}, "model must be one of tiny, other, got 'sd99'"),
            (
                {"columns": {"model": ["tiny", "sd99"]}},
                "model must be one of tiny, other, got 'sd99'",
            ),
            (
                {"columns": {"method": ["image to image"]}, "rows": {"seed": [1]}},
                "image to image needs a reference",
            ),
        ],
    )
    def test_what_cannot_be_drawn_is_refused_before_it_starts(
        self, manager: ModelManager, tmp_path: Path, change: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(RequestError, match=message):
            Job(plan(SMALL | change, manager), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "text",
        [
            b"\xff\xfe",
            "{",
            "a: [",
            "- 1",
            "'",
            "columns: &a [*a]",
            "!!python/object/apply:os.system [true]",
            "9" * 5000,
            '{"columns": {"prompt": ["\\ud800"]}}',
        ],
    )
    def test_what_is_no_spec_is_a_request_error(self, text: Any) -> None:
        with pytest.raises(RequestError):
            spec_from_text(text, files())

    def test_missing_files_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "spec.yaml").write_text("columns: {reference: [nowhere.png]}")
        with pytest.raises(RequestError, match=r"nowhere.png cannot be read: No such file"):
            spec_from_file(tmp_path / "spec.yaml")

    @pytest.mark.parametrize("kind", [ComparisonSpec, Manifest])
    def test_the_schemas_are_schemas(self, kind: type[Part]) -> None:
        jsonschema.Draft202012Validator.check_schema(json_schema(kind))

    def test_everything_said_once_more_is_the_same(self, manager: ModelManager) -> None:
        once = completed(spec(SMALL), manager.info)
        assert completed(once, manager.info).document == once.document
        assert once.document["request"]["image_scale"] == manager.info.recommended.text_image_scale
        mapped = {
            "request": {
                "references": [{"image": "a.png"}],
                "structures": [{"kind": "canny", "image": "a.png"}],
            },
            "columns": {"seed": [1, 2]},
        }
        said = completed(spec(mapped), manager.info).document["request"]
        assert said["image_scale"] == manager.info.recommended.map_image_scale == 0.8
        assert said["guidance"] == manager.info.recommended.guidance == 3.0
        mapped["request"]["inpaint"] = {"image": "a.png", "mask": "b.png"}
        said = completed(spec(mapped), manager.info).document["request"]
        assert said["guidance"] == manager.info.recommended.paint_guidance == 2.0
        assert set(once.files) == {n for n in once.files if re.fullmatch(r"inputs/\w{16}\.png", n)}

    def test_what_is_recommended_later_changes_no_comparison_of_before(
        self, manager: ModelManager, tmp_path: Path
    ) -> None:
        """Documents did once not say these where they were a request's own."""
        names = ("guidance_window", "sampler", "noise_schedule")
        job = drawn(plan(SMALL, manager), tmp_path)
        text = json.loads((tmp_path / "spec.json").read_text())
        own = {name: text["request"].pop(name) for name in names}
        (tmp_path / "spec.json").write_text(json.dumps(text))
        assert own == dict(zip(names, ([0.0, 1.0], "dpm++", "default"), strict=True))
        assert list(Job(plan(SMALL, manager), tmp_path).run()) == []

        manifest = json.loads(manifest_text(job, {}))
        for name in names:
            del manifest["spec"]["request"][name]
        found = spec_from_manifest(json.dumps(manifest))
        windowed = replace(manager.info.recommended, guidance_window=(0.0, 0.7))
        later = replace(manager.info, recommended=windowed)
        assert completed(found, later).document == job.plan.spec.document
        assert completed(spec(SMALL), later).document["request"]["guidance_window"] == [0.0, 0.7]

    def test_a_lora_for_few_steps_brings_its_settings(self, manager: ModelManager) -> None:
        few = FewStep(steps=4, sampler="lcm")
        info = replace(manager.info, few_step_loras={"fast": few}, loras={"fast": 0.0})

        def said(**document: object) -> dict[str, Any]:
            both = {"columns": {"seed": [1, 2]}, **document}
            return completed(spec(both), info).document["request"]

        assert said()["steps"] == info.recommended.steps
        chosen = said(request={"loras": ["fast"], "guidance": 2.0})
        assert (chosen["steps"], chosen["sampler"], chosen["guidance"]) == (4, "lcm", 2.0)
        compared = said(columns={"loras": ["none", "fast"]})
        assert compared["steps"] == info.recommended.steps, "no settings are for both"

    def test_the_order_of_fields_does_not_matter(self, manager: ModelManager) -> None:
        turned = dict(reversed(SMALL.items()))
        texts = [json.dumps(completed(spec(d), manager.info).document) for d in (SMALL, turned)]
        assert texts[0] == texts[1]


class TestGrid:
    def test_rows_and_columns_differ_in_what_is_named_and_nothing_else(
        self, manager: ModelManager
    ) -> None:
        [page] = plan(SMALL, manager).grid.pages
        assert page.column_heads == ("reference", "λ = 0", "λ = 0.5", "λ = 1")
        assert page.row_heads == ("a", "b")
        for number, row in enumerate(page.panels):
            given, silent, *cells = row
            assert isinstance(given, Given)
            assert isinstance(silent, Cell)
            assert silent.request.image_scale == 0.0
            for cell, scale in zip(cells, (0.5, 1.0), strict=True):
                assert isinstance(cell, Cell)
                assert cell.request == GenerateRequest(
                    prompt="a cube",
                    steps=2,
                    guidance=3.0,
                    image_scale=scale,
                    references=(Reference(image=picture(number)),),
                )

    def test_every_axis_reaches_its_field(self, manager: ModelManager) -> None:
        axes: dict[str, tuple[list[Any], Callable[[Cell], Any], list[Any]]] = {
            "prompt": (["x", ""], lambda c: c.request.prompt, ["x", ""]),
            "negative_prompt": (["x"], lambda c: c.request.negative_prompt, ["x"]),
            "prompt_2": (["y", ""], lambda c: c.request.prompt_2, ["y", ""]),
            "negative_prompt_2": (["y"], lambda c: c.request.negative_prompt_2, ["y"]),
            "prompt_syntax": (
                ["plain", "weighted"],
                lambda c: c.request.prompt_syntax,
                ["plain", "weighted"],
            ),
            "clip_skip": ([0, 1], lambda c: c.request.clip_skip, [0, 1]),
            "guidance": ([2, 3], lambda c: c.request.guidance, [2, 3]),
            "guidance_rescale": ([0.7], lambda c: c.request.guidance_rescale, [0.7]),
            "loras": (
                ["none", "a:0.5, b"],
                lambda c: texts_from_loras(c.request.loras),
                [[], ["a:0.5", "b"]],
            ),
            "face_embeds": (
                [None],
                lambda c: c.request.references[0].embeds,
                [None],
            ),
            "vae": (["none", "soft"], lambda c: c.request.vae, [None, "soft"]),
            "image_window": ([[0, 0.5]], lambda c: c.request.image_window, [(0.0, 0.5)]),
            "guidance_window": (
                [[0, 1], [0.2, 0.8]],
                lambda c: c.request.guidance_window,
                [(0.0, 1.0), (0.2, 0.8)],
            ),
            "steps": ([3], lambda c: c.request.steps, [3]),
            "sampler": (list(SAMPLERS), lambda c: c.request.sampler, list(SAMPLERS)),
            "noise_schedule": (
                ["default", "karras"],
                lambda c: c.request.noise_schedule,
                ["default", "karras"],
            ),
            "seed": ([4, 5], lambda c: c.request.seed, [4, 5]),
            "fit": (["pad"], lambda c: c.request.references[0].fit, ["pad"]),
            "combine": (["average"], lambda c: c.request.combine, ["average"]),
            "image_layers": (
                ["all", "ease in-out", "linear", [1, 0]],
                lambda c: c.request.image_layers,
                ["all", "ease in-out", "all", (1.0, 0.0)],
            ),
            "adapter": (["base"], lambda c: c.request.adapter, ["base"]),
            "model": (["tiny", "other"], lambda c: c.model, ["tiny", "other"]),
            "structure": (
                ["canny:none=c.png", "palette=c.png", None],
                lambda c: [(s.kind, s.annotator) for s in c.request.structures],
                [[("canny", "none")], [("palette", "palette")], []],
            ),
            "strength": ([0.3, 1], lambda c: c.request.strength, [0.3, 1]),
            "upscale_strength": (
                [0.3, 0.7],
                lambda c: c.request.upscale,
                [Upscale(strength=0.3), Upscale(strength=0.7)],
            ),
            "structure_weight": ([0.5], lambda c: c.request.structures[0].weight, [0.5]),
            "method": (
                ["as it is", "image only", "text only", "image to image"],
                lambda c: (
                    c.request.prompt,
                    c.request.image_scale,
                    c.request.init_image is not None,
                ),
                [
                    ("a cube", 0.9, False),
                    ("", 0.9, False),
                    ("a cube", 0.0, False),
                    ("a cube", 0.0, True),
                ],
            ),
        }
        known = set(json_schema(ComparisonSpec)["$defs"]["Axes"]["properties"])
        assert known == set(axes) | {"reference", "image_scale"}
        for name, (values, field, expected) in axes.items():
            request = {
                "prompt": "a cube",
                "image_scale": 0.9,
                "references": [{"image": "a.png", "mask": "m.png"}],
                "structures": [{"kind": "canny", "image": "b.png"}],
            }
            if name == "strength":
                request["init_image"] = "c.png"
            cells = plan({"columns": {name: values}, "request": request}, manager).grid.cells
            assert [field(cell) for cell in cells] == expected, name

    @pytest.mark.parametrize("side", ["rows", "columns", "pages"])
    @pytest.mark.parametrize(
        ("axis", "values", "lacking", "cure"),
        [
            ("image_scale", "0:1:0.5", "a reference", {"references": [{"image": "a.png"}]}),
            ("adapter", ["base", "plus"], "a reference", {"references": [{"image": "a.png"}]}),
            ("negative_prompt", ["", "a"], "guidance above 1", {"guidance": 1.1}),
            (
                "structure_weight",
                [0, 1],
                "a structure",
                {"structures": [{"kind": "canny", "image": "b.png"}]},
            ),
        ],
    )
    def test_an_axis_that_changes_no_cell_is_refused(
        self,
        side: str,
        axis: str,
        values: str | list[Any],
        lacking: str,
        cure: dict[str, Any],
        manager: ModelManager,
    ) -> None:
        """Its heads would say of equal cells that they differ."""
        document: dict[str, Any] = {
            "request": {"prompt": "a", "guidance": 1},
            "columns": {"seed": [1]},
            side: {axis: values},
        }
        said = rf"^{side}\.{axis} has no effect: no cell has {lacking}$"
        with pytest.raises(RequestError, match=said):
            plan(document, manager)
        plan(document | {"request": document["request"] | cure}, manager)
        plan(document | {side: {axis: list(expanded(axis, values))[:1]}}, manager)

    def test_a_strength_needs_a_picture_to_begin_from(self, manager: ModelManager) -> None:
        document = {"request": {"prompt": "a"}, "columns": {"strength": [0.3, 0.6]}}
        with pytest.raises(RequestError, match=r"^columns\.strength .* begins from a picture$"):
            plan(document, manager)

    def test_strengths_act_on_what_there_is(self, manager: ModelManager) -> None:
        request: dict[str, Any] = {"prompt": "a", "inpaint": {"image": "a.png", "mask": "m.png"}}
        cells = plan({"columns": {"strength": [0.3]}, "request": request}, manager).grid.cells
        assert cells[0].request.inpaint.strength == 0.3
        assert cells[0].request.strength == GenerateRequest().strength, "that of a start picture"
        del request["inpaint"]
        begun = request | {"init_image": "a.png"}
        cells = plan({"columns": {"strength": [0.3]}, "request": begun}, manager).grid.cells
        assert cells[0].request.strength == 0.3
        upscale = {"factor": 1.5, "enlarge": "latents"}
        document = {
            "columns": {"upscale_strength": "0.5:0.7:0.2"},
            "request": {"prompt": "a", "upscale": upscale},
        }
        planned = plan(document, manager)
        for cell, strength in zip(planned.grid.cells, (0.5, 0.7), strict=True):
            expected = Upscale(factor=1.5, enlarge="latents", strength=strength)
            assert cell.request.upscale == expected
        assert planned.grid.pages[0].column_heads == ("second pass 0.5", "second pass 0.7")

    def test_a_reference_that_differs_by_column_is_shown_above(self, manager: ModelManager) -> None:
        document = {
            "columns": {"reference": ["a.png", None]},
            "rows": {"seed": [1, 2]},
            "beside": ["reference", "text_only"],
        }
        [page] = plan(document, manager).grid.pages
        assert page.row_heads == ("reference", "seed 1", "seed 2")
        assert page.column_heads == ("text only", "a", "no reference")
        above = page.panels[0]
        assert [panel.name if panel else None for panel in above] == [None, "p1-c1-reference", None]

    def test_the_text_alone_has_no_structure_and_hears_no_picture(
        self, manager: ModelManager
    ) -> None:
        document = SMALL | {
            "beside": ["structure", "text_only"],
            "request": {"prompt": "x", "structures": [{"kind": "canny", "image": "c.png"}]},
        }
        cells = plan(document, manager).grid.cells
        assert (cells[0].request.structures, cells[0].request.image_scale) == ((), 0.0)
        assert len(cells[1].request.structures) == 1

    def test_names_become_heads(self) -> None:
        assert head_of("reference", "../x/red sphere.png") == "red sphere"
        assert head_of("reference", "C:\\pictures\\a.png") == "a"
        assert head_of("structure", "canny:lineart=b/c.png") == "lineart of c"
        assert head_of("prompt", "") == "no prompt"
        assert head_of("prompt_2", "") == "no second prompt"
        assert head_of("negative_prompt_2", "x") == "not: x"
        assert head_of("prompt_syntax", "weighted") == "prompt weighted"
        assert head_of("clip_skip", 1) == "clip skip 1"
        assert head_of("seed", 4_000_000_000) == "seed 4000000000"
        assert len(head_of("reference", "x" * 500 + ".png")) == 80

    def test_a_long_prompt_is_a_head_that_can_be_read_again(self, manager: ModelManager) -> None:
        once = completed(spec({"columns": {"prompt": ["x " * 900]}}), manager.info)
        assert [len(head) for head in once.document["labels"]["columns"]] == [500]
        spec_from_document(once.document, once.files.__getitem__)

    def test_cells_are_counted_before_any_is_built(self) -> None:
        assert (
            count_cells(
                ComparisonSpec.model_validate(
                    {
                        "columns": {"seed": "1:10"},
                        "rows": {"steps": [1, 2]},
                        "pages": {"guidance": [1, 2]},
                        "beside": ["no_image"],
                    }
                )
            )
            == 44
        )


def together_as_alone(
    pipeline: ImagePromptPipeline, requests: list[GenerateRequest]
) -> list[Result]:
    """The results of shared calls, each checked against what its request gives by itself."""
    results = list(pipeline.generate_all(requests, share=len(requests)))
    for result, request in zip(results, requests, strict=True):
        alone = pipeline.generate(request)
        assert result.request == effective_request(request)
        assert result.seeds == alone.seeds
        assert result.maps == alone.maps
        for one, other in zip(result.images, alone.images, strict=True):
            levels = np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16)
            assert np.abs(levels).max() <= 1
    return results


class TestTogether:
    """Requests that share calls; law 3."""

    @pytest.mark.parametrize("guidance", [1.0, 3.0])
    def test_a_batch_gives_what_each_gives_alone(
        self, pipeline: ImagePromptPipeline, guidance: float
    ) -> None:
        shared = GenerateRequest(
            guidance=guidance,
            steps=3,
            structures=(
                Structure(kind="canny", image=picture(3), annotator="canny"),
                Structure(kind="palette", image=picture(4), annotator="palette"),
            ),
        )
        references = (
            (),
            (Reference(image=picture(1)),),
            (
                Reference(image=picture(2), mask=box_mask((0, 0, 32, 64))),
                Reference(image=picture(5), weight=0.5),
                Reference(image=picture(6), negative=True),
            ),
            (Reference(image=picture(1), only_image=1), Reference(image=picture(2))),
        )
        requests = [
            replace(
                shared,
                references=given,
                prompt="abcd"[i],
                image_scale=0.3 * (i + 1),
                seed=i,
                count=2 if i == 3 else 1,
                combine="average" if i == 2 else "concat",
            )
            for i, given in enumerate(references)
        ]
        a, b, *_ = together_as_alone(pipeline, requests)
        assert (
            np.abs(np.asarray(a.images[0], dtype=int) - np.asarray(b.images[0], dtype=int)).max()
            > 10
        )

    @pytest.mark.parametrize("guidance", [1.0, 3.0])
    def test_each_of_a_batch_has_its_own_maps(
        self, pipeline: ImagePromptPipeline, guidance: float
    ) -> None:
        first = GenerateRequest(
            guidance=guidance,
            steps=3,
            structures=(
                Structure(kind="canny", image=picture(3), annotator="canny"),
                Structure(kind="palette", image=picture(4), annotator="palette"),
            ),
        )
        other = (replace(first.structures[0], image=picture(5)), first.structures[1])
        together_as_alone(
            pipeline,
            [
                first,
                replace(first, structures=other, count=2),
                replace(first, structures=other, seed=4),
            ],
        )

    @pytest.mark.parametrize("context", [1.0, 0.3])
    def test_each_of_a_batch_has_its_own_part_to_paint(
        self, pipeline: ImagePromptPipeline, context: float
    ) -> None:
        first = GenerateRequest(
            guidance=3.0,
            steps=3,
            references=(Reference(image=picture(1)),),
            inpaint=Inpaint(
                image=picture(2),
                mask=box_mask((8, 8, 40, 40)),
                repaint_passes=2,
                context=context,
                background_weight=1.0,
            ),
        )
        assert first.inpaint is not None
        second = replace(
            first.inpaint,
            image=picture(3),
            mask=box_mask((20, 24, 52, 56)),
            feather=8,
            background_weight=0.0,
        )
        together_as_alone(pipeline, [first, replace(first, inpaint=second, seed=3, count=2)])

    def test_a_picture_that_all_paint_in_is_encoded_once(
        self, pipeline: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = Inpaint(image=picture(77), mask=box_mask((8, 8, 40, 40)))
        vae, encoded = pipeline._model.vae, []
        encode = type(vae).latents_from_pixels
        monkeypatch.setattr(
            type(vae),
            "latents_from_pixels",
            lambda self, pixels: encoded.append(1) or encode(self, pixels),
        )
        requests = [GenerateRequest(steps=1, inpaint=given, seed=seed) for seed in range(3)]
        list(pipeline.generate_all(requests, share=3))
        assert len(encoded) == 1


def _saved_again(content: bytes) -> bytes:
    """By an editor that knows nothing of text in PNGs."""
    saved = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").save(saved, "PNG")
    return saved.getvalue()


def _edited(content: bytes) -> bytes:
    """By an editor that keeps the texts of a PNG: one pixel is another."""
    image = Image.open(io.BytesIO(content))
    texts = PngInfo()
    for name, text in image.text.items():  # type: ignore[attr-defined]
        texts.add_itxt(name, text)
    red, *others = image.getpixel((5, 5))  # type: ignore[misc]
    image.putpixel((5, 5), (red ^ 1, *others))
    saved = io.BytesIO()
    image.save(saved, "PNG", pnginfo=texts)
    assert record_from_png(saved.getvalue()) == record_from_png(content)
    return saved.getvalue()


class TestJob:
    def test_cells_are_pngs_that_hold_their_request(
        self, manager: ModelManager, tmp_path: Path
    ) -> None:
        job = drawn(plan(SMALL, manager), tmp_path / "out")
        assert len(job.finished()) == 6
        for cell in job.plan.grid.cells:
            record = record_from_png(job.path(cell))
            assert record.request == cell.request
            assert record.provenance == manager.pipeline.provenance
            [alone] = manager.pipeline.generate(cell.request).images
            assert np.array_equal(pixels(job.path(cell)), alone)

    def test_what_is_not_at_hand_costs_its_own_cell_alone(
        self, entry: CatalogEntry, tmp_path: Path
    ) -> None:
        hub = Hub(repo="nobody/none-such", files=("x.safetensors",), megabytes=5)
        pipeline = load(
            replace(entry, loras={"far": LoraEntry(file=hub)}), device="cpu", fetch_later=False
        )
        document = {"columns": {"loras": ["far", "none"]}, "request": {"prompt": "a", "steps": 1}}
        job = Job(plan(document, ModelManager(pipeline)), tmp_path)
        far, none = job.run()
        assert isinstance(far, Failed)
        assert "none-such is not downloaded here" in far.message
        assert isinstance(none, Done)

    def test_a_cell_whose_pictures_no_png_can_hold_says_so(
        self, manager: ModelManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = Job(plan(SMALL, manager), tmp_path)
        monkeypatch.setattr("ipadapter_demo.record.MAX_RECORD_BYTES", 1000)
        events = list(job.run())
        assert len(events) == 6
        for event in events:
            assert isinstance(event, Failed)
            assert event.message.startswith("the pictures of a request may take 1,000 bytes")

    def test_models_come_one_after_the_other(self, manager: ModelManager, tmp_path: Path) -> None:
        document = {
            "columns": {"model": ["tiny", "other"]},
            "rows": {"seed": "1:3"},
            "request": {"steps": 1},
        }
        job = Job(plan(document, manager), tmp_path)
        assert [event.cell.model for event in job.run()] == ["tiny"] * 3 + ["other"] * 3

    def test_a_stopped_job_goes_on_and_ends_like_any_other(
        self, manager: ModelManager, tmp_path: Path
    ) -> None:
        whole = drawn(plan(SMALL, manager), tmp_path / "whole")
        part = Job(plan(SMALL, manager), tmp_path / "part")
        events = part.run()
        first = next(events)
        events.close()  # type: ignore[attr-defined]  # a generator
        before = first.path.stat().st_mtime_ns  # type: ignore[union-attr]
        assert 0 < len(part.finished()) < 6
        part = drawn(plan(SMALL, manager), tmp_path / "part")
        assert part.path(first.cell).stat().st_mtime_ns == before, "what is there stays"
        for cell in whole.plan.grid.cells:
            assert part.path(cell).read_bytes() == whole.path(cell).read_bytes()
        bundles = [write_bundle(job).path.read_bytes() for job in (whole, part)]
        assert bundles[0] == bundles[1]

    def test_a_finished_job_draws_nothing(self, manager: ModelManager, tmp_path: Path) -> None:
        drawn(plan(SMALL, manager), tmp_path)
        assert list(Job(plan(SMALL, manager), tmp_path).run()) == []

    def test_what_another_model_drew_is_drawn_again(
        self, manager: ModelManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = drawn(plan(SMALL, manager), tmp_path)
        monkeypatch.setitem(manager.pipeline.provenance, "weights", {"unet": "retrained"})
        for path in tmp_path.glob("cells/*.png"):
            path.write_bytes(path.read_bytes())
        assert len(list(Job(job.plan, tmp_path).run())) == 6

    def test_another_comparison_is_not_mixed_in(
        self, manager: ModelManager, tmp_path: Path
    ) -> None:
        drawn(plan(SMALL, manager), tmp_path)
        with pytest.raises(RequestError, match="holds another comparison"):
            Job(plan(SMALL | {"title": "?"}, manager), tmp_path)

    @pytest.mark.parametrize(
        "name",
        [
            *("figure.tex", "figure-p1.svg", "scores.csv", "warnings.txt", "manifest.json"),
            *("rerun.sh", "bundle.zip", "pixels.json"),
        ],
    )
    def test_files_of_somebodys_own_are_not_overwritten(
        self, manager: ModelManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        (tmp_path / name).write_text("mine")
        (tmp_path / "photo.png").write_text("mine, too")
        asked = plan(SMALL, manager)
        monkeypatch.chdir(tmp_path)
        for folder in (tmp_path, Path()):
            with pytest.raises(RequestError) as refusal:
                Job(asked, folder)
            assert str(refusal.value) == (
                f"out: {tmp_path.name} holds {name} and no comparison, and it would be "
                "overwritten: name a new folder"
            )
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "photo.png"])
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
        Job(asked, tmp_path)  # other files are in nobody's way
        assert (tmp_path / "photo.png").read_text() == "mine, too"

    def test_a_published_comparison_goes_on_without_its_spec(
        self, manager: ModelManager, tmp_path: Path
    ) -> None:
        """As the error of a damaged spec.json says."""
        bundle = draw_comparison(spec(SMALL), tmp_path, manager).read_bytes()
        (tmp_path / "spec.json").unlink()
        assert draw_comparison(spec(SMALL), tmp_path, manager).read_bytes() == bundle

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            (lambda content: b"", "file is an empty file"),
            (lambda content: content[:100], "file is damaged or cut short"),
            (lambda content: content[:-20], "cut short"),
            (lambda content: content.replace(b"IDAT", b"IDAX", 1), "damaged"),
            (lambda content: _saved_again(content), "holds no settings"),
            (lambda content: _edited(content), "file has other pixels than those that were drawn"),
            (lambda content: b"not a picture", "file is not a picture"),
        ],
    )
    def test_a_damaged_cell_is_named_and_drawn_again(
        self, manager: ModelManager, tmp_path: Path, damage: Callable[[bytes], bytes], reason: str
    ) -> None:
        job = drawn(plan(SMALL, manager), tmp_path)
        path = tmp_path / "cells" / "p1-r1-c2.png"
        whole, others = path.read_bytes(), [p for p in path.parent.iterdir() if p != path]
        times = [p.stat().st_mtime_ns for p in others]
        path.write_bytes(damage(whole))
        warnings: list[Any] = []
        cells: list[Any] = []
        for event in Job(job.plan, tmp_path).run():
            (warnings if isinstance(event, ComparisonWarning) else cells).append(event)
        [note] = warnings
        assert note.message.startswith("cells/p1-r1-c2.png is drawn again: ")
        assert reason in note.message
        assert "p1-r1-c2" in [event.cell.name for event in cells]
        assert all(isinstance(event, Done) for event in cells)
        assert path.read_bytes() == whole
        assert path.with_name("p1-r1-c2.png.damaged").read_bytes() == damage(whole)
        assert [p.stat().st_mtime_ns for p in others] == times, "what is there stays"
        assert not list(Job(job.plan, tmp_path).run())

    @pytest.mark.parametrize("text", [None, "", "[]", '{"p1-r1'])
    def test_a_folder_without_sums_goes_on(
        self, manager: ModelManager, tmp_path: Path, text: str | None
    ) -> None:
        """As one from before there were any; a cell drawn from then on has its own."""
        drawn(plan(SMALL, manager), tmp_path)
        sums = tmp_path / "pixels.json"
        assert len(json.loads(sums.read_text())) == 6
        sums.unlink() if text is None else sums.write_text(text)
        assert not list(Job(plan(SMALL, manager), tmp_path).run())
        (tmp_path / "cells/p1-r1-c2.png").unlink()
        drawn(plan(SMALL, manager), tmp_path)
        assert list(json.loads(sums.read_text())) == ["p1-r1-c2"]

    @pytest.mark.parametrize("text", ["", '{"columns": {"se', "[]", "1", "\x00\x00"])
    def test_a_cut_spec_is_said(self, manager: ModelManager, tmp_path: Path, text: str) -> None:
        drawn(plan(SMALL, manager), tmp_path / "out")
        (tmp_path / "out" / "spec.json").write_text(text)
        with pytest.raises(RequestError, match=r"out: out/spec\.json is damaged .* delete it"):
            Job(plan(SMALL, manager), tmp_path / "out")
        (tmp_path / "out" / "spec.json").unlink()
        assert not list(Job(plan(SMALL, manager), tmp_path / "out").run())

    def test_a_cut_input_or_reference_is_put_right(
        self, manager: ModelManager, tmp_path: Path
    ) -> None:
        bundle = draw_comparison(spec(SMALL), tmp_path, manager).read_bytes()
        for path in [*tmp_path.glob("inputs/*"), *tmp_path.glob("given/*")]:
            path.write_bytes(path.read_bytes()[:50])
        assert draw_comparison(spec(SMALL), tmp_path, manager).read_bytes() == bundle

    def test_another_seed_is_checked_before_anything_is_drawn(self, manager: ModelManager) -> None:
        with pytest.raises(RequestError, match=r"p1-r1-c2 drawn again: seed must"):
            plan(SMALL | {"redraw": {"p1-r1-c2": -1}}, manager)

    def test_one_bad_cell_does_not_blank_the_rest(
        self, manager: ModelManager, tmp_path: Path
    ) -> None:
        document = SMALL | {"columns": {"adapter": ["base", "nonesuch"]}, "beside": []}
        job = Job(plan(document, manager), tmp_path)
        events = list(job.run())
        failed = [event for event in events if isinstance(event, Failed)]
        assert [event.cell.column for event in failed] == [2, 2]
        assert "adapter must be one of those of tiny (base" in failed[0].message
        assert job.message(failed[0].cell) == failed[0].message
        assert len(job.finished()) == 2
        bundle = Bundle(write_bundle(job).path)
        errors = [entry.error for entry in bundle.manifest.cells if entry.error]
        assert errors == [failed[0].message] * 2
        text = " ".join(PdfReader(tmp_path / "figure-p1.pdf").pages[0].extract_text().split())
        assert "adapter must be" in text

    def test_a_cell_can_be_drawn_again_from_another_seed(
        self, manager: ModelManager, tmp_path: Path
    ) -> None:
        before = drawn(plan(SMALL, manager), tmp_path)
        contents = {c.name: before.path(c).read_bytes() for c in before.plan.grid.cells}
        after = drawn(plan(SMALL | {"redraw": {"p1-r1-c2": 9}}, manager), tmp_path)
        changed = [
            c.name for c in after.plan.grid.cells if after.path(c).read_bytes() != contents[c.name]
        ]
        assert changed == ["p1-r1-c2"]
        assert record_from_png(tmp_path / "cells/p1-r1-c2.png").request.seed == 9
        afresh = drawn(plan(SMALL | {"redraw": {"p1-r1-c2": 9}}, manager), tmp_path / "afresh")
        for cell in after.plan.grid.cells:
            assert after.path(cell).read_bytes() == afresh.path(cell).read_bytes()

    def test_the_cost_is_known_before(self, manager: ModelManager) -> None:
        cost = Pace().cost(plan(SMALL, manager))
        assert (cost.cells, cost.steps) == (6, 12)
        assert 0 < cost.seconds < 60
        assert re.fullmatch(r"6 cells, 12 steps: about \d+ s", str(cost))


class TestCourtesy:
    """A comparison never holds up a single picture."""

    def test_it_waits_between_two_steps(self, manager: ModelManager) -> None:
        long = GenerateRequest(steps=40, references=(Reference(image=picture(1)),))
        short = replace(long, steps=2)
        order = []

        def compare() -> None:
            manager.draw_in_background("tiny", [long] * 2)
            order.append("comparison")

        thread = threading.Thread(target=compare)
        thread.start()
        while manager.pipeline._conditioner.prompts.cache._entries == {}:
            time.sleep(0.001)
        for _ in range(5):
            with manager.acquire("tiny") as pipeline:
                pipeline.generate(short)
                order.append("picture")
        thread.join()
        assert order == ["picture"] * 5 + ["comparison"]

    def test_it_gives_up_its_model_and_comes_back(self, manager: ModelManager) -> None:
        long = GenerateRequest(steps=60)
        results: list[Any] = []
        thread = threading.Thread(
            target=lambda: results.extend(manager.draw_in_background("tiny", [long]))
        )
        thread.start()
        while manager.pipeline._conditioner.prompts.cache._entries == {}:
            time.sleep(0.001)
        with manager.acquire("other") as pipeline:
            assert manager.info.name == "other"
            assert not results
            pipeline.generate(GenerateRequest(steps=1))
        thread.join()
        assert manager.info.name == "tiny"
        expected = manager.pipeline.generate(long)
        assert np.array_equal(np.asarray(results[0].images[0]), np.asarray(expected.images[0]))


@pytest.mark.parametrize("zoom", [[0.9, 0, 0.4, 0.4], [0, 0.9, 0.4, 0.4], [0.1, 0.1, 0, 0.1]])
def test_what_is_shown_larger_lies_in_the_picture(zoom: list[float], manager: ModelManager) -> None:
    with pytest.raises(RequestError) as refusal:
        plan(SMALL | {"figure": {"zoom": zoom}}, manager)
    assert str(refusal.value) == (
        "figure.zoom must be left, top, width and height of a part of the picture, got "
        + ", ".join(f"{number:g}" for number in zoom)
    )
    plan(SMALL | {"figure": {"zoom": [0.7, 0.0, 0.3, 1.0]}}, manager)


@pytest.mark.parametrize("zoom", [(0.4, 0, 0.1, 1), (0, 0.4, 1, 0.1), (0.4, 0.4, 0.2, 0.2)])
def test_what_is_shown_larger_stays_in_its_cell(zoom: tuple[float, ...]) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    _show(figure, (0.1, 0.2, 0.3, 0.3), Image.new("RGB", (100, 100)), zoom)
    left, bottom, right, top = figure.axes[-1].get_position().extents
    assert 0.1 < left < right <= 0.4 + 1e-6
    assert 0.2 - 1e-6 <= bottom < top < 0.5


class TestBundle:
    @pytest.fixture
    def bundle(self, manager: ModelManager, tmp_path: Path) -> Path:
        document = SMALL | {
            "request": SMALL["request"] | {"structures": [{"kind": "canny", "image": "c.png"}]},
            "beside": ["reference", "structure", "no_image"],
            "pages": {"seed": [1, 2]},
            "figure": {"width": "single", "zoom": [0.4, 0.4, 0.2, 0.2]},
        }
        return draw_comparison(spec(document), tmp_path / "out", manager)

    def test_it_holds_all_that_was_promised(self, bundle: Path) -> None:
        with zipfile.ZipFile(bundle) as content:
            names = set(content.namelist())
            figures = {f"figure-p{p}.{kind}" for p in (1, 2) for kind in ("pdf", "svg", "png")}
            assert (
                figures | {"figure.tex", "scores.csv", "spec.json", "manifest.json", "rerun.sh"}
                <= names
            )
            assert len([n for n in names if n.startswith("cells/")]) == 12
            assert "given/p1-r1-structure.png" in names
            assert len([n for n in names if n.startswith("maps/")]) == 1
            manifest = json.loads(content.read("manifest.json"))
            for row in manifest["inputs"]:
                assert content.read(row["file"]) in {
                    files("a.png", "b.png", "c.png")(n) for n in ("a.png", "b.png", "c.png")
                }
        assert all(row["maps"] and row["maps"][0] in names for row in manifest["cells"])
        assert not any(n.startswith("/") or ".." in n for n in names)
        assert manifest["models"]["tiny"].keys() >= {
            "weights",
            "scheduler",
            "dtype",
            "device",
            "versions",
        }

    def test_drawn_again_it_is_the_same(self, bundle: Path, manager: ModelManager) -> None:
        found = Bundle(bundle)
        assert found.changes(manager) == []
        assert [v.difference for v in found.verified(manager)] == [0] * 12

    def test_unpacked_it_is_a_spec_like_any_other(
        self, bundle: Path, manager: ModelManager, tmp_path: Path
    ) -> None:
        with zipfile.ZipFile(bundle) as content:
            content.extractall(tmp_path / "unpacked")
        assert [v.difference for v in Bundle(tmp_path / "unpacked").verified(manager)] == [0] * 12
        again = draw_comparison(tmp_path / "unpacked" / "spec.json", tmp_path / "again", manager)
        assert again.read_bytes() == bundle.read_bytes()

    def test_a_changed_cell_and_another_model_are_noticed(
        self, bundle: Path, manager: ModelManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        with zipfile.ZipFile(bundle) as content:
            content.extractall(tmp_path / "unpacked")
        cell = tmp_path / "unpacked/cells/p1-r1-c1.png"
        cell.write_bytes((tmp_path / "unpacked/cells/p1-r1-c2.png").read_bytes())
        monkeypatch.setitem(manager.pipeline.provenance, "dtype", "float16")
        found = Bundle(tmp_path / "unpacked")
        assert found.changes(manager) == ["tiny: dtype was 'float32', is 'float16'"]
        [changed] = [v for v in found.verified(manager) if v.difference != 0]
        assert (changed.cell.name, changed.difference) == ("p1-r1-c1", None)
        assert "not the one that the manifest names" in changed.message

    def test_a_manifest_restores_everything(self, bundle: Path, manager: ModelManager) -> None:
        with zipfile.ZipFile(bundle) as content:
            restored = spec_from_manifest(content.read("manifest.json"))
        assert Plan(restored, manager).grid == Plan(Bundle(bundle).spec, manager).grid
        assert len(restored.files) == 3

    @pytest.mark.parametrize(
        "change",
        [
            {"schema": 2},
            {"inputs": []},
            {"spec": {}},
            {"cells": [{}]},
            {"more": 1},
            {"inputs": [{"file": "../../x", "sha256": "0" * 64, "bytes": 1, "content": "!"}]},
        ],
    )
    def test_a_manifest_is_not_trusted(self, bundle: Path, change: dict[str, Any]) -> None:
        with zipfile.ZipFile(bundle) as content:
            document = json.loads(content.read("manifest.json"))
        with pytest.raises(RequestError, match=r"manifest|spec"):
            spec_from_manifest(json.dumps(document | change))

    def test_what_is_no_bundle_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "x.zip").write_bytes(b"PK")
        for path in (tmp_path / "x.zip", tmp_path / "none.zip", tmp_path):
            with pytest.raises(RequestError):
                Bundle(path)
        with pytest.raises(RequestError, match="not JSON"):
            spec_from_manifest(b"\xff")

    def test_scores_are_numbers_beside_cells(self, bundle: Path) -> None:
        rows = table(bundle.parent / "scores.csv")
        assert len(rows) == 12 + 2 * 4
        cells = rows[:12]
        assert all(-1 <= float(row["clip_i"]) <= 1 for row in cells)
        assert all(row["clip_t"] == row["attributes"] == "" for row in cells), "tiny has no words"
        first = [
            float(row["clip_i"]) for row in cells if (row["page"], row["row"]) == ("seed 1", "a")
        ]
        mean = next(row for row in rows if row["cell"] == "mean of the row")
        assert float(mean["clip_i"]) == pytest.approx(np.mean(first), abs=2e-4)

    def test_the_figure_has_real_text(self, bundle: Path) -> None:
        text = PdfReader(bundle.parent / "figure-p2.pdf").pages[0].extract_text()
        svg = (bundle.parent / "figure-p2.svg").read_text(encoding="utf-8")
        for head in ("λ = 0.5", "reference", "structure", "seed 2"):
            assert head in text
            assert head in svg
        width = float(PdfReader(bundle.parent / "figure-p1.pdf").pages[0].mediabox.width)
        assert width == pytest.approx(3.25 * 72)
        with Image.open(bundle.parent / "figure-p1.png") as figure:
            assert figure.width == 975  # 3.25 inches of 300 dots


class TestText:
    @pytest.mark.parametrize("text", HOSTILE)
    def test_hostile_labels_come_out_as_plain_text(
        self, manager: ModelManager, tmp_path: Path, text: str
    ) -> None:
        document = {
            "request": {"steps": 1},
            "columns": {"seed": [1]},
            "title": text[:500],
            "labels": {"columns": [text[:500]]},
        }
        bundle = draw_comparison(spec(document), tmp_path / "out", manager)
        with zipfile.ZipFile(bundle) as content:
            assert not any(".." in name or "<" in name for name in content.namelist())
        shown = PdfReader(tmp_path / "out/figure-p1.pdf").pages[0].extract_text()
        svg = (tmp_path / "out/figure-p1.svg").read_text(encoding="utf-8")
        assert "<script>" not in svg
        for word in ("alert", "passwd", "../x", "party", "1+1"):
            if word in text:
                assert word in shown.replace("\n", "")
        tex = (tmp_path / "out/figure.tex").read_text(encoding="utf-8")
        assert r"\input" not in tex
        lines = "\n".join(line for line in tex.splitlines() if not line.startswith("% "))
        assert not re.search(r"(?<!\\)[$#%&_^]", lines.replace(r"$\lambda$", ""))
        assert not table(tmp_path / "out/scores.csv")[0]["column"].startswith("=")

    def test_latex_takes_nothing_for_a_command(self) -> None:
        assert latex(r"\a{b}$c_d^e&f#g%h~") == (
            r"\textbackslash{}a\{b\}\$c\_d\textasciicircum{}e\&f\#g\%h\textasciitilde{}"
        )
        assert latex("λ = 1\n2") == r"$\lambda$ = 1 2"
        assert latex("a 🎉") == "a [party popper]"

    def test_what_the_font_lacks_is_named(self) -> None:
        assert printable("a 🎉\ufe0f b") == "a [party popper] b"
        assert printable("\u202eevil\u0000") == "evil"
        assert printable("שלום") == "שלום"
        assert printable("\ue000") == "[u+e000]"

    def test_lines_are_no_wider_than_asked(self) -> None:
        for text in ("a few words that go on", "x" * 300, "", "one"):
            lines = wrapped(text, 50, 7)
            assert text_width(lines, 7) <= 50
            assert lines.count("\n") < 6
        assert wrapped("x" * 300, 50, 7).endswith("…")

    def test_spreadsheets_see_no_formula(self) -> None:
        assert [csv_cell(t) for t in ("=1+1", "-2", "@x", "+3", "a=1")] == [
            "'=1+1",
            "'-2",
            "'@x",
            "'+3",
            "a=1",
        ]

    def test_long_lists_are_told_shortly(self) -> None:
        scales = [f"λ = {i / 5:g}" for i in range(7)]
        assert listed(scales) == "λ = 0, 0.2, …, 1.2"
        assert listed(["a", "b"]) == "a, b"

    def test_a_caption_names_no_window_of_guidance_that_is_not_there(
        self, manager: ModelManager
    ) -> None:
        def written(**request: object) -> str:
            asked = {
                "columns": {"seed": [1, 2]},
                "request": {"guidance_window": [0, 0.5]} | request,
            }
            made = plan(asked, manager)
            return caption(made.spec, made.grid, 1)

        assert "guidance 3, guided from 0 to 0.5" in written(guidance=3.0)
        assert "guided" not in written(guidance=1.0)

    @pytest.mark.parametrize("method", ["text only", "image only", "image to image"])
    def test_a_caption_says_of_all_only_what_is_true_of_each(
        self, method: str, manager: ModelManager
    ) -> None:
        """A method changes λ and the prompt, which are no axes then."""
        asked = {"prompt": "a cube", "image_scale": 0.6, "references": [{"image": "a.png"}]}

        def written(*methods: str) -> str:
            made = plan({"columns": {"method": [*methods]}, "request": asked}, manager)
            return caption(made.spec, made.grid, 1)

        alone = written("as it is")
        assert r"$\lambda$ = 0.6" in alone
        assert "a cube" in alone
        for methods in (("as it is", method), (method, "as it is")):
            assert ("lambda" in written(*methods)) == (method == "image only")
            assert ("a cube" in written(*methods)) == (method != "image only")

    def test_a_caption_promises_no_same_noise_for_pictures_of_other_sizes(
        self, manager: ModelManager
    ) -> None:
        def written(**columns: list[str]) -> str:
            asked = {"references": [{"image": "a.png"}]}
            made = plan({"columns": columns, "request": asked}, manager)
            return caption(made.spec, made.grid, 1)

        assert "the same noise" in written(method=["as it is", "text only"])
        assert "the same noise" not in written(method=["as it is", "image to image"])
        assert "the same noise" not in written(model=["tiny", "other"])


class TestVotes:
    @pytest.fixture
    def job(self, manager: ModelManager, tmp_path: Path) -> Job:
        return drawn(plan(SMALL | {"beside": [], "pages": {"seed": "1:4"}}, manager), tmp_path)

    def test_every_row_once_on_shuffled_sides(self, job: Job) -> None:
        found = ballot(job, 1, 2, seed=3)
        places = [(p.left.page, p.left.row) for p in found.pairs]
        assert sorted(places) == [(page, row) for page in (1, 2, 3, 4) for row in (1, 2)]
        assert places != sorted(places)
        assert {p.left.column for p in found.pairs} == {1, 2}
        assert all({p.left.column, p.right.column} == {1, 2} for p in found.pairs)
        assert ballot(job, 1, 2, seed=3) == found

    def test_votes_count_for_what_was_shown(self, job: Job) -> None:
        found = ballot(job, 1, 2, seed=3)
        for pair in found.pairs[:-1]:  # always for λ = 1
            found = found.answered("left" if pair.left.column == 2 else "right")
        assert found.next == found.pairs[-1]
        found = found.answered("neither")
        assert found.next is None
        assert found.answered("left") == found
        assert shares(job, found) == [Share("λ = 0.5", 0, 7), Share("λ = 1", 7, 7)]
        rows = list(csv.DictReader(io.StringIO(votes_csv(job, found))))
        assert len(rows) == 8
        assert {rows[0]["left"], rows[0]["right"]} == {"λ = 0.5", "λ = 1"}

    @pytest.mark.parametrize(
        ("votes", "decided", "interval"),
        [(0, 0, (0, 1)), (7, 10, (0.3968, 0.8922)), (10, 10, (0.7225, 1)), (0, 4, (0, 0.4899))],
    )
    def test_a_share_has_an_interval(
        self, votes: int, decided: int, interval: tuple[float, float]
    ) -> None:
        """(p + z²/2n ± z √(p (1 - p) / n + z²/4n²)) / (1 + z²/n), z = 1.96"""
        assert Share("λ = 1", votes, decided).interval == pytest.approx(interval, abs=1e-4)

    def test_a_column_is_not_compared_with_itself(self, job: Job) -> None:
        with pytest.raises(RequestError, match="must differ, got 1 twice"):
            ballot(job, 1, 1, 0)
        with pytest.raises(RequestError, match="no row has a finished picture in both"):
            ballot(job, 1, 7, 0)


def test_a_filmstrip_is_one_request_at_several_scales() -> None:
    request = GenerateRequest(
        seed=5,
        count=3,
        references=(
            Reference(image=picture(1)),
            Reference(image=picture(2), only_image=1),
            Reference(image=picture(3), only_image=0),
        ),
    )
    strip = filmstrip(request)
    assert [one.image_scale for one in strip] == list(SCALES)
    assert {one.seed for one in strip} == {5}
    assert [r.image for r in strip[0].references] == [picture(1), picture(3)]
    assert strip[0].count == 1


def test_nothing_of_a_second_solid_is_kept_where_there_is_none() -> None:
    """By chance some of it would be: a reader names the colour of whatever it looks at."""
    scenes = sample_scenes(40, 77)
    scenes = scenes[torch.nonzero(scenes.present[:, 1])[:, 0][:8]]
    alone = replace(scenes, present=torch.tensor([[True, False]] * 8))
    pictures = [list(rendered(each, CLASSIFIER_SIZE)) for each in (scenes, alone)]
    cells: list[Any] = [
        SimpleNamespace(
            request=GenerateRequest(
                references=(
                    Reference(image=alone_picture, negative=True),
                    Reference(image=reference),
                )
            )
        )
        for reference, alone_picture in zip(*pictures, strict=True)
    ]
    reader = load_attribute_classifier(TABLETOP.folder / "attribute_classifier.safetensors")
    seen = [bool(count == 0) for count in reader.classify(pictures[1])["count"]]
    assert sum(seen) > 3, "as one solid"
    lost = sum(name.startswith("second") for name in COUNTED) + 1  # and their number
    kept = _attributes_kept(cells, pictures[1])
    for share, one in zip(kept, seen, strict=True):
        assert not one or share == pytest.approx(1 - lost / len(COUNTED))
    assert all(share == 1 for share in _attributes_kept(cells, pictures[0]))


def test_tabletop_cells_are_read_as_well(tmp_path: Path) -> None:
    """CLIP-T and attributes, which only a model with words and a classifier has."""
    pipeline = load("tabletop")
    assets = Path(__file__).parent.parent / "assets" / "examples"
    document = {
        "request": {"steps": 8, "prompt": "a red sphere"},
        "beside": ["no_image"],
        "columns": {"image_scale": [1]},
        "rows": {"reference": ["red-sphere.png"]},
    }
    known = spec_from_document(document, lambda name: (assets / name).read_bytes())
    job = drawn(Plan(known, ModelManager(pipeline)), tmp_path)
    without, having = scores(job)
    assert having.clip_i > without.clip_i  # type: ignore[operator]
    assert having.attributes > without.attributes  # type: ignore[operator]
    assert -1 <= having.clip_t <= 1  # type: ignore[operator]
    [(_, spread)] = by_row([without, having])
    assert spread["clip_i"][0] == pytest.approx((without.clip_i + having.clip_i) / 2)  # type: ignore[operator]
    assert "red-sphere" in scores_csv(job, [without, having])
    with pytest.raises(ModelError, match="holds no CLIP model"):
        scores(job, tmp_path)


def test_cells_can_be_scored_by_another_clip(manager: ModelManager, tmp_path: Path) -> None:
    """A CLIP of transformers' own class, whose cosines transformers computes as well."""
    pipe = manager.pipeline._model
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(pipe.text.tokenizers[0]),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        eos_token_id=49407,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
    clip.save_pretrained(tmp_path / "clip")
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    processor.save_pretrained(tmp_path / "clip")
    tokenizer = pipe.text.tokenizers[0]
    tokenizer.save_pretrained(tmp_path / "clip")
    job = drawn(plan(SMALL, manager), tmp_path / "out")
    [score, *_] = scores(job, tmp_path / "clip")
    pictures = [Image.open(job.path(score.cell)).convert("RGB"), picture(0)]
    with torch.no_grad():
        out = clip(
            **tokenizer(["a cube"], return_tensors="pt"), **processor(pictures, return_tensors="pt")
        )
    seen, said = out.image_embeds, out.text_embeds
    assert score.clip_i == pytest.approx(float(seen[0] @ seen[1]), abs=1e-5)
    assert score.clip_t == pytest.approx(float(seen[0] @ said[0]), abs=1e-5)


def test_killed_and_begun_again_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """The command, in a process that is killed half-way."""
    for name in ("red-sphere", "blue-cone"):
        source = Path(__file__).parent.parent / "assets" / "examples" / f"{name}.png"
        (tmp_path / f"{name}.png").write_bytes(source.read_bytes())
    (tmp_path / "spec.yaml").write_text(
        "request: {steps: 4}\nrows: {reference: [red-sphere.png, blue-cone.png]}\n"
        "columns: {image_scale: 0:1:0.25}\n"
    )
    command = [sys.executable, "-m", "ipadapter_demo", "compare", "spec.yaml", "--device", "cpu"]
    environment = {
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "PATH": "",
        "OMP_NUM_THREADS": "1",
    }

    def run(out: str, until: int | None = None) -> None:
        cells = 0
        with subprocess.Popen(
            [*command, "--out", out],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                cells += "cell" in json.loads(line)
                if cells == until:
                    process.kill()
                    return
            assert process.stderr is not None
            said = process.stderr.read()
        assert process.returncode == 0, said

    run("whole")
    run("killed", until=4)
    left = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "killed/cells").glob("*.png")}
    assert 4 <= len(left) < 10
    run("killed")
    for name, when in left.items():
        assert (tmp_path / "killed/cells" / name).stat().st_mtime_ns == when
    whole, killed = (tmp_path / n / "bundle.zip" for n in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()


def test_pictures_are_limited(manager: ModelManager) -> None:
    wide = io.BytesIO()
    Image.new("RGB", (3000, 1500)).save(wide, "PNG")
    known = spec_from_document({"columns": {"reference": ["w.png"]}}, lambda _: wide.getvalue())
    [cell] = Plan(known, manager).grid.cells
    assert cell.request.references[0].image.size == (1448, 724)  # as many pixels as a cell may have
