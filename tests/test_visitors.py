"""Several visitors of one page, in a real browser: they wait, show different models, send files
that are not kind, and get errors. Over tiny models, one of which is slow when a test says so."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from benchmarks.ports import free_port
from ipadapter_demo.errors import ModelError
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.pipeline import ImagePromptPipeline, load, prepare
from ipadapter_demo.record import save_png
from ipadapter_demo.request import GenerateRequest, Reference
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch_options
from tests.browsing import (
    browser,
    click_example,
    generate,
    open_section,
    open_tab,
    set_number,
    settle,
    visit,
)
from tests.larger import SEEN, SIDE, write_larger_model
from tests.tiny import picture

__all__ = ["browser"]  # a fixture

pytestmark = [
    pytest.mark.browser,
    # gradio counts its calls with options that pandas is about to drop.
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

HOSTILE = '<img src=x onerror="window.hit = 1">'


class Slow(ImagePromptPipeline):
    """Takes `pause` seconds a step, and fails for a prompt that asks for it."""

    pause = 0.0

    def stream(
        self, request: GenerateRequest, *how: Any, **more: Any
    ) -> Generator[Any, None, None]:
        for event in super().stream(request, *how, **more):
            if request.prompt == "fail":
                raise RuntimeError("the secret of the server")
            yield event


class Server:
    """The page over two models that can be loaded, and one that cannot; what was asked for."""

    def __init__(self, entry: CatalogEntry, folder: Path) -> None:
        other = write_larger_model(entry, folder / "other")
        self.loads: list[str] = []
        self.turns: list[str] = []

        def prepared(name: str, _: Any) -> Callable[[], ImagePromptPipeline]:
            self.loads.append(name)
            if name == "absent":
                raise ModelError(f"missing (9 MB): {HOSTILE}")
            return prepare(entry if name == "tiny" else other)

        class Counted(ModelManager):
            def turn(manager, name: str, *more: Any) -> Any:
                self.turns.append(name)
                return super().turn(name, *more)

        slow = Slow(load(entry)._model)
        slow._model.unet.register_forward_pre_hook(lambda *_: time.sleep(Slow.pause))
        self.manager = Counted(
            slow,
            prepared,
            {"other": "other", "absent": "absent (fetches 9 MB)"},
        )
        settings = Settings(port=free_port())
        self.page = build_ui(self.manager, settings)
        _, self.url, _ = self.page.launch(
            prevent_thread_lock=True, quiet=True, **launch_options(settings)
        )


@pytest.fixture(scope="module")
def server(entry: CatalogEntry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(entry, tmp_path_factory.mktemp("larger"))
    yield server
    server.page.close()


@pytest.fixture(autouse=True)
def rested(server: Server) -> Iterator[None]:
    """Every test begins with the first model, and nobody in line."""
    server.manager.with_model("tiny")
    server.loads.clear()
    server.turns.clear()
    yield
    Slow.pause = 0.0
    deadline = time.monotonic() + 60
    while server.manager.line.turns:
        assert time.monotonic() < deadline, "somebody who left still stands in line"
        time.sleep(0.05)


@pytest.fixture
def page(server: Server, browser: Browser) -> Iterator[Page]:
    with visit(browser, server.url) as page:
        yield page


@contextmanager
def slowly(pause: float) -> Iterator[None]:
    Slow.pause = pause
    try:
        yield
    finally:
        Slow.pause = 0.0


def status(panel: Locator) -> Locator:
    return panel.locator(".status").first


def ready(page: Page, steps: int) -> Locator:
    panel = open_tab(page, "Variation")
    click_example(panel, 0)
    expect(panel.locator(".filled img")).to_be_visible()
    set_number(panel, "Steps", steps)
    return panel


CONTRAST = """element => {
    const channel = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => channel(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let behind = element;
    while (/rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(behind).backgroundColor))
        behind = behind.parentElement;
    const [a, b] = [light(getComputedStyle(element).color),
                    light(getComputedStyle(behind).backgroundColor)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
}"""


# Waiting


def test_who_waits_sees_the_place_in_line_and_how_long(server: Server, browser: Browser) -> None:
    """In either theme."""
    with (
        slowly(0.4),
        visit(browser, server.url) as one,
        visit(browser, server.url, "light") as two,
        visit(browser, server.url, "dark") as three,
    ):
        first, second, third = ready(one, 50), ready(two, 50), ready(three, 50)
        first.get_by_role("button", name="Generate").click()
        expect(status(first)).to_contain_text("step")
        second.get_by_role("button", name="Generate").click()
        expect(status(second)).to_have_text(
            re.compile(r"^Waiting: place 1 in line, about \d+ s\.$"), use_inner_text=True
        )
        third.get_by_role("button", name="Sweep λ").click()
        said = third.get_by_text(re.compile(r"^Waiting: place 2 in line, about \d+ s\.$"))
        expect(said).to_be_visible()
        for waiting in (status(second), said):
            box = waiting.bounding_box()
            assert box is not None
            assert box["height"] >= 14
            assert waiting.evaluate(CONTRAST) >= 4.5
        seconds = int(re.findall(r"about (\d+)", status(second).inner_text())[0])
        assert 5 < seconds < 60, "of 50 steps of 0.4 s some are still to come"

        third.get_by_role("button", name="Stop").click()
        expect(status(third)).to_contain_text("Stopped. The pictures")
        expect(third.get_by_role("button", name="Generate")).to_be_enabled()
        first.get_by_role("button", name="Stop").click()  # while it is slow, and so not done
        Slow.pause = 0.0
        expect(status(first)).to_contain_text("Stopped. The pictures")
        expect(status(second)).to_contain_text("4 pictures in")


def test_who_leaves_stands_in_nobodys_way(server: Server, browser: Browser) -> None:
    with slowly(0.4), visit(browser, server.url) as stays:
        with visit(browser, server.url) as one, visit(browser, server.url) as two:
            for page, steps in ((one, 50), (two, 50)):
                ready(page, steps).get_by_role("button", name="Generate").click()
            expect(status(two.get_by_role("tabpanel").filter(visible=True))).to_contain_text("Wait")
        panel = ready(stays, 1)
        panel.get_by_role("button", name="Generate").click()
        expect(status(panel)).to_contain_text("4 pictures in")


# Errors


def test_the_status_says_what_is_wrong(page: Page) -> None:
    for tab, said in (
        ("Variation", "“Reference” is missing: upload a picture first"),
        ("Image + text", "“Reference” is missing: upload a picture first, or write a prompt"),
        ("Structure", "“Control image” is missing: upload the picture that says where things are"),
        (
            "Inpaint",
            "“Paint the area to replace” is missing: upload a picture, then paint over a part "
            "of it",
        ),
    ):
        panel = open_tab(page, tab)
        panel.get_by_role("button", name="Generate").click()
        expect(status(panel)).to_have_text(said, use_inner_text=True)
        expect(panel.get_by_role("button", name="Generate")).to_be_enabled()
        assert status(panel).locator(".problem").evaluate(CONTRAST) >= 4.5


def test_the_status_says_that_the_server_failed_and_not_why(page: Page) -> None:
    panel = open_tab(page, "Image + text")
    panel.get_by_placeholder("what to draw").fill("fail")
    panel.get_by_role("button", name="Generate").click()
    expect(status(panel)).to_contain_text("Something went wrong on the server")
    expect(panel.get_by_role("button", name="Generate")).to_be_enabled()
    assert "secret" not in page.content()
    panel.get_by_placeholder("what to draw").fill("a")
    set_number(panel, "Steps", 1)
    generate(panel)
    expect(status(panel)).to_contain_text("4 pictures in")


def test_the_status_of_a_comparison_says_what_is_wrong(page: Page) -> None:
    panel = open_tab(page, "Compare")
    panel.get_by_label("Values").first.fill("much")
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(panel.locator(".status .problem")).to_have_text(
        "“Columns” must be numbers with commas, or first:last:step, got 'much'"
    )
    expect(panel.get_by_role("button", name="Compare", exact=True)).to_be_enabled()


# Models


def choose(page: Page, label: str) -> None:
    page.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name=label, exact=True).click()


def test_a_choice_loads_a_model_once(server: Server, page: Page) -> None:
    panel = open_tab(page, "Variation")
    choose(page, "other")
    expect(page.locator(".header").get_by_text("Model: other")).to_be_visible()
    expect(panel.get_by_label("number input for Steps")).to_have_value("4")  # its own
    page.wait_for_timeout(500)
    assert server.turns == ["other"]
    assert server.loads == ["other", "tiny"], "the second only in case that the first fails"

    choose(page, "tiny")
    expect(page.locator(".header").get_by_text("Model: tiny")).to_be_visible()
    expect(panel.get_by_label("number input for Steps")).to_have_value("3")
    assert server.turns == ["other"], "what is known is shown, and loaded when it is to draw"


def test_passing_by_the_choice_changes_nothing(server: Server, page: Page) -> None:
    panel = open_tab(page, "Variation")
    set_number(panel, "Steps", 17)
    model = page.get_by_label("Model", exact=True)
    model.focus()
    model.press("Escape")
    model.press("Tab")
    page.wait_for_timeout(500)
    expect(panel.get_by_label("number input for Steps")).to_have_value("17")
    assert server.turns == []


def test_a_model_that_cannot_be_loaded_leaves_the_page_as_it_was(
    server: Server, page: Page, browser: Browser
) -> None:
    panel = open_tab(page, "Variation")
    set_number(panel, "Steps", 17)
    server.manager.with_model("other")  # somebody else's choice
    choose(page, "absent (fetches 9 MB)")
    expect(page.get_by_text(f"missing (9 MB): {HOSTILE}")).to_be_visible()
    expect(page.get_by_label("Model", exact=True)).to_have_value("tiny")
    expect(panel.get_by_label("number input for Steps")).to_have_value("17")
    assert_no_element(page)


def shown(panel: Locator, label: str) -> Locator:
    return panel.locator(".filled").filter(has_text=label).locator("img")


def test_previews_and_cost_are_those_of_the_model_that_the_page_shows(
    server: Server, browser: Browser, tmp_path: Path
) -> None:
    picture(3, 200, 200).save(tmp_path / "control.png")
    with visit(browser, server.url) as one, visit(browser, server.url) as two:
        choose(two, "other")
        expect(two.locator(".header").get_by_text("Model: other")).to_be_visible()
        kinds = [
            open_tab(page, "Structure").get_by_label("Control type").first.input_value()
            for page in (one, two)
        ]
        assert kinds == ["Canny", "Colour palette"]
        for loaded in ("other", "tiny"):
            server.manager.with_model(loaded)
            for page, side, seen in ((one, 64, 16), (two, SIDE, SEEN)):
                for tab, label, width in (
                    ("Structure", "Control map (preview)", side),
                    ("Variation", "What CLIP sees", seen),
                ):
                    panel = open_tab(page, tab)
                    if panel.get_by_label("Remove Image").count():
                        panel.get_by_label("Remove Image").first.click()
                        expect(shown(panel, label)).to_be_hidden()
                    file = panel.locator("input[type=file]").first
                    file.set_input_files(tmp_path / "control.png")
                    expect(shown(panel, label)).to_have_js_property("naturalWidth", width)
        server.manager.with_model("other")
        panel = open_tab(one, "Compare")
        set_number(panel, "Steps", 2)
        expect(panel.get_by_text(re.compile("18 cells, 36 steps"))).to_be_visible()
        assert server.manager.info.name == "other", "nothing is loaded only to look"


def test_a_png_comes_back_with_the_model_that_made_it(
    server: Server, page: Page, tmp_path: Path
) -> None:
    """What it left open is that model's own, not the one's that the page began with."""
    request = GenerateRequest(references=(Reference(image=picture(1)),), steps=9)
    save_png(tmp_path / "theirs.png", picture(1), request, 0, 0, {"model": "other"})
    page.locator(".header input[type=file]").set_input_files(tmp_path / "theirs.png")
    expect(page.locator(".header").get_by_text("Model: other")).to_be_visible()
    expect(page.get_by_label("Model", exact=True)).to_have_value("other")
    panel = open_tab(page, "Variation")
    expect(panel.get_by_label("number input for Steps")).to_have_value("9")
    expect(open_section(panel, "Advanced", "Width")).to_have_value("0")
    expect(shown(panel, "What CLIP sees")).to_have_js_property("naturalWidth", SEEN)
    assert len(generate(panel)) == 1
    assert server.manager.info.name == "other"


# Files and texts that are not kind


def assert_no_element(page: Page) -> None:
    settle(page)
    assert page.evaluate("document.querySelectorAll('img[src=x], [onerror]').length") == 0
    assert page.evaluate("window.hit") is None


def test_what_a_png_says_of_its_model_is_text(page: Page, tmp_path: Path) -> None:
    request = GenerateRequest(references=(Reference(image=picture(1)),), steps=2)
    save_png(tmp_path / "kind.png", picture(1), request, 0, 0, {"model": HOSTILE})
    page.locator(".header input[type=file]").set_input_files(tmp_path / "kind.png")
    expect(page.get_by_text(f"It was made with the model {HOSTILE}")).to_be_visible()
    expect(page.get_by_label("number input for Steps").first).to_have_value("2")
    assert_no_element(page)


def test_names_of_files_heads_and_errors_are_text(page: Page, tmp_path: Path) -> None:
    panel = open_tab(page, "Compare")
    written = open_section(panel, "Spec", "YAML or JSON")
    document = {
        "title": HOSTILE,
        "columns": {"seed": [1, 2]},
        "rows": {"prompt": [HOSTILE, "a"]},
        "pages": {"adapter": ["base", HOSTILE]},
        "labels": {"columns": [HOSTILE, "b"]},
        "request": {"steps": 1, "references": [{"image": "blue-cone.png"}]},
    }
    written.fill(json.dumps(document))
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(panel.get_by_text("4 of 8 cells.")).to_be_visible()
    expect(panel.locator("table.grid th").get_by_text(HOSTILE).first).to_be_visible()
    panel.get_by_role("button", name="Scores").click()
    expect(panel.get_by_role("gridcell").get_by_text(HOSTILE).first).to_be_visible()
    panel.get_by_label("First picture").first.click()
    assert_no_element(page)
    written.fill(json.dumps({"columns": {HOSTILE: [1]}}))
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(panel.locator(".status .problem").get_by_text(HOSTILE)).to_be_visible()
    assert_no_element(page)


def test_the_name_of_an_upload_is_text(page: Page, tmp_path: Path) -> None:
    file = io.BytesIO()
    picture(1).save(file, "PNG")
    panel = open_tab(page, "Compare")
    name = "<img src=x onerror=hit=1>.png"
    panel.locator("input[type=file]").first.set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": file.getvalue()}
    )
    set_number(panel, "Steps", 1)
    panel.get_by_label("Values").first.fill("1")
    expect(panel.get_by_text(re.compile("1 cell, 1 step"))).to_be_visible()
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(panel.get_by_text("1 of 1 cell")).to_be_visible()
    expect(panel.locator("table.grid th").get_by_text("<img src=x onerror=hit=1>")).to_be_visible()
    assert_no_element(page)
