"""The buttons below a result: its picture goes on to a field, its seed and settings come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ipadapter_demo.errors import RequestError
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.record import save_png
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.ui.run.model_input import model_input
from ipadapter_demo.ui.run.restore import RESTORED
from ipadapter_demo.ui.run.running import build_tab
from ipadapter_demo.ui.run.send import add_send_to, chosen
from ipadapter_demo.ui.run.tab import BuiltTab
from ipadapter_demo.ui.tabs import TABS
from ipadapter_demo.ui.widgets.results import SEND
from tests.tiny import picture

ORDER = (
    "compare",
    "reference",
    "inpaint",
    "control",
    "settings",
    "seed",
)  # as they are made to work


MADE = {"model": "tiny"}


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Two results of one request, and a preview."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    request = GenerateRequest(
        references=(Reference(image=picture(1)),), steps=3, seed=7, count=2, image_scale=0.4
    )
    for index in range(2):
        save_png(tmp_path / f"{index}.png", picture(index), request, 7 + index, index, MADE)
    picture(2).save(tmp_path / "2.png")
    return [{"image": {"path": str(tmp_path / f"{index}.png")}} for index in range(3)]


@pytest.fixture(scope="module")
def page(model: BaseModel) -> tuple[dict[str, BuiltTab], gr.Tabs, dict[Any, Any]]:
    manager = ModelManager(ImagePromptPipeline(model))
    with gr.Blocks() as blocks:
        tabs = gr.Tabs()
        built = {name: build_tab(manager, model_input(manager), TABS[name]) for name in TABS}
        compared = gr.Gallery(label="Pictures")
        add_send_to(tabs, built, compared)
    handlers = [
        f.fn for f in blocks.fns.values() if getattr(f.fn, "__name__", "") in ("send", "into")
    ]
    names = [(tab, button) for tab in built for button in ORDER]
    return built, tabs, dict(zip(names, handlers, strict=True))


@pytest.mark.parametrize("tab", TABS)
def test_a_result_goes_on_and_comes_back(
    page: tuple[dict[str, BuiltTab], gr.Tabs, dict[Any, Any]],
    gallery: list[dict[str, Any]],
    tab: str,
) -> None:
    built, tabs, send = page
    own, second = built[tab].inputs, gallery[1]["image"]["path"]
    assert set(built[tab].results.send) == set(SEND) == set(ORDER)
    assert send[tab, "reference"](gallery, 1) == {own["reference"]: second}
    updates = send[tab, "inpaint"](gallery, 1)
    assert updates[built["inpaint"].inputs["painting"]]["background"] == second
    assert updates[tabs].selected == "inpaint"
    updates = send[tab, "control"](gallery, 1)
    assert updates[built["structure"].inputs["control"]] == second
    assert updates[tabs].selected == "structure"
    assert send[tab, "seed"](gallery, 1) == {own["seed"]: 8, own["random_seed"]: False}
    beside, selected = send[tab, "compare"](gallery, 1, gallery[:1]).values()
    assert beside == [gallery[0]["image"]["path"], second]
    assert selected.selected == "compare"
    if tab == "variation":
        updates = send[tab, "settings"](gallery, 1, "tiny", "2 pictures.")
        fields = {name: updates[own[name]] for name in ("steps", "seed", "count", "image_scale")}
        assert fields == {"steps": 3, "seed": 7, "count": 2, "image_scale": 0.4}
        status = built[tab].results.status
        assert updates[status] == f'2 pictures. <span class="done">{RESTORED}</span>'
        other = send[tab, "settings"](gallery, 1, "<b>", updates[status])[status]
        assert RESTORED not in other, "another model would draw another picture"
        said = "It was drawn by tiny, and Generate draws with &lt;b&gt;.</span>"
        assert other.startswith('2 pictures. <span class="done">Its settings are')
        assert other.endswith(said)


@pytest.mark.parametrize(("number", "index"), [(None, 0), (2, 2), (9, 0), ("x", 0)])
def test_the_result_that_was_clicked_or_the_first(
    gallery: list[dict[str, Any]], number: object, index: int
) -> None:
    assert chosen(gallery, number).name == f"{index}.png"


def test_what_is_no_result_is_said(
    page: tuple[dict[str, BuiltTab], gr.Tabs, dict[Any, Any]], gallery: list[dict[str, Any]]
) -> None:
    with pytest.raises(RequestError, match="result is missing: draw something first"):
        chosen(None, 0)
    with pytest.raises(RequestError, match="result must be an uploaded file"):
        chosen([{"image": {"path": __file__}}], 0)
    with pytest.raises(gr.Error, match="PNG holds no settings"):
        page[2]["variation", "seed"](gallery, 2)


def test_a_preview_of_a_stopped_run_has_its_seed_in_the_field_and_no_settings(
    page: tuple[dict[str, BuiltTab], gr.Tabs, dict[Any, Any]], gallery: list[dict[str, Any]]
) -> None:
    built, _, send = page
    result = Path(gallery[0]["image"]["path"])
    preview = result.with_name("image.png")
    picture(3).save(preview)
    shown = [{"image": {"path": str(preview)}}]
    assert send["variation", "seed"](shown, 0) == {built["variation"].inputs["random_seed"]: False}
    with pytest.raises(gr.Error, match="the run was stopped before it was finished"):
        send["variation", "settings"](shown, 0, "tiny", "")
    assert send["variation", "reference"](shown, 0) == {
        built["variation"].inputs["reference"]: str(preview)
    }
