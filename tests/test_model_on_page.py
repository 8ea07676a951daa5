"""What changes on the page with its model, and what stays where only a result is loaded again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.record import save_png
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui
from ipadapter_demo.ui.run.embeds import SAVED
from ipadapter_demo.ui.run.updates import updates
from tests.test_ui import built
from tests.tiny import picture

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]


@pytest.fixture
def manager(pipeline: ImagePromptPipeline, monkeypatch: pytest.MonkeyPatch) -> ModelManager:
    """Of tiny, and of other, which offers less."""
    manager, info = ModelManager(pipeline), pipeline.info
    usual = replace(info.recommended, steps=33, guidance=2.5, image_scale=0.45)
    other = replace(info, name="other", adapters=("own",), words=(), recommended=usual)
    other = replace(other, structures={"canny": ("none",)})
    infos = {info.name: info, "other": other}
    monkeypatch.setattr(manager, "info_of", infos.get)
    monkeypatch.setattr(ModelManager, "models", property(lambda _: {n: n for n in infos}))
    return manager


@pytest.fixture
def page(manager: ModelManager) -> gr.Blocks:
    return build_ui(manager, Settings())


def handlers(page: gr.Blocks, name: str) -> list[Any]:
    return [f for f in page.fns.values() if getattr(f.fn, "__name__", "") == name]


def test_compare_follows_the_model(page: gr.Blocks) -> None:
    *axes, model = handlers(page, "follow")
    assert len(axes) == 3
    changed = {w.label: given for w, given in model.fn("other", "on a green striped floor").items()}
    values = {label: given.get("value") for label, given in changed.items()}
    assert values == {
        "Steps": 33,
        "Guidance": 2.5,
        "Image strength λ": 0.45,
        "Adapter": "own",
        "Control type": "canny/none",
        "Prompt": "in a snowy forest",
    }
    assert [value for _, value in changed["Adapter"]["choices"]] == ["own"]
    own = {w.label: given for w, given in model.fn("other", "my own").items()}
    assert "value" not in own["Prompt"]


@pytest.mark.parametrize(
    ("axis", "written", "stays"),
    [
        ("prompt", "0:1.25:0.25", False),
        ("prompt", "a cat", True),
        ("image_scale", "0:1.25:0.25", True),
        ("seed", "1:5", True),
        ("steps", "1:5", False),
        ("image_scale", "", True),
    ],
)
def test_values_of_a_preset_go_with_their_axis(
    page: gr.Blocks, axis: str, written: str, stays: bool
) -> None:
    follow = handlers(page, "follow")[0].fn
    changed = follow(axis, written, "tiny").constructor_args
    assert ("value" not in changed) is stays
    assert changed["info"]


def test_examples_of_kinds_that_a_model_lacks_are_hidden(page: gr.Blocks) -> None:
    [shown] = [f for f in handlers(page, "offered") if isinstance(f.outputs[0], gr.Dataset)]

    def kinds(name: str) -> list[str]:
        return [row[-1] for row in shown.fn(name).raw_samples]

    assert len(kinds("tiny")) > 1
    assert kinds("other") == ["canny/none"]


def test_an_example_brings_values_and_no_choices(page: gr.Blocks) -> None:
    """Else it would bring back those of the model that the page began with."""
    [shown] = [f for f in handlers(page, "offered") if isinstance(f.outputs[0], gr.Dataset)]
    [load] = [f for f in handlers(page, "load_example") if f.inputs == shown.outputs]
    brought = load.fn((0, shown.outputs[0].raw_samples[0]))
    assert all(set(one) == {"value", "__type__"} for one in brought)


@pytest.mark.parametrize("chosen", ["tiny", "other"])
def test_a_result_of_the_same_model_leaves_other_tabs_and_live_alone(
    page: gr.Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    request = GenerateRequest(references=(Reference(image=picture(1)),), steps=7)
    save_png(tmp_path / "a.png", picture(2), request, 5, 0, {"model": "tiny"})
    [restore] = handlers(page, "restore")
    [*_, update] = restore.fn({"path": str(tmp_path / "a.png")}, chosen)
    labels = {widget: str(getattr(widget, "label", "")) for widget in update}
    steps = [given for widget, given in update.items() if labels[widget] == "Steps"]
    live = [label for label in labels.values() if label.startswith("Live")]
    assert steps[0]["value"] == 7
    assert len(steps) == (1 if chosen == "tiny" else 4)
    assert bool(live) is (chosen != "tiny")


def test_a_run_after_many_pictures_has_two_columns_and_a_preview(
    pipeline: ImagePromptPipeline,
) -> None:
    with gr.Blocks():
        tab = built(pipeline, "variation")
    request = GenerateRequest(references=(Reference(image=picture(1)),), steps=1)
    first = next(updates(tab, pipeline, request, False, None))  # type: ignore[arg-type]
    gallery: Any = first[tab.results.gallery]
    assert (gallery.columns, gallery.allow_preview) == (2, True)


def test_saved_embeds_leave_what_is_said_of_the_result(
    page: gr.Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    picture(1).save(tmp_path / "a.png")
    [save] = handlers(page, "page")
    names = save.input_keyword_names
    values = dict(zip(names, (widget.value for widget in save.inputs), strict=True))
    [*_, update] = save.fn(**values | {"reference": {"path": str(tmp_path / "a.png")}})
    file, status = save.outputs
    assert update[file].value
    assert update[status] == SAVED
    assert status.parent.label == "Image embeds", "of its own"
