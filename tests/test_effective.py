"""Law 12: what is recorded is what ran, where that is not what was asked for."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from ipadapter_demo.cli import main
from ipadapter_demo.compare import Bundle, Spec, draw_comparison, spec_from_document
from ipadapter_demo.errors import RequestError
from ipadapter_demo.pipeline import ImagePromptPipeline, Result, effective_request
from ipadapter_demo.pipeline.effective import changed_warnings
from ipadapter_demo.record import record_from_png, request_from_png, save_png
from ipadapter_demo.request import SAMPLERS, GenerateRequest, Inpaint, Reference
from ipadapter_demo.sampling import NOISE_SCHEDULES, NoiseSchedule
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.updates import saved
from tests.tiny import box_mask, picture

MASK = box_mask((10, 10, 50, 45))
ASKED = GenerateRequest(
    references=(Reference(image=picture(1)),),
    steps=3,
    guidance=3.0,
    seed=5,
    inpaint=Inpaint(image=picture(7), mask=MASK, repaint_passes=3),
    sampler="dpm++",
)


def generated(pipeline: ImagePromptPipeline, **changes: Any) -> Result:
    return pipeline.generate(replace(ASKED, **changes))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_result_holds_the_sampler_that_ran(pipeline: ImagePromptPipeline, sampler: Any) -> None:
    result = generated(pipeline, sampler=sampler)
    assert result.request == replace(ASKED, sampler="ddim")
    said = f"The sampler was ddim, not {sampler}: inpainting with repaint_passes above 1 takes"
    assert [note.startswith(said) for note in result.warnings] == [True] * (sampler != "ddim")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_single_pass_draws_as_asked(pipeline: ImagePromptPipeline, sampler: Any) -> None:
    assert ASKED.inpaint is not None
    once = replace(ASKED.inpaint, repaint_passes=1)
    result = generated(pipeline, sampler=sampler, inpaint=once)
    assert (result.request.sampler, result.warnings) == (sampler, ())


def test_a_png_makes_itself_again(pipeline: ImagePromptPipeline, tmp_path: Path) -> None:
    result = generated(pipeline)
    path = tmp_path / "5.png"
    save_png(path, result.images[0], result.request, 5, 0, result.provenance)
    record = record_from_png(path)
    assert record.request.sampler == "ddim"
    again = pipeline.generate(record.request)
    assert (again.images[0], again.warnings) == (result.images[0], ())


def test_the_page_s_file_says_so(pipeline: ImagePromptPipeline) -> None:
    [path] = saved(generated(pipeline))
    assert request_from_png(Path(path)).sampler == "ddim"


def test_requests_that_share_calls(pipeline: ImagePromptPipeline) -> None:
    """Each is told what became of its own; asked for differently they run alike."""
    asked = [replace(ASKED, sampler="euler"), replace(ASKED, sampler="ddim", seed=9)]
    first, second = pipeline.generate_all(asked, share=2)
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert (first.request, second.request) == (replace(asked[0], sampler="ddim"), asked[1])
    assert (len(first.warnings), len(second.warnings)) == (1, 0)


def test_the_command_line_says_so(
    pipeline: ImagePromptPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, image in (("I.png", picture(7)), ("M.png", MASK)):
        image.save(tmp_path / name)
    code = main(
        [
            "generate",
            "--inpaint",
            str(tmp_path / "I.png"),
            "--mask",
            str(tmp_path / "M.png"),
            "--repaint-passes",
            "2",
            "--steps",
            "2",
            "--sampler",
            "euler",
            "--out",
            str(tmp_path),
        ],
        lambda *_: pipeline,
    )
    out, err = capsys.readouterr()
    assert code == 0
    assert "The sampler was ddim, not euler" in err
    assert request_from_png(json.loads(out)["path"]).sampler == "ddim"


class TestComparison:
    DOCUMENT: ClassVar[dict[str, Any]] = {
        "title": "Two scales",
        "columns": {"image_scale": [0.5, 1]},
        "request": {
            "steps": 2,
            "guidance": 3.0,
            "sampler": "dpm++",
            "references": [{"image": "a.png"}],
            "inpaint": {"image": "i.png", "mask": "m.png", "repaint_passes": 2},
        },
    }

    @pytest.fixture
    def manager(self, pipeline: ImagePromptPipeline) -> ModelManager:
        return ModelManager(pipeline)

    def spec(self, **changes: Any) -> Spec:
        def read(name: str) -> bytes:
            content = io.BytesIO()
            pictures: dict[str, Image.Image] = {
                "a.png": picture(1),
                "i.png": picture(7),
                "m.png": MASK,
            }
            pictures[name].save(content, "PNG")
            return content.getvalue()

        return spec_from_document(self.DOCUMENT | changes, read)

    def test_cells_caption_and_manifest_say_so(self, manager: ModelManager, tmp_path: Path) -> None:
        bundle = draw_comparison(self.spec(), tmp_path, manager)
        for path in sorted((tmp_path / "cells").glob("*.png")):
            assert request_from_png(path).sampler == "ddim"
        caption = (tmp_path / "figure.tex").read_text()
        assert "ddim" in caption
        assert "dpm" not in caption
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        assert {row["request"]["sampler"] for row in manifest["cells"]} == {"ddim"}
        assert [v.difference for v in Bundle(bundle).verified(manager)] == [0, 0]

    def test_a_bundle_whose_cells_say_what_was_asked_is_verified(
        self, manager: ModelManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As all were that are published already."""
        with monkeypatch.context() as before:
            before.setattr("ipadapter_demo.compare.cells.effective_request", lambda asked: asked)
            bundle = Bundle(draw_comparison(self.spec(), tmp_path, manager))
        assert b'"sampler": "dpm++"' in (tmp_path / "manifest.json").read_bytes()
        assert [(v.difference, v.message) for v in bundle.verified(manager)] == [(0, ""), (0, "")]

    @pytest.mark.parametrize("side", ["rows", "columns", "pages"])
    def test_samplers_that_would_be_one_are_not_compared(
        self, manager: ModelManager, side: str, tmp_path: Path
    ) -> None:
        """Their heads would say what was not done. Nor are noise schedules that DDIM lacks."""
        for axis, one in {"sampler": "euler", "noise_schedule": "karras"}.items():
            kept = {"sampler": "ddim", "noise_schedule": "trailing"}[axis]
            with pytest.raises(
                RequestError,
                match=rf"{axis} {one} cannot be compared while "
                r"inpaint\.repaint_passes is 2: .* set inpaint\.repaint_passes to 1",
            ):
                draw_comparison(self.spec(**{side: {axis: [kept, one]}}), tmp_path, manager)


@pytest.mark.parametrize("noise_schedule", NOISE_SCHEDULES)
def test_a_noise_schedule_that_ddim_lacks_is_the_model_s(
    pipeline: ImagePromptPipeline, noise_schedule: NoiseSchedule
) -> None:
    result = generated(pipeline, sampler="dpm++", noise_schedule=noise_schedule)
    lost = noise_schedule == "karras"
    assert result.request.noise_schedule == ("default" if lost else noise_schedule)
    said = "The noise schedule was the model's own, not karras, which ddim does not have."
    assert (said in result.warnings) == lost


def test_pixels_are_those_of_before(pipeline: ImagePromptPipeline) -> None:
    """Whatever was asked for: the same request of DDIM."""
    first, *others = (generated(pipeline, sampler=sampler).images[0] for sampler in SAMPLERS)
    for other in others:
        assert np.array_equal(np.asarray(other), np.asarray(first))


def test_what_is_drawn_instead_is_said_in_full() -> None:
    asked = replace(ASKED, sampler="euler")
    assert changed_warnings(asked, effective_request(asked)) == (
        "The sampler was ddim, not euler: inpainting with repaint_passes above 1 takes every step "
        "again, which only DDIM can.",
    )
    assert changed_warnings(asked, asked) == ()
    assert asked.inpaint is not None
    once = replace(asked, inpaint=replace(asked.inpaint, repaint_passes=1))
    assert effective_request(once) is once
    twice = replace(asked, inpaint=replace(asked.inpaint, repaint_passes=2))
    assert effective_request(twice) == replace(twice, sampler="ddim")
