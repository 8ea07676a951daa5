"""The page's words: those of the field, also where an error names what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.catalog import TABLETOP
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui
from ipadapter_demo.ui.run.labels import labelled, with_labels
from ipadapter_demo.ui.run.model_input import model_input
from ipadapter_demo.ui.run.running import build_tab, drawn
from ipadapter_demo.ui.tabs import TABS
from ipadapter_demo.ui.tabs.compare.inputs import compare_inputs, compare_settings
from ipadapter_demo.ui.tabs.inpaint import EXTEND
from ipadapter_demo.ui.widgets.components import words_known
from tests.tiny import box_mask, picture

PICTURES = {"reference", "control", "painting"}
WORDS = """Load settings from an image|What CLIP sees|Fit to a square|Image strength λ|Sweep λ|
Combine|Region mask|Use only for image #|Negative image prompt|Apply to layers|Control image|
Control map (preview)|Control type|Control weight|Start (share of steps)|End (share of steps)|
Guidance start (share of steps)|Paint the area to replace (include its shadow)|Mask feather (px)|
Repaint passes|Background image prompt|Denoising strength|Attention maps|Reproduce (CLI / Python)|
Extra columns|Slider|Scores|Redraw cell|Prompt syntax|Number of images"""


def test_the_page_speaks_the_words_of_the_field(pipeline: ImagePromptPipeline) -> None:
    page = build_ui(pipeline, Settings())
    blocks = page.blocks.values()
    shown = {getattr(block, "label", None) for block in blocks}
    shown |= {block.value for block in blocks if isinstance(block, gr.Button)}
    assert not {word.strip() for word in WORDS.split("|")} - shown


def test_noise_is_called_as_its_slider_is() -> None:
    widgets = {"negative_noise": gr.Slider(label="Negative noise", render=False)}
    assert labelled("reference.noise must be 0", widgets) == "“Negative noise” must be 0"


def test_the_hint_of_a_prompt_is_a_sentence_to_copy(pipeline: ImagePromptPipeline) -> None:
    hint = words_known(replace(pipeline.info, words=TABLETOP.words)) or ""
    sentence = hint.removeprefix("Write like: ")
    assert sentence != hint
    assert set(sentence.split()) <= {*TABLETOP.words, "a", "on", "with"}


def test_where_a_prompt_is_optional_the_steps_for_one_are_said(
    pipeline: ImagePromptPipeline,
) -> None:
    def hints(**steps: int | None) -> list[str]:
        recommended = replace(TABLETOP.recommended, **steps)
        entry = replace(pipeline._model.entry, recommended=recommended)
        own = ImagePromptPipeline(replace(pipeline._model, entry=entry))
        sliders = [b for b in build_ui(own, Settings()).blocks.values() if isinstance(b, gr.Slider)]
        return [str(b.info) for b in sliders if b.label == "Steps"]

    said = "with a prompt 12 are better"  # on Structure and Inpaint, of five tabs
    assert sorted(hints(steps=8, text_steps=12, paint_steps=6)) == [*["None"] * 3, said, said]
    assert hints(steps=8, text_steps=None, paint_steps=None) == ["None"] * 5


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("variation", {"reference": None}, "“Reference” is missing: upload a picture first"),
        ("variation", {"count": 99}, "“Number of images” must be from 1 to 16, got 99"),
        ("image_text", {"weight": 3}, "“Weight” must be from 0 to 2, got 3"),
        ("image_text", {"only": 5}, "“Use only for image #” must be from 0 to 4, got 5"),
        ("image_text", {"guidance_start": 1}, "“Guidance start / end” must start before it ends"),
        ("structure", {"structure_weight": 3}, "“Control weight” must be from 0 to 2, got 3"),
        ("structure", {"control": None}, "“Control image” is missing: upload the picture"),
        ("inpaint", {"feather": 99}, "“Mask feather” must be from 0 to 64, got 99"),
        ("inpaint", {"painting": None}, "“Paint the area to replace” is missing: upload a"),
        ("inpaint", {"extend_left": -8}, "“Left” must be from 0 to 1024, got -8"),
        ("inpaint", dict.fromkeys(EXTEND, 1024), "“Outpainting” must lead to at most 2048 pixels"),
        ("variation", {"random_seed": False, "seed": None}, "“Seed” is missing"),
        (
            "variation",
            {"random_seed": False, "seed": 2**32 - 1, "count": 4},
            "“Seed” must be at most 4294967292 for 4 images, got 4294967295",
        ),
    ],
)
def test_an_error_calls_a_field_as_the_page_does(
    pipeline: ImagePromptPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    values: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    box_mask((8, 8, 40, 40)).save(tmp_path / "mask.png")
    picture(1).save(tmp_path / "picture.png")
    manager = ModelManager(pipeline)
    with gr.Blocks():
        tab = build_tab(manager, model_input(manager), TABS[name])
    pictures = {
        key: {"path": str(tmp_path / "picture.png")} for key in PICTURES & tab.inputs.keys()
    }
    asked = {key: widget.value for key, widget in tab.inputs.items()} | pictures
    if name == "inpaint":
        asked["mask"] = {"path": str(tmp_path / "mask.png")}
    updates = drawn(manager, tab, asked | values, iter, str)
    with pytest.raises(RequestError) as error:
        list(with_labels(updates, tab.inputs))
    assert str(error.value).startswith(said)
    assert not labelled("nothing of the page", tab.inputs).startswith("“")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("cell p1-r2: image_scale must be from 0 to 2", "cell p1-r2: “Image strength λ” must be"),
        ("columns: say which values of strength λ", "“Columns”: say which values of strength λ"),
        ("cell p1-r2: “Steps” is odd", "cell p1-r2: “Steps” is odd"),
    ],
)
def test_compare_calls_fields_as_it_does(
    pipeline: ImagePromptPipeline, said: str, shown: str
) -> None:
    manager = ModelManager(pipeline)
    with gr.Blocks():
        inputs = compare_inputs(manager) | compare_settings(manager)[0]
    assert labelled(said, inputs).startswith(shown)
