"""The command line on the tiny model: what it prints, what it writes, how it refuses."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from ipadapter_demo.cli import command_parser, main
from ipadapter_demo.cli.train import PARTS
from ipadapter_demo.errors import ModelError
from ipadapter_demo.imaging import read_image
from ipadapter_demo.load_options import LoadOptions
from ipadapter_demo.models.catalog import TABLETOP, CatalogEntry
from ipadapter_demo.models.published import PUBLISHED
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.pipeline import load as load_pipeline
from ipadapter_demo.record import Recording, record_from_png, request_from_png, save_png
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.training import cli as training_cli
from ipadapter_demo.training.config import FewStepConfig
from ipadapter_demo.upscale import Upscale
from tests.published import write_published
from tests.tiny import box_mask, picture

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def asked_for() -> list[tuple[str, dict[str, Any]]]:
    """The models that commands loaded, with their options."""
    return []


@pytest.fixture
def load(pipeline: ImagePromptPipeline, asked_for: list) -> Callable[..., ImagePromptPipeline]:
    def load(
        model: str, options: LoadOptions | None = None, *_: Any, **fields: Any
    ) -> ImagePromptPipeline:
        asked_for.append((model, asdict(replace(options or LoadOptions(), **fields))))
        return pipeline

    return load


@pytest.fixture
def run(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """A command line, given as words, in a folder with pictures -> its JSON lines."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("R", "S", "C", "I"), 1):
        picture(seed).save(f"{name}.png")
    box_mask((10, 10, 50, 45)).save("M.png")

    def run(*words: str) -> list[dict[str, Any]]:
        status = main(words, load)
        out, err = capsys.readouterr()
        assert status == 0, err
        return [json.loads(line) for line in out.splitlines()]

    return run


def refused(capsys: pytest.CaptureFixture[str], load: Any, *words: str) -> str:
    """The message of a command line that ends with status 2, and nothing on stdout."""
    assert main(words, load) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, "one line, no traceback"
    return err


class TestGenerate:
    def test_a_line_and_a_png_for_each_picture(self, run: Run) -> None:
        lines = run("generate", "--reference", "R.png", "--seed", "7", "--count", "2")
        assert [line.keys() for line in lines] == [{"path", "seed", "seconds"}] * 2
        assert [line["path"] for line in lines] == ["outputs/7.png", "outputs/8.png"]
        for index, line in enumerate(lines):
            record = record_from_png(line["path"])
            assert (record.seed, record.index) == (line["seed"], index)
            assert record.request.references[0].image == picture(1)

    def test_pictures_that_no_output_can_hold_are_refused_before_they_are_drawn_from(
        self,
        load: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        picture(1).save("R.png")
        monkeypatch.setattr("ipadapter_demo.record.MAX_RECORD_BYTES", 1000)
        monkeypatch.setattr(ImagePromptPipeline, "stream", None)
        said = refused(capsys, load, "generate", "--reference", "R.png")
        assert "the pictures of a request may take 1,000 bytes inside an output PNG" in said
        monkeypatch.setattr("ipadapter_demo.record_pictures.MAX_RECORD_PIXELS", 1000)
        said = refused(capsys, load, "generate", "--reference", "R.png")
        assert "the pictures of a request may have 1,000 pixels in all, got 4,096: use" in said

    def test_two_that_draw_at_once_take_two_names(
        self, run: Run, load: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second begins and ends while the first one writes."""
        words = ["generate", "--reference", "R.png", "--steps", "1", "--prompt"]
        before: list[Path] = []

        def save(recording: Recording, target: Any, *rest: Any) -> None:
            if isinstance(target, Path):
                before.append(target)
                if len(before) == 1:
                    assert main([*words, "second"], load) == 0
            whole(recording, target, *rest)

        whole = Recording.save
        monkeypatch.setattr(Recording, "save", save)
        run(*words, "first")
        drawn = {p.name: request_from_png(p).prompt for p in Path("outputs").iterdir()}
        assert drawn == {"0.png": "first", "0-2.png": "second"}

    def test_an_output_that_cannot_be_written_leaves_no_empty_file(
        self, run: Run, load: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: Recording, target: Any, *rest: Any) -> None:
            if isinstance(target, Path):
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(Recording, "save", full)
        assert main(["generate", "--steps", "1", "--reference", "R.png"], load) == 2
        assert not list(Path("outputs").iterdir())

    def test_what_is_not_given_is_what_the_model_recommends(self, run: Run) -> None:
        (line,) = run("generate", "--reference", "R.png")
        request = request_from_png(line["path"])
        assert (request.guidance, request.steps, request.image_scale) == (3.0, 3, 1.0)
        (line,) = run("generate", "--reference", "R.png", "--prompt", "a cube")
        assert request_from_png(line["path"]).image_scale == 0.6
        (line,) = run("generate", "--reference", "R.png", "--structure", "canny=C.png")
        assert request_from_png(line["path"]).image_scale == 0.8

    def test_layers_by_name(self, run: Run) -> None:
        for name, layers in (("ease in", "ease in"), ("linear", "all")):
            (line,) = run("generate", "--reference", "R.png", "--layers", name, "--steps", "1")
            assert request_from_png(line["path"]).image_layers == layers

    def test_every_option_reaches_the_request(self, run: Run) -> None:
        (line,) = run(
            *("generate", "--prompt", "a cube", "--negative-prompt", "blur", "--scale", "0.9"),
            *("--scale-window", "0.1", "0.9", "--guidance", "2.5", "--steps", "4"),
            *("--guidance-window", "0.2", "0.8"),
            *("--adapter", "plus", "--prompt-syntax", "weighted", "--clip-skip", "1"),
            *("--prompt-2", "a cone", "--negative-prompt-2", "dots"),
            *("--sampler", "ddim", "--noise-schedule", "trailing", "--seed", "3"),
            *("--count", "1", "--width", "72"),
            *("--height", "64", "--fit", "pad", "--reference", "R.png", "--reference", "S.png"),
            *("--reference-weight", "1", "--reference-weight", "0.5"),
            *("--reference-mask", "M.png", "--reference-mask", "-", "--combine", "average"),
            *("--reference-window", "0", "0.5", "--reference-only", "0"),
            *("--layers", "1,1,0.5,0,0,1,1", "--guidance-rescale", "0.3"),
            *("--negative-reference", "C.png", "--structure", "canny=C.png"),
            *("--structure", "palette:none=S.png", "--structure-weight", "0.7"),
            *("--structure-window", "0", "0.5", "--inpaint", "I.png", "--mask", "M.png"),
            *("--strength", "0.9", "--feather", "4", "--context", "0.6"),
            *("--background-weight", "0.7"),
            *("--out", "there/and/here"),
        )
        request = request_from_png(line["path"])
        assert Path(line["path"]).parent == Path("there/and/here")
        assert (request.prompt, request.negative_prompt) == ("a cube", "blur")
        assert (request.prompt_2, request.negative_prompt_2) == ("a cone", "dots")
        assert (request.prompt_syntax, request.clip_skip) == ("weighted", 1)
        assert (request.image_scale, request.image_window) == (0.9, (0.1, 0.9))
        assert (request.adapter, request.combine) == ("plus", "average")
        assert list(request.image_layers) == [1, 1, 0.5, 0, 0, 1, 1]
        assert (request.guidance_rescale, request.guidance_window) == (0.3, (0.2, 0.8))
        first, second, _ = request.references
        assert first.mask is not None
        assert (second.mask, first.window, second.window) == (None, (0, 0.5), (0, 0.5))
        assert (first.only_image, second.only_image) == (0, 0)
        assert (request.guidance, request.steps) == (2.5, 4)
        assert (request.sampler, request.noise_schedule) == ("ddim", "trailing")
        assert (request.seed, request.count, request.width, request.height) == (3, 1, 72, 64)
        assert [(r.image, r.weight, r.fit, r.negative) for r in request.references] == [
            (picture(1), 1.0, "pad", False),
            (picture(2), 0.5, "pad", False),
            (picture(3), 1.0, "pad", True),
        ]
        assert [(s.kind, s.annotator, s.weight, s.window) for s in request.structures] == [
            ("canny", "canny", 0.7, (0.0, 0.5)),
            ("palette", "none", 0.7, (0.0, 0.5)),
        ]
        assert request.inpaint is not None
        given = request.inpaint
        assert (given.strength, given.feather, given.context) == (0.9, 4, 0.6)
        assert given.background_weight == 0.7

    def test_every_reference_has_its_own_fit(self, run: Run) -> None:
        (line,) = run(
            "generate",
            "--reference",
            "R.png",
            "--reference",
            "S.png",
            "--fit",
            "pad",
            "--fit",
            "squash",
        )
        request = request_from_png(line["path"])
        assert [reference.fit for reference in request.references] == ["pad", "squash"]

    def test_a_start_picture(self, run: Run) -> None:
        (line,) = run("generate", "--init", "I.png", "--strength", "0.4")
        request = request_from_png(line["path"])
        assert (request.init_image, request.strength) == (picture(4), 0.4)

    def test_two_passes(self, run: Run) -> None:
        (line,) = run(
            "generate", "--reference", "R.png", "--upscale", "1.5", "--enlarge", "latents"
        )
        request = request_from_png(line["path"])
        assert request.upscale == Upscale(factor=1.5, enlarge="latents")
        assert read_image(line["path"]).size == (96, 96)
        (other,) = run("generate", "--from-png", line["path"], "--upscale-strength", "0.7")
        assert request_from_png(other["path"]).upscale == replace(request.upscale, strength=0.7)

    @pytest.mark.parametrize("mask", [(), ("--mask", "M.png")])
    def test_a_picture_that_goes_on(self, run: Run, mask: tuple[str, ...]) -> None:
        """What there was stays as it is, but for the mask."""
        (line,) = run("generate", "--inpaint", "I.png", "--extend", "16", "0", "0", "8", *mask)
        made, given = read_image(line["path"]), read_image("I.png").convert("RGB")
        assert made.size == (given.width + 16, given.height + 8)
        rest = made.crop((16, 0, 16 + given.width, given.height))
        changed = ImageChops.difference(rest, given).getbbox()
        assert changed is None if not mask else changed is not None

    def test_a_png_made_again(self, run: Run) -> None:
        """Law 10, from one end to the other."""
        lines = run(
            "generate",
            "--reference",
            "R.png",
            "--inpaint",
            "I.png",
            "--mask",
            "M.png",
            "--count",
            "2",
        )
        assert request_from_png(lines[0]["path"]).guidance == 2.0, "recommended where one paints"
        again = run("generate", "--from-png", lines[1]["path"])
        assert [line["path"] for line in again] == ["outputs/0-2.png", "outputs/1-2.png"]
        for first, second in zip(lines, again, strict=True):
            assert Path(first["path"]).read_bytes() == Path(second["path"]).read_bytes()

    def test_a_png_made_again_with_a_difference(self, run: Run, asked_for: list) -> None:
        (line,) = run("generate", "--reference", "R.png", "--prompt", "a cube", "--scale", "1.2")
        (other,) = run("generate", "--from-png", line["path"], "--seed", "9", "--model", "other")
        first, second = (request_from_png(made["path"]) for made in (line, other))
        assert (second.seed, second.image_scale, second.prompt) == (9, 1.2, "a cube")
        assert second.references == first.references
        run("generate", "--from-png", line["path"])
        assert [model for model, _ in asked_for] == ["tabletop", "other", "tiny"]

    def test_parts_of_a_png_are_changed(self, run: Run) -> None:
        (line,) = run("generate", "--inpaint", "I.png", "--mask", "M.png", "--feather", "3")
        (other,) = run(
            "generate", "--from-png", line["path"], "--strength", "0.5", "--context", "0"
        )
        first, second = (request_from_png(made["path"]) for made in (line, other))
        assert first.inpaint is not None
        assert second.inpaint == replace(first.inpaint, strength=0.5, context=0.0)
        (line,) = run("generate", "--init", "I.png", "--seed", "8")
        (other,) = run("generate", "--from-png", line["path"], "--strength", "0.4")
        assert request_from_png(other["path"]) == replace(
            request_from_png(line["path"]), strength=0.4
        )

    def test_other_weights_than_those_of_a_png_are_said(
        self, run: Run, load: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (line,) = run("generate", "--reference", "R.png")
        record = record_from_png(line["path"])
        image = read_image(Path(line["path"]))
        others = record.provenance | {"weights": {"ip-adapter.safetensors": "0" * 64}}
        weights = record.provenance["weights"]
        assert isinstance(weights, dict)
        one = dict(list(weights.items())[:1])  # an older record, which named fewer files
        older = record.provenance | {"weights": one}
        for name, provenance in (
            ("same.png", record.provenance),
            ("other.png", others),
            ("older.png", older),
        ):
            save_png(name, image, record.request, record.seed, 0, provenance)
            assert main(["generate", "--from-png", name], load) == 0
            said = f"{name} was made with other weights" in capsys.readouterr().err
            assert said == (name == "other.png")

    def test_flag_before_variable_before_default(
        self, run: Run, asked_for: list, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("MODEL", "DEVICE", "DTYPE"):
            monkeypatch.delenv(f"IPADAPTER_{name}", raising=False)
        run("generate")
        monkeypatch.setenv("IPADAPTER_MODEL", "mine")
        monkeypatch.setenv("IPADAPTER_DTYPE", "float32")
        run("generate")
        run("generate", "--model", "yours", "--device", "cuda:1")
        asked = [
            (model, {name: options[name] for name in ("device", "dtype")})
            for model, options in asked_for
        ]
        assert asked == [
            ("tabletop", {"device": None, "dtype": "auto"}),
            ("mine", {"device": None, "dtype": "float32"}),
            ("yours", {"device": "cuda:1", "dtype": "float32"}),
        ]

    def test_a_note_goes_to_stderr(
        self, load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["generate", "--prompt", "a " * 60, "--out", str(tmp_path)], load) == 0
        assert "the model reads the first 16" in capsys.readouterr().err


BAD_INPUT = [
    ("--reference nowhere.png", "--reference nowhere.png cannot be read: No such file"),
    ("--reference text.txt", "--reference text.txt is not a picture"),
    ("--scale 3", "image_scale must be from 0 to 2, got 3.0"),
    ("--scale nan", "image_scale must be from 0 to 2, got nan"),
    ("--scale-window 0.5 0.5", "image_window must start before it ends"),
    ("--steps 0", "steps must be from 1 to 200, got 0"),
    ("--width 100", "width must be a multiple of 8, got 100"),
    ("--reference-weight 1", "--reference-weight must be given once, or once for each"),
    ("--structure-window 0 1", "--structure-window needs a --structure"),
    ("--structure depth=R.png", "structure.kind must be one of those of tiny (canny, palette)"),
    ("--structure canny:palette=R.png", "structure.annotator for canny must be one of"),
    ("--inpaint R.png", "--inpaint and --mask must be given together"),
    ("--mask R.png", "--inpaint and --mask must be given together"),
    ("--inpaint R.png --mask black.png", "inpaint.mask is empty"),
    ("--strength 0.5", "--strength needs --inpaint or --init"),
    ("--upscale 1", "upscale.factor must be above 1 and at most 4, got 1.0"),
    ("--upscale 40", "upscale.factor must be from 1 to 4, got 40.0"),
    ("--upscale-strength 0.5", "--upscale-strength needs --upscale"),
    ("--enlarge latents", "--enlarge needs --upscale"),
    ("--extend 8 0 0 0", "--extend needs --inpaint"),
    ("--inpaint R.png --extend 0 0 0 0", "extend must be above 0 on one side, got 0 on all four"),
    ("--inpaint R.png --extend 0 0 9999 0", "extend.right must be from 0 to 1024, got 9999"),
    ("--inpaint R.png --extend 0 0 -8 0", "extend.right must be from 0 to 1024, got -8"),
    ("--feather 2", "--feather needs --inpaint"),
    ("--context 0.5", "--context needs --inpaint"),
    ("--background-weight 1", "--background-weight needs --inpaint"),
    ("--fit pad", "--fit needs a --reference"),
    ("--from-png R.png", "--from-png R.png: PNG holds no settings"),
    ("--from-png nowhere.png", "--from-png nowhere.png: PNG cannot be read: No such file"),
    ("--device gpu", "device must be cpu, mps, cuda"),
    ("--negative-reference empty", "--negative-reference must be a picture or a file of embeds,"),
    ("--reference empty --attention-maps", "--attention-maps are of one reference picture"),
    ("--lora style.ckpt", "lora must be FILE.safetensors or FILE.safetensors:WEIGHT, or a LoRA's"),
    ("--lora style.safetensors:abc", "lora must be FILE.safetensors or FILE.safetensors:WEIGHT"),
    ("--out text.txt", "text.txt: File exists"),
]


class TestRefusals:
    @pytest.mark.parametrize(("options", "message"), BAD_INPUT)
    def test_bad_input_is_one_clear_line(
        self,
        load: Any,
        options: str,
        message: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        picture(1).save("R.png")
        Image.new("L", (64, 64)).save("black.png")
        Path("text.txt").write_text("no picture")
        Path("empty").mkdir()
        line = refused(capsys, load, "generate", *options.split())
        assert line.startswith("python -m ipadapter_demo generate: ")
        assert message in line

    def test_a_model_that_cannot_be_loaded(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def load(model: str, *_: Any) -> ImagePromptPipeline:
            raise ModelError(f"model must be one of tabletop, got {model!r}")

        for words in (
            ["generate", "--out", str(tmp_path)],
            ["evaluate", "--out", str(tmp_path / "report.json")],
        ):
            assert "got 'sd0'" in refused(capsys, load, *words, "--model", "sd0")

    def test_the_real_loader_refuses_as_well(
        self, entry: CatalogEntry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["generate", "--out", str(tmp_path), "--model", "sd0"]
        assert "model must be one of" in refused(capsys, None, *words)
        with pytest.raises(ModelError, match="device cuda:99 cannot be used here"):
            load_pipeline(entry, device="cuda:99")

    @pytest.mark.parametrize(
        "words",
        [
            "",
            "paint",
            "generate --steps many",
            "generate --sampler magic",
            "generate --noise-schedule magic",
            "generate --structure C.png",
            "generate --structure =C.png",
            "generate --layers some",
            "generate --unknown 1",
            "render",
            "render --out there --count 0",
            "train everything",
            "evaluate",
        ],
    )
    def test_what_is_no_command_line_gets_the_usage(
        self, words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(words.split())
        assert "usage: python -m ipadapter_demo" in capsys.readouterr().err


class TestRender:
    def test_scenes_and_the_truth_about_them(self, run: Run) -> None:
        assert run("render", "--count", "3", "--seed", "5", "--size", "32", "--out", "scenes") == [
            {"path": "scenes/scene.json", "scenes": 3}
        ]
        scenes = json.loads(Path("scenes/scene.json").read_text())
        assert [scene["file"] for scene in scenes] == ["0000.png", "0001.png", "0002.png"]
        for scene in scenes:
            first = scene["truth"]["solids"][0]
            assert f"{first['colour']} {first['texture']} {first['shape']}" in scene["caption"]
            with Image.open(Path("scenes", scene["file"])) as image:
                assert (image.size, image.mode) == ((32, 32), "RGB")
        assert len(list(Path("scenes").iterdir())) == 4

    def test_equal_seeds_give_equal_files(self, run: Run) -> None:
        for folder in ("a", "b"):
            run("render", "--count", "2", "--size", "32", "--maps", "--out", folder)
        names = sorted(path.name for path in Path("a").iterdir())
        assert all(Path("a", n).read_bytes() == Path("b", n).read_bytes() for n in names)

    def test_maps_are_the_truth_as_pictures(self, run: Run) -> None:
        run("render", "--count", "4", "--size", "64", "--maps", "--out", "scenes")
        for scene in json.loads(Path("scenes/scene.json").read_text()):
            maps = {
                kind: np.asarray(Image.open(Path("scenes", name)))
                for kind, name in scene["maps"].items()
            }
            solids = len(scene["truth"]["solids"])
            assert maps.keys() == {"edges", "depth", *(f"mask-{i + 1}" for i in range(solids))}
            assert {map_.shape for map_ in maps.values()} == {(64, 64)}
            assert set(np.unique(maps["mask-1"])) == {0, 255}
            assert set(np.unique(maps["edges"])) == {0, 255}
            inside = maps["mask-1"] > 0
            assert maps["depth"].dtype == np.uint16
            assert 2000 < maps["depth"][inside].mean() < maps["depth"][~inside].max() < 12000


def stub(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """Stand in for a module that takes minutes to do its work."""
    module = types.ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(name, module, raising=False)  # where a real one was imported before


def test_evaluate_writes_what_the_report_says(
    run: Run, pipeline: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(
        given: ImagePromptPipeline, scenes: int, seed: int, progress: Any, draw: Any
    ) -> dict:
        assert given is pipeline
        assert len(draw([GenerateRequest(steps=1)])) == 1
        progress("variation")
        return {"scenes": scenes, "seed": seed}

    stub(monkeypatch, "ipadapter_demo.evaluation.report", evaluate=evaluate)
    assert run("evaluate", "--out", "new/report.json", "--scenes", "5") == [
        {"path": "new/report.json"}
    ]
    report = json.loads(Path("new/report.json").read_text())
    assert report == {"scenes": 5, "seed": 900_001}


def test_a_report_is_written_whole(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file in the place of the earlier one, which another name still has."""
    stub(monkeypatch, "ipadapter_demo.evaluation.report", evaluate=lambda *_, **__: {"new": 1})
    Path("report.json").write_text("old")
    os.link("report.json", "other.json")
    run("evaluate", "--out", "report.json")
    assert json.loads(Path("report.json").read_text()) == {"new": 1}
    assert Path("other.json").read_text() == "old"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate --out .", "out must be the report.json to write, got the folder ."),
        ("evaluate --out r.json --model sd15", "model must be tabletop for evaluate, got 'sd15'"),
        ("sheets --model sd15", "model must be tabletop for sheets, got 'sd15'"),
        ("evaluate --out r.json --vae v", "vae must be tabletop's own for evaluate, got 'v'"),
    ],
)
def test_what_tabletop_s_measurements_cannot_use_is_said_before_it_is_loaded(
    words: str,
    message: str,
    load: Any,
    asked_for: list,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    stub(monkeypatch, "ipadapter_demo.evaluation.report", evaluate=lambda *_, **__: {})
    stub(monkeypatch, "ipadapter_demo.evaluation.sheets", draw_sheets=lambda *_: [])
    assert message in refused(capsys, load, *words.split())
    assert not asked_for
    assert not list(tmp_path.iterdir())


def test_a_model_of_the_environment_is_refused_as_well(
    load: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPADAPTER_MODEL", "sdxl")
    stub(monkeypatch, "ipadapter_demo.evaluation.sheets", draw_sheets=lambda *_: [])
    assert "model must be tabletop for sheets, got 'sdxl'" in refused(capsys, load, "sheets")


def test_models_are_listed_with_what_is_at_hand(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_published(tmp_path, "sd15")
    built_in, *published = run("models", "--models-dir", str(tmp_path))
    assert built_in["name"] == "tabletop"
    assert {row["name"]: row["present"] for row in published} == {
        name: name == "sd15" for name in PUBLISHED
    }
    by_name = {row["name"]: row for row in published}
    assert by_name["sd15-plus"]["missing_megabytes"] == 98  # base and encoder are at hand
    assert by_name["sdxl"]["missing_megabytes"] == 6940 + 698  # the encoder is sd15's
    assert by_name["sdxl-bigg"]["missing_megabytes"] == by_name["sdxl-bigg"]["megabytes"] > 11_000
    monkeypatch.setenv("IPADAPTER_MODELS_DIR", str(tmp_path))
    assert run("models")[1]["present"] is True


def test_sheets_are_drawn_where_asked(
    run: Run, pipeline: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(
        monkeypatch,
        "ipadapter_demo.evaluation.sheets",
        draw_sheets=lambda given, out: [out / "overview.webp"] * (given is pipeline),
    )
    assert run("sheets", "--out", "there") == [{"path": "there/overview.webp"}]


def test_train_passes_everything_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def train(part: str, runs: Path, out: Path, **options: Any) -> dict:
        calls.append((part, runs, out, options))
        return {"loss": 0.5}

    stub(
        monkeypatch,
        "ipadapter_demo.training.tabletop.recipes",
        train=train,
        PICTURES=32768,
        OUT=Path("shipped"),
    )
    assert run(
        "train",
        "vae",
        "--steps",
        "3",
        "--device",
        "cpu",
        "--runs",
        "r",
        "--out",
        "o",
        "--threads",
        "1",
    ) == [{"part": "vae", "loss": 0.5}]
    assert calls == [
        ("vae", Path("r"), Path("o"), {"steps": 3, "device": "cpu", "pictures": 32768})
    ]


@pytest.mark.slow
def test_the_parts_are_those_of_the_recipes() -> None:
    from ipadapter_demo.training.tabletop.recipes import PICTURES, RECIPES

    assert tuple(RECIPES) == PARTS
    assert f"[{PICTURES}]" in _help("train", "vae")


def _help(*command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "ipadapter_demo", *command, "--help"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.parametrize("words", ["generate --help", "claims --help", "train few-step --help"])
def test_help_is_shown_where_a_terminal_has_no_greek(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a Western Windows, whose code page has no λ."""
    shown = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", shown)
    with pytest.raises(SystemExit, match="0"):
        main(words.split())
    shown.flush()
    assert b"?" in shown.buffer.getvalue()  # type: ignore[attr-defined]


def test_help_of_a_training_that_is_launched_is_shown_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "argv", ["few_step", "--help"])
    with pytest.raises(SystemExit, match="0"):
        training_cli.main("", FewStepConfig, lambda _: pytest.fail("nothing is trained"))
    shown.flush()
    assert b"largest ? of an image prompt" in shown.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "command",
    [
        "generate",
        "compare",
        "render",
        "evaluate",
        "models",
        "sheets",
        "claims",
        "serve",
        "train vae",
        "train image-adapter",
        "train structure",
        "train few-step",
    ],
)
def test_help_explains_every_option(command: str) -> None:
    parser = command_parser()
    for name in command.split():
        parser = parser._subparsers._group_actions[0].choices[name]  # type: ignore
    assert all(action.help for action in parser._actions)
    assert parser.description


def test_help_of_generate_says_what_the_built_in_model_has() -> None:
    parser = command_parser()._subparsers._group_actions[0].choices["generate"]  # type: ignore
    said = {action.dest: action.help for action in parser._actions}
    known = TABLETOP.recommended
    assert f"tabletop: {', '.join(TABLETOP.structures)})" in said["structure"]
    assert said["image_scale"].endswith(
        f"tabletop {known.image_scale:g}, beside a prompt {known.text_image_scale:g}, "
        f"beside a structure {known.map_image_scale:g}]"
    )
    assert said["steps"].endswith(
        f"tabletop {known.steps}, inpainting {known.paint_steps}, with a prompt {known.text_steps}]"
    )
    for name in ("guidance", "repaint_passes", "background_weight"):
        assert said[name].endswith(f"tabletop {getattr(known, name):g}]")


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys\nfrom ipadapter_demo.cli import main\n"
        "try:\n    main(['generate', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'diffusers', 'gradio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_page_does_not_wait_for_what_only_pictures_and_figures_need() -> None:
    code = (
        "import sys, ipadapter_demo.ui\n"
        "late = {'transformers', 'diffusers', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "assert not late, late"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_old_record_may_name_any_model(load: Any, tmp_path: Path, asked_for: list) -> None:
    path = tmp_path / "old.png"
    save_png(path, picture(1), GenerateRequest(steps=1), 0, 0, {"model": ["not", "a", "name"]})
    assert main(["generate", "--from-png", str(path), "--out", str(tmp_path)], load) == 0
    assert asked_for[0][0] == "tabletop"


class TestCompare:
    SPEC = (
        "columns: {image_scale: [0, 1]}\nrows: {reference: [R.png, S.png]}\n"
        "request: {steps: 1}\nmodel: tabletop\n"
    )

    @pytest.fixture
    def compare(
        self, run: Run, pipeline: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch
    ) -> Run:
        """The tiny model stands for tabletop, under its name."""
        monkeypatch.setitem(pipeline.__dict__, "info", replace(pipeline.info, name="tabletop"))
        Path("spec.yaml").write_text(self.SPEC)
        return lambda *words: run("compare", *words)

    def test_cells_then_a_bundle_that_holds_when_drawn_again(self, compare: Run) -> None:
        *cells, bundle = compare("spec.yaml", "--out", "out")
        assert [line["cell"] for line in cells] == ["p1-r1-c1", "p1-r1-c2", "p1-r2-c1", "p1-r2-c2"]
        assert all(Path(line["path"]).is_file() for line in cells)
        assert bundle == {"path": str(Path("out/bundle.zip"))}
        assert compare("spec.yaml", "--out", "out") == [bundle], "nothing is left to draw"
        assert [line["difference"] for line in compare("--verify", "out/bundle.zip")] == [0] * 4

    def test_the_cost_and_the_schema_draw_nothing(
        self, compare: Run, load: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        [cost] = compare("spec.yaml", "--cost")
        assert (cost["cells"], cost["steps"]) == (4, 4)
        assert main(["compare", "--schema"], load) == 0
        assert json.loads(capsys.readouterr().out)["title"] == "A comparison"
        assert not Path("comparison").exists()

    def test_a_cell_that_fails_is_named_and_the_status_says_so(
        self, compare: Run, load: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("spec.yaml").write_text(
            self.SPEC.replace("image_scale: [0, 1]", "adapter: [base, nonesuch]")
        )
        assert main(["compare", "spec.yaml"], load) == 2
        out, err = capsys.readouterr()
        lines = [json.loads(line) for line in out.splitlines()]
        assert sum("error" in line for line in lines) == 2
        assert "2 of 4 cells could not be drawn (p1-r1-c2, p1-r2-c2)" in err
        assert Path("comparison/bundle.zip").is_file()

    def test_a_damaged_cell_is_named_and_drawn_again(
        self, compare: Run, load: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        *_, bundle = compare("spec.yaml", "--out", "out")
        whole = Path("out/bundle.zip").read_bytes()
        Path("out/cells/p1-r2-c1.png").write_bytes(b"")
        assert main(["compare", "spec.yaml", "--out", "out"], load) == 0
        out, err = capsys.readouterr()
        assert "cells/p1-r2-c1.png is drawn again: file is an empty file" in err
        assert json.loads(out.splitlines()[-1]) == bundle
        assert Path("out/bundle.zip").read_bytes() == whole

    def test_a_cut_spec_is_said(
        self, compare: Run, load: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        compare("spec.yaml", "--out", "out")
        text = Path("out/spec.json").read_text()
        Path("out/spec.json").write_text(text[: len(text) // 2])
        assert main(["compare", "spec.yaml", "--out", "out"], load) == 2
        assert "out: out/spec.json is damaged" in capsys.readouterr().err
        assert "spec.json: spec is neither JSON" in refused(
            capsys, load, "compare", "out/spec.json"
        )

    def test_what_the_bundle_lacks_is_said(
        self, compare: Run, load: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "config.json").write_text("{}")
        assert main(["compare", "spec.yaml", "--clip", str(tmp_path)], load) == 0
        assert "scores.csv could not be made: clip:" in capsys.readouterr().err
        assert Path("comparison/bundle.zip").is_file()

    def test_another_weight_is_noticed(
        self,
        compare: Run,
        pipeline: ImagePromptPipeline,
        load: Any,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        compare("spec.yaml", "--out", "out")
        weight = pipeline._model.adapters["base"].layers[0].to_v_ip.weight
        tokens = pipeline._conditioner.references._tokens_cache  # with K' and V' by these weights
        before = weight.detach().clone()  # in float32, w * 5 / 5 is not always w
        with torch.no_grad():
            weight.mul_(5.0)
        try:
            tokens._entries.clear()
            assert main(["compare", "--verify", "out/bundle.zip"], load) == 2
        finally:
            with torch.no_grad():
                weight.copy_(before)
            tokens._entries.clear()
        assert "2 cells are not those of the bundle: p1-r1-c2, p1-r2-c2" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "a spec is missing"),
            (["nowhere.yaml"], "nowhere.yaml cannot be read"),
            (["spec.yaml", "--verify", "x.zip"], "--verify takes a bundle and no spec"),
            (["--verify", "x.zip"], "x.zip cannot be read: No such file or directory"),
            (["--verify", "spec.yaml"], "spec.yaml is no bundle: File is not a zip file"),
            (["spec.yaml", "--clip", "none"], "--clip none holds no CLIP model: it has no config"),
        ],
    )
    def test_mistakes_are_named(
        self,
        compare: Run,
        load: Any,
        words: list[str],
        message: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert message in refused(capsys, load, "compare", *words)


@pytest.mark.parametrize("missing", ["images", "captions", "clip"])
def test_evaluate_coco_says_what_it_needs(
    missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"images": "i", "captions": "c", "clip": "m"}
    given = [w for name, value in words.items() if name != missing for w in (f"--{name}", value)]
    assert main(["evaluate", "coco", "--out", str(tmp_path), *given]) == 2
    assert f"evaluate coco needs --{missing}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "--steps", "4"], "--steps goes with evaluate coco alone"),
        (["evaluate", "--guidance", "0"], "--guidance goes with evaluate coco alone"),
        (["evaluate", "coco", "--scenes", "4"], "--scenes goes with evaluate alone"),
        (["claims", "scale"], "docs must be a folder with claims.md, got "),
        (["claims", "methods", "--workers", "2"], "--workers goes with claims structure and"),
        (["claims", "data", "--dtype", "float32"], "--dtype goes with claims structure and claims"),
        (["claims", "plus", "--runs", "r"], "--runs goes with studies that train, and not with"),
    ],
)
def test_what_a_measurement_would_not_use_is_said_at_once(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = "--docs" if words[0] == "claims" else "--out"
    assert main([*words, place, str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_train_on_pictures_is_asked_for_by_data_or_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--run", str(tmp_path), "--out", str(tmp_path), "--base", "tabletop"]
    for part in ("image-adapter", "structure"):
        assert main(["train", part, "--data", "nowhere.tar", "--device", "cpu", *place]) == 2
        assert "data: nowhere.tar is neither a .tar file" in capsys.readouterr().err
    assert main(["train", "image-adapter", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_steps_that_are_no_number_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "image-adapter", "--steps", "many"]) == 2
    assert "steps must be a whole number, got 'many'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "words", "message"),
    [
        ("image-adapter", ["--steps", "0"], "steps must be at least 1, got 0"),
        ("image-adapter", ["--out", "a"], "got a, which has no tokenizer; on pictures of your"),
        ("text-encoder", ["--out", "a"], "what comes before text-encoder in the tabletop model, "),
        ("words", ["--out", "half"], "got half, which has no unet"),
    ],
)
def test_a_recipe_is_checked_before_pictures_are_rendered(
    part: str,
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for made in ("vae", "tokenizer"):
        (tmp_path / "half" / made).mkdir(parents=True)
    assert main(["train", part, "--pictures", "1", *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "half"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("image-adapter --run r", "--run needs --data or --config"),
        ("image-adapter --held-out h", "--held-out needs --data or --config"),
        ("few-step --base sd15", "--base needs --data or --config"),
        ("few-step --image-encoder e", "--image-encoder needs --data or --config"),
        ("few-step --models-dir m", "--models-dir needs --data or --config"),
        ("image-adapter --data none.tar --runs r", "--runs goes with neither --data nor --config"),
        ("few-step --config c.yaml --pictures 4", "--pictures goes with neither --data nor --con"),
    ],
)
def test_a_training_is_a_recipe_or_one_s_own(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words.split(), "--out", "a"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_scene_that_is_too_large_is_refused(
    load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["render", "--size", "100000", "--out", str(tmp_path)]
    assert "--size must be at most 512, got 100000" in refused(capsys, load, *words)


@pytest.mark.parametrize(
    "words", [["render"], ["evaluate"], ["train", "structure", "--data", "none.tar", "--run", "r"]]
)
def test_a_seed_that_is_too_large_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        assert main([*words, "--seed", "99999999999999999999", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert re.search(r"seed:? must be (a whole number )?from 0 to 4294967295, got", said)


def test_shards_of_other_settings_are_no_part_of_new_ones(
    run: Run, load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["render", "--shards", "--count", "3", "--size", "32", "--out", str(tmp_path)]
    rows = run(*words)
    written = (tmp_path / "00000.tar").stat().st_mtime_ns
    assert run(*words) == rows
    for other in (["--seed", "1"], ["--finishes"], ["--count", "4"], ["--size", "16"]):
        line = refused(capsys, load, *words, *other)
        assert "holds shards of other settings (count 3, seed 0, size 32, finishes False)" in line
    assert "--maps are not written into --shards" in refused(capsys, load, *words, "--maps")
    assert (tmp_path / "00000.tar").stat().st_mtime_ns == written


def test_render_writes_shards(run: Run, tmp_path: Path) -> None:
    rows = run("render", "--shards", "--count", "3", "--size", "32", "--out", str(tmp_path))
    assert rows == [{"path": str(tmp_path / "00000.tar")}]
