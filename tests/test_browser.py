"""The page in a real browser, on the built-in model: every tab, from a click to a picture."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import httpx
import numpy as np
import pillow_heif
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image, ImageChops
from playwright.sync_api import Browser, Locator, Page, expect

from benchmarks.ports import free_port
from ipadapter_demo.masks import grown
from ipadapter_demo.record import record_from_png
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.ui.widgets.examples import FOLDER
from tests.browsing import (
    WAIT_MS,
    box_of,
    browser,
    click_example,
    generate,
    open_section,
    open_tab,
    set_number,
    settle,
    visit,
)
from tests.icc import DISPLAY_P3, rgb_profile
from tests.tiny import picture

__all__ = ["browser"]  # a fixture

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parent.parent
# before or behind the first preview
STOPPED = re.compile(r"Stopped\. The pictures that are shown (stay|are not finished)\.")
START_SECONDS = 180  # importing and loading on a busy machine


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """`python app.py`, as anybody starts it."""
    port = free_port()
    command = [sys.executable, "-u", "app.py", "--port", str(port), "--device", "cpu"]
    output = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT) as server:
        lines: Queue[str] = Queue()
        reader = threading.Thread(target=lambda: [lines.put(x.decode()) for x in server.stdout])
        reader.start()
        try:
            said = ""
            while "Running on local URL" not in said:
                assert server.poll() is None, said
                try:
                    said += lines.get(timeout=START_SECONDS)
                except Empty:
                    pytest.fail(f"app.py did not start in {START_SECONDS} s: {said}")
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
            reader.join()


@pytest.fixture
def page(url: str, browser: Browser) -> Iterator[Page]:
    """A fresh visit, at whose end nothing has gone wrong and no other machine was asked."""
    with visit(browser, url) as page:
        yield page


BOTTOM = "element => element.getBoundingClientRect().bottom"


def request_of(files: list[bytes]) -> GenerateRequest:
    return record_from_png(files[0]).request


def paint(panel: Locator, dx: int = 0) -> None:
    """A stroke to the right through the middle of the editor, `dx` pixels off."""
    panel.get_by_label("Brush", exact=True).click()
    box = box_of(panel.locator("canvas").first)
    x, y = box["x"] + box["width"] / 2 + dx, box["y"] + box["height"] / 2
    mouse = panel.page.mouse
    mouse.move(x - 30, y)
    mouse.down()
    for step in range(7):
        mouse.move(x - 30 + 10 * step, y + step % 2)
    mouse.up()


@pytest.mark.parametrize("size", [(1280, 720), (390, 844)], ids=["laptop", "phone"])
def test_the_page_opens_on_a_finished_example(page: Page, size: tuple[int, int]) -> None:
    """Generate and all of the result are seen at once, on a phone Generate wherever one is."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    panel = page.get_by_role("tabpanel").filter(visible=True)
    reference, results = panel.locator(".inputs img").first, panel.locator(".results img")
    expect(results).to_have_count(4)
    expect(reference).to_be_visible()
    generate, stop = (panel.get_by_role("button", name=n, exact=True) for n in ("Generate", "Stop"))
    if size[0] > 640:
        assert all(image.evaluate(BOTTOM) <= size[1] for image in results.all())
    expect(generate).to_be_in_viewport(ratio=1)
    page.mouse.move(size[0] / 2, size[1] / 2)
    page.mouse.wheel(0, 5000)
    page.wait_for_function("scrollY > 0")
    expect(generate).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    before = reference.get_attribute("src") or ""
    expect(stop).to_be_disabled()
    set_number(panel, "Steps", 50)  # still drawing when Stop is clicked
    panel.get_by_role("button", name="Try another").click()
    expect(reference).not_to_have_attribute("src", before)
    status = panel.get_by_role("status").first
    expect(status).to_have_text(re.compile(r"step \d+ of 50, about \d+ s left"))
    assert "leaves the line" in (stop.get_attribute("title") or "")
    stop.click()
    expect(panel.get_by_text(STOPPED)).to_be_visible()


def test_variation_from_an_example_and_back_from_its_png(page: Page, tmp_path: Path) -> None:
    panel = open_tab(page, "Variation")
    click_example(panel, 0)
    expect(panel.locator(".filled img")).to_be_visible()  # what the encoder sees
    set_number(panel, "Steps", 2)
    files = generate(panel)
    request = request_of(files)
    assert len(files) == request.count == 4
    assert request.steps == 2
    (tmp_path / "result.png").write_bytes(files[0])

    page.reload()
    page.locator(".header input[type=file]").set_input_files(tmp_path / "result.png")
    panel = open_tab(page, "Variation")
    expect(panel.get_by_label("number input for Steps")).to_have_value("2")
    assert generate(panel) == files


def test_a_run_goes_on_to_the_next_thing_and_stays_in_the_history(page: Page) -> None:
    """Through a reload, and nothing is sent before somebody clicks."""
    panel = open_tab(page, "Variation")
    set_number(panel, "Steps", 1)
    generate(panel)
    runs = page.locator(".history img")
    expect(runs).to_have_count(1)
    panel.get_by_role("button", name="As control image").click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    expect(panel.get_by_label("Control type").first).to_be_visible()
    expect(panel.locator(".filled img")).to_be_visible()  # the map of the picture

    expect(runs).to_have_attribute("alt", re.compile("variation of the reference, λ = 1, seed"))
    sent: list[str] = []
    page.on("request", lambda r: sent.append(r.url) if "upload" in r.url else None)
    page.reload()
    expect(runs).to_have_js_property("complete", True)
    assert not sent
    panel = open_tab(page, "Variation")
    expect(panel.get_by_label("number input for Steps")).to_have_value("8")
    page.get_by_role("button", name=re.compile("Load the settings of variation")).click()
    expect(panel.get_by_label("number input for Steps")).to_have_value("1")
    expect(panel.locator(".results img")).to_have_count(1)  # and the picture itself
    expect(panel.locator(".results img")).to_be_in_viewport(ratio=0.9)
    said = r"Seed \d+, λ = 1\. Its settings are in the fields: Generate draws it again\."
    expect(panel.get_by_role("status").first).to_have_text(re.compile(said))
    panel.get_by_role("button", name="Keep this seed").click()
    expect(panel.get_by_role("status").first).to_contain_text("The next runs have this seed")
    page.once("dialog", lambda asked: asked.dismiss())
    page.get_by_role("button", name="Clear history").click()
    expect(runs).to_have_count(1)
    page.once("dialog", lambda asked: asked.accept())
    page.get_by_role("button", name="Clear history").click()
    expect(runs).to_have_count(0)
    page.reload()
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    expect(runs).to_have_count(0)


def test_dragging_from_the_history_brings_a_field_into_sight(page: Page) -> None:
    page.set_viewport_size({"width": 1280, "height": 720})
    panel = page.get_by_role("tabpanel").filter(visible=True)
    set_number(panel, "Steps", 1)
    generate(panel)
    run, field = page.locator(".history img"), panel.locator(".block:has(input[type=file])").first
    expect(run).to_be_visible()
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(field).not_to_be_in_viewport()
    box = box_of(run)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y - 30, steps=3)
    expect(field).to_be_in_viewport(ratio=1)
    page.mouse.up()


def test_image_and_text_from_an_example(page: Page) -> None:
    panel = open_tab(page, "Image + text")
    click_example(panel, 0)
    expect(panel.get_by_placeholder("what to draw")).to_have_value(re.compile("floor"))
    set_number(panel, "Steps", 1)
    assert "floor" in request_of(generate(panel)).prompt


def test_a_shape_of_the_model_is_chosen(page: Page) -> None:
    panel = open_tab(page, "Image + text")
    click_example(panel, 0)
    open_section(panel, "Advanced", "Shape")
    expect(panel.get_by_label("Width")).to_have_value("0")
    set_number(panel, "Steps", 1)
    set_number(panel, "Number of images", 1)
    request = request_of(generate(panel))
    assert (request.width, request.height) == (None, None)
    panel.get_by_label("Shape").click()
    page.get_by_role("option", name="96x168", exact=True).click()
    expect(panel.get_by_label("Width")).to_have_value("96")
    expect(panel.get_by_label("Height")).to_have_value("168")
    request = request_of(generate(panel))
    assert (request.width, request.height) == (96, 168)
    panel.get_by_label("Height").fill("64")
    panel.get_by_label("Shape").focus()
    panel.get_by_label("Shape").press("Tab")  # the field is left, and nothing is chosen
    page.wait_for_timeout(300)
    expect(panel.get_by_label("Height")).to_have_value("64")
    panel.get_by_label("Shape").press("ArrowUp")
    panel.get_by_label("Shape").press("Enter")
    expect(panel.get_by_label("Height")).not_to_have_value("64")
    panel.get_by_label("Shape").click()
    page.get_by_role("option", name="the model's own", exact=True).click()
    expect(panel.get_by_label("Height")).to_have_value("0")


def test_a_noise_schedule_is_there_where_the_sampler_takes_it(page: Page) -> None:
    panel = open_tab(page, "Variation")
    click_example(panel, 0)
    noise = open_section(panel, "Advanced", "Noise schedule")
    noise.click()
    page.get_by_role("option", name="karras", exact=True).click()
    for sampler, there in (("euler", True), ("lcm", False), ("ddim", True)):
        panel.get_by_label("Sampler").click()
        page.get_by_role("option", name=sampler, exact=True).click()
        expect(noise).to_have_count(int(there))
        if sampler == "euler":
            expect(noise).to_have_value("karras")
    expect(noise).to_have_value("the model's own")
    noise.click()
    expect(page.get_by_role("option", name="trailing", exact=True)).to_be_visible()
    expect(page.get_by_role("option", name="karras", exact=True)).to_have_count(0)


def test_structure_shows_its_map_and_keeps_it(page: Page, tmp_path: Path) -> None:
    panel = open_tab(page, "Structure")
    picture(3, 200, 100).save(tmp_path / "control.png")
    panel.locator("input[type=file]").first.set_input_files(tmp_path / "control.png")
    expect(panel.locator(".filled img").first).to_be_visible()
    set_number(panel, "Steps", 1)
    [kept] = request_of(generate(panel)).structures
    assert (kept.kind, kept.annotator) == ("canny", "canny")
    assert kept.image == picture(3, 200, 100)


def test_inpainting_replaces_what_was_painted_and_nothing_else(page: Page, tmp_path: Path) -> None:
    original = picture(4, 150, 100)
    original.save(tmp_path / "original.png")
    panel = open_tab(page, "Inpaint")
    # the editor takes files before it is ready for them: its tools appear when it is
    expect(panel.get_by_label("Brush", exact=True)).to_be_visible()
    upload = panel.get_by_label("Click to upload or drop files").locator("input[type=file]").first
    upload.set_input_files(tmp_path / "original.png")
    expect(panel.get_by_label("Upload", exact=True)).to_be_hidden()  # the brush is at hand
    paint(panel)
    open_tab(page, "Variation")
    panel = open_tab(page, "Inpaint")  # hidden and shown again, the painting is still there
    open_section(panel, "Advanced", "number input for Steps").fill("1")
    files = generate(panel)
    expect(panel.get_by_test_id("slider")).to_be_visible()  # before and after

    given = request_of(files).inpaint
    assert given is not None
    assert given.image == original
    (tmp_path / "result.png").write_bytes(files[0])
    with Image.open(tmp_path / "result.png") as result:
        changed = np.any(np.asarray(result) != np.asarray(original), axis=-1)
    inside = np.asarray(given.mask) > 0
    assert changed[inside].any()
    assert not changed[~inside].any()
    assert 0.01 < inside.mean() < 0.5


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["laptop", "phone"])
def test_a_mask_is_edited_by_keys_and_buttons(
    page: Page, tmp_path: Path, size: tuple[int, int]
) -> None:
    """Translucent paint, brush size, undo, redo and zoom by keys; inverted and grown by numbers."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    Image.new("RGB", (128, 128), (0, 0, 255)).save(tmp_path / "blue.png")
    panel = open_tab(page, "Inpaint")
    editor = panel.locator(".mask-editor")
    undo, redo = (editor.get_by_label(name, exact=True) for name in ("Undo", "Redo"))
    upload = panel.get_by_label("Click to upload or drop files").locator("input[type=file]").first
    expect(panel.get_by_label("Brush", exact=True)).to_be_visible()
    upload.set_input_files(tmp_path / "blue.png")
    expect(panel.get_by_label("Upload", exact=True)).to_be_hidden()
    expect(editor.get_by_label("Brush Size", exact=True)).to_be_visible()
    page.keyboard.press("]")
    expect(editor).to_have_attribute("data-brush", re.compile(r"\d+"))
    wide = int(editor.get_attribute("data-brush") or 0)
    page.keyboard.press("[")
    expect(editor).not_to_have_attribute("data-brush", str(wide))
    assert int(editor.get_attribute("data-brush") or 0) < wide
    expect(editor.locator("input[type=range]")).to_have_count(0)  # nothing lies on the picture
    paint(panel)
    canvas = panel.locator("canvas").first
    with Image.open(io.BytesIO(canvas.screenshot())) as shown:
        middle = shown.convert("RGB").getpixel((shown.width // 2, shown.height // 2))
    assert isinstance(middle, tuple)
    assert 90 < middle[0] < 220, f"pink through which blue is seen, got {middle}"
    expect(undo).to_be_enabled()
    page.keyboard.press("Control+z")
    expect(redo).to_be_enabled()
    page.keyboard.press("Control+Shift+Z")
    expect(redo).to_be_disabled()
    zoom = editor.locator(".zoom-number")
    before = zoom.inner_text()
    page.keyboard.press("+")
    expect(zoom).not_to_have_text(before)
    page.keyboard.press("-")

    expect(panel.locator(".before-after")).to_be_hidden()
    steps = open_section(panel, "Advanced", "number input for Steps")
    steps.fill("1")
    painted = request_of(generate(panel)).inpaint
    grow = panel.get_by_label("Grow mask (px)")
    grow.fill("6")
    grow.press("Tab")
    expect(panel.locator(".mask-view img")).to_be_visible()
    panel.get_by_label("Invert mask").check()
    expect(panel.get_by_test_id("slider")).to_be_visible()  # before and after
    edited = request_of(generate(panel)).inpaint
    assert painted is not None
    assert edited is not None
    plain = np.asarray(painted.mask) > 0
    assert 0.005 < plain.mean() < 0.5
    assert np.array_equal(
        np.asarray(edited.mask), np.asarray(grown(ImageChops.invert(painted.mask), 6))
    )
    preview = panel.locator(".mask-view img")
    before = preview.get_attribute("src") or ""
    paint(panel, dx=30)
    expect(preview).not_to_have_attribute("src", before)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_no_run_sends_the_painting_again(page: Page) -> None:
    """gradio asks the editor for its value with each status of any run."""
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.url) if "/upload" in asked.url else None)
    panel = open_tab(page, "Inpaint")
    click_example(panel, 0)
    open_section(panel, "Advanced", "number input for Steps").fill("2")
    paint(panel)
    generate(panel)
    once = len(sent)
    assert once <= 6, "of the example and of what was painted on it: background, layer and both"
    panel = open_tab(page, "Variation")
    click_example(panel, 0)
    set_number(panel, "Steps", 2)
    generate(panel)
    generate(panel)
    assert len(sent) - once <= 1, "the example's picture at most"


def test_stop_is_in_reach_on_the_narrowest_screen(page: Page) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    panel = open_tab(page, "Variation")
    set_number(panel, "Steps", 50)
    panel.get_by_role("button", name="Generate").click()
    for name in ("Queue", "Stop"):
        button = panel.get_by_role("button", name=name)
        expect(button).to_be_enabled()
        box = box_of(button)
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 320
    panel.get_by_role("button", name="Stop").click()
    expect(panel.get_by_text(STOPPED)).to_be_visible()


def test_painting_adds_to_an_examples_mask(page: Page) -> None:
    panel = open_tab(page, "Inpaint")
    click_example(panel, 0)
    expect(panel.locator(".beside img")).to_be_visible()
    expect(panel.get_by_label("Upload", exact=True)).to_be_hidden()
    open_section(panel, "Advanced", "number input for Steps").fill("1")
    paint(panel, dx=80)
    after = request_of(generate(panel)).inpaint
    assert after is not None
    before = Image.open(FOLDER / "cube-and-cone-mask.png").convert("L")
    first, second = (np.asarray(mask) > 0 for mask in (before, after.mask))
    assert not (first & ~second).any()
    assert (second & ~first).any()


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["laptop", "phone"])
def test_a_sweep_is_moved_along_without_a_word_to_the_server(
    page: Page, size: tuple[int, int]
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    panel = open_tab(page, "Variation")
    click_example(panel, 0)
    set_number(panel, "Steps", 1)
    panel.get_by_role("button", name="Advanced").click()
    panel.get_by_label("Show attention maps").check()
    panel.get_by_role("button", name="Sweep λ").click()
    expect(panel.get_by_text("λ from 0 to 1.5")).to_be_visible()
    strip, shown = panel.locator(".results img"), panel.locator(".scrub img.shown")
    expect(strip).to_have_count(7)
    assert len({round(box_of(image)["y"]) for image in strip.all()}) == 1, "one row"
    expect(shown).to_have_attribute(
        "alt", re.compile("^variation of the reference, λ = 1, seed")
    )  # the tab's own
    slider = panel.get_by_label("λ to look at")
    slider.scroll_into_view_if_needed()
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if "/gradio_api/file" in r.url else None)
    box = box_of(slider)
    seen = []
    for step in range(13):
        page.mouse.move(box["x"] + 8 + (box["width"] - 16) * step / 12, box["y"] + 10)
        seen.append(float((shown.get_attribute("data-scale") or "").removeprefix("λ = ")))
    assert list(dict.fromkeys(seen)) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
    assert all(one.evaluate("one => one.complete && one.naturalWidth") for one in strip.all())
    assert not asked
    with page.expect_response(re.compile("/gradio_api/run/")):  # it is told which one is shown
        slider.press("ArrowLeft")
    expect(slider).to_have_attribute("aria-valuetext", "λ = 1.25")
    panel.get_by_role("button", name="Load its settings").click()
    expect(panel.get_by_label("number input for Image strength λ")).to_have_value("1.25")
    strip.nth(1).click()
    expect(shown).to_have_attribute("alt", re.compile("λ = 0.25, seed"))
    maps = panel.locator(".attention canvas")
    expect(maps).to_have_count(6)  # λ = 0 has none
    expect(panel.get_by_text("where it is high, the picture follows")).to_be_visible()
    pixels = (
        "one => [...one.getContext('2d').getImageData(0, 0, one.width, one.height).data].join()"
    )
    before = maps.last.evaluate(pixels)
    panel.get_by_label("Layer of the maps").select_option("3")
    assert maps.last.evaluate(pixels) != before
    panel.get_by_label("Opacity").fill("0.2")
    assert maps.last.evaluate("one => one.style.opacity") == "0.2"
    assert maps.last.evaluate("one => one.closest('figure').innerText") == "λ 1.5"
    expect(panel.locator(".attention .most")).to_have_text(re.compile(r"^\d+ %$"))
    panel.get_by_role("button", name="Reproduce (CLI / Python)").click()
    expect(panel.get_by_text("--from-png")).to_be_visible()
    scales = [
        record_from_png(httpx.get(image.get_attribute("src") or "").content).request.image_scale
        for image in panel.locator(".results img").all()
    ]
    assert scales == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
    generate(panel)
    expect(panel.locator(".scrub img")).to_have_count(0)


def test_a_comparison_from_the_page_and_from_the_command_line(page: Page, tmp_path: Path) -> None:
    """Three references, two strengths, two seeds: the same bundle, byte for byte."""
    panel = open_tab(page, "Compare")
    set_number(panel, "Steps", 1)
    for number, text in ((0, "0:1:1"), (2, "3, 4")):
        panel.get_by_label("Values").nth(number).fill(text)
    panel.get_by_label("Pages").click()
    page.get_by_role("option", name="seed").click()
    expect(panel.get_by_text("12 cells, 12 steps")).to_be_visible()
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(panel.get_by_text("12 of 12 cells.")).to_be_visible()
    for image in panel.locator("[data-cell] img").all():
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("image => image.naturalWidth") == 128

    panel.locator("[data-cell=p1-r1-c2]").click()
    panel.locator("[data-cell=p2-r3-c2]").click()
    expect(panel.locator(".chosen-0")).to_have_attribute("data-cell", "p2-r3-c2")
    expect(panel.locator(".chosen-1")).to_have_attribute("data-cell", "p1-r1-c2")
    expect(panel.locator(".flicker img")).to_have_count(2)

    bundle = tmp_path / "page.zip"
    with page.expect_download() as download:
        panel.locator("a[download='bundle.zip']").click()
    download.value.save_as(bundle)
    with zipfile.ZipFile(bundle) as content:
        content.extractall(tmp_path / "unpacked")

    def compare(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ipadapter_demo", "compare", *words, "--device", "cpu"]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)

    def said(command: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
        output, _ = command.communicate()
        assert command.returncode == 0
        return [json.loads(line) for line in output.splitlines()]

    drawn = compare(str(tmp_path / "unpacked/spec.json"), "--out", str(tmp_path / "out"))
    verified = compare("--verify", str(bundle))  # beside it: starting takes longest
    assert len(said(drawn)) == 13
    assert (tmp_path / "out/bundle.zip").read_bytes() == bundle.read_bytes()
    assert [line["difference"] for line in said(verified)] == [0] * 12

    page.reload()
    page.locator(".header input[type=file]").set_input_files(
        tmp_path / "unpacked" / "manifest.json"
    )
    panel = open_tab(page, "Compare")
    expect(panel.get_by_text("12 cells, 12 steps")).to_be_visible()
    expect(panel.get_by_label("YAML or JSON")).to_have_value(re.compile('"seed"'))


def test_a_result_dropped_on_the_page_is_restored(page: Page) -> None:
    panel = open_tab(page, "Variation")
    click_example(panel, 1)
    set_number(panel, "Steps", 3)
    address = panel.page.url
    [file, *_] = generate(panel)
    page.goto(address)
    expect(panel.get_by_label("number input for Steps").first).not_to_have_value("3")
    page.evaluate(
        """content => {
        const dropped = new DataTransfer();
        dropped.items.add(new File([Uint8Array.from(content)], "r.png", { type: "image/png" }));
        document.querySelector("h1").dispatchEvent(
            new DragEvent("drop", { dataTransfer: dropped, bubbles: true }));
    }""",
        list(file),
    )
    expect(panel.get_by_label("number input for Steps")).to_have_value("3")
    expect(panel.locator(".filled img")).to_be_visible()


def test_a_comparison_stops_and_goes_on(page: Page) -> None:
    panel = open_tab(page, "Compare")
    set_number(panel, "Steps", 20)  # still drawing when Stop is clicked
    panel.get_by_label("Values").first.fill("0, 1")
    expect(panel.get_by_text("6 cells, 120 steps")).to_be_visible()
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(panel.locator("[data-cell] img").first).to_be_visible()
    panel.get_by_role("button", name="Stop").click()
    expect(panel.get_by_text(re.compile(r"^\d of 6 cells. Compare goes on"))).to_be_visible()
    expect(panel.get_by_role("button", name="Compare", exact=True)).to_be_enabled()
    first = panel.locator("[data-cell] img").first
    before = first.get_attribute("src")
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(panel.get_by_text("6 of 6 cells.")).to_be_visible()
    assert first.get_attribute("src") == before, "what was finished is untouched"


def test_a_mistake_in_a_comparison_is_shown_as_text(page: Page) -> None:
    panel = open_tab(page, "Compare")
    written = open_section(panel, "Spec", "YAML or JSON")
    written.fill('columns: {"<img src=x onerror=alert(1)>": [1]}')
    expect(panel.get_by_text("<img src=x onerror=alert(1)>").first).to_be_visible()
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("alert").or_(page.get_by_test_id("toast-body")).first).to_be_visible()
    expect(panel.get_by_role("button", name="Compare", exact=True)).to_be_enabled()


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_the_first_result_of_an_example_comes_into_sight(page: Page, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    panel = open_tab(page, "Structure")
    panel.locator(".inputs tr.tr-body").last.click()
    expect(panel.get_by_text("Settings are saved inside each PNG.")).to_be_visible()
    expect(panel.locator(".results img").first).to_be_in_viewport(ratio=0.9)
    shown, *over = (
        box_of(panel.locator(f".outcome {part}").first)
        for part in (".results img", "> .run", "> .said")
    )
    for box in over:
        above, below = box["y"] + box["height"], shown["y"] + shown["height"]
        assert above <= shown["y"] + 1 or below <= box["y"] + 1, "nothing covers it"


def test_stop_stops_and_the_last_preview_stays(page: Page) -> None:
    panel = open_tab(page, "Variation")
    click_example(panel, 1)
    set_number(panel, "Steps", 50)
    shown = panel.locator(".results img").first.get_attribute("src") or ""
    panel.get_by_role("button", name="Generate").click()
    expect(panel.locator(".results img").first).not_to_have_attribute("src", shown)
    panel.get_by_role("button", name="Stop").click()
    stopped = panel.get_by_text("Stopped. The pictures that are shown are not finished.")
    expect(stopped).to_be_visible()
    expect(panel.get_by_role("button", name="Generate")).to_be_enabled()
    expect(panel.get_by_role("button", name="Stop")).to_be_disabled()
    panel.locator(".results img").first.click()  # a preview, which no command makes again
    page.wait_for_timeout(500)
    errors = panel.get_by_text("Error", exact=True).filter(visible=True)
    assert [e.evaluate("e => e.closest('.block').innerText") for e in errors.all()] == []
    expect(panel.locator(".results img").first).to_be_visible()
    page.keyboard.press("Escape")
    panel.get_by_role("button", name="Load its settings").click()
    unfinished = "holds no settings: the run was stopped before it was finished"
    expect(page.get_by_test_id("toast-body").get_by_text(unfinished)).to_be_visible()
    panel.get_by_role("button", name="Keep this seed").click()
    expect(panel.get_by_role("status").first).to_contain_text("The next runs have this seed, too")
    random = open_section(panel, "Advanced", "Random seed")
    expect(random).not_to_be_checked()
    seed = int(panel.get_by_label("Seed", exact=True).input_value())
    set_number(panel, "Steps", 1)
    request = request_of(generate(panel))
    assert (request.steps, request.seed) == (1, seed)


def test_a_mistake_is_explained_and_costs_nothing(page: Page) -> None:
    panel = open_tab(page, "Image + text")
    unwanted = open_section(panel, "Advanced", "Negative prompt")
    unwanted.fill("a red cube")
    panel.get_by_role("button", name="Generate").click()
    for where in (page.get_by_test_id("toast-text"), panel.locator(".status")):
        expect(where.get_by_text("upload a picture first")).to_be_visible()
    expect(panel.get_by_role("button", name="Generate")).to_be_enabled()
    # gradio's own word is only transparent: a screen reader would read it
    expect(panel.get_by_text("Error", exact=True).filter(visible=True)).to_have_count(0)
    expect(unwanted).to_have_value("a red cube")


def dropped(page: Page, zone: Locator, content: bytes, name: str) -> None:
    """Drop a file of which the system knows no type, as with .heic on most."""
    transfer = page.evaluate_handle(
        """([bytes, name]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "" }));
        return transfer;
    }""",
        [list(content), name],
    )
    zone.dispatch_event("drop", {"dataTransfer": transfer})


@pytest.mark.parametrize("by", ["dialogue", "drop"])
def test_a_heic_photo_is_shown_and_read(page: Page, by: str) -> None:
    pillow_heif.register_heif_opener()
    file = io.BytesIO()
    photo = Image.new("RGB", (96, 64), (200, 60, 60))
    photo.save(file, "HEIF", quality=95, icc_profile=rgb_profile(DISPLAY_P3))
    panel = open_tab(page, "Variation")
    chooser = panel.locator("input[type=file]").first
    if by == "drop":
        dropped(page, chooser.locator("xpath=.."), file.getvalue(), "IMG_0001.HEIC")
    else:
        chooser.evaluate("input => input.click()")
        assert ".heic" in (chooser.get_attribute("accept") or "")
        chooser.set_input_files(
            {"name": "IMG_0001.HEIC", "mimeType": "", "buffer": file.getvalue()}
        )
    expect(panel.locator(".filled img")).to_be_visible()  # what the encoder sees
    shown = panel.get_by_test_id("image").locator("img").first
    expect(shown).to_have_js_property("naturalWidth", 96)
    set_number(panel, "Steps", 1)
    [reference] = request_of(generate(panel)).references
    assert reference.image.size == (96, 64)
    assert abs(np.array(reference.image.getpixel((48, 32))) - (217, 42, 52)).max() <= 4


def test_a_file_that_is_no_picture_says_so_where_it_would_stand(page: Page) -> None:
    """And what CLIP saw of the picture before it is gone."""
    panel = open_tab(page, "Variation")
    click_example(panel, 1)
    seen = panel.locator(".beside img")
    expect(seen).to_be_visible()
    chooser = panel.locator("input[type=file]").first
    chooser.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(panel.get_by_alt_text("This file is not a picture that can be shown.")).to_be_visible()
    expect(seen).to_be_hidden()
    expect(page.get_by_test_id("toast-body")).to_have_count(0)  # Generate says it
    chooser.set_input_files(FOLDER / "blue-cone.png")
    expect(seen).to_be_visible()
    expect(panel.get_by_alt_text("This file is not a picture that can be shown.")).to_have_count(0)


def test_a_tiff_can_be_painted_on(page: Page) -> None:
    panel = open_tab(page, "Inpaint")
    file = io.BytesIO()
    picture(5, 200, 120).save(file, "TIFF")
    expect(panel.get_by_label("Brush", exact=True)).to_be_visible()  # the editor is ready
    chooser = panel.locator(".mask-editor input[type=file]").first
    with page.expect_response(lambda answer: "gradio_api/file=" in answer.url):
        chooser.set_input_files(
            {"name": "scan.tif", "mimeType": "image/tiff", "buffer": file.getvalue()}
        )
    expect(panel.get_by_label("Upload", exact=True)).to_be_hidden()  # it has the picture
    paint(panel)
    open_section(panel, "Advanced", "number input for Steps").fill("1")
    given = request_of(generate(panel)).inpaint
    assert given is not None
    assert given.image.tobytes() == picture(5, 200, 120).tobytes()


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["laptop", "phone"])
def test_a_scene_surprises_and_a_strange_picture_offers_another_model(
    page: Page, size: tuple[int, int], tmp_path: Path
) -> None:
    """For as long as the notice stands; this server has none of it and says how to get it."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    panel = open_tab(page, "Variation")
    set_number(panel, "Steps", 1)
    reference, status = panel.locator(".inputs img").first, panel.get_by_role("status").first
    before = reference.get_attribute("src") or ""
    switch = panel.get_by_role("button", name=re.compile(r"How to get sd15 \(.*\d GB\)"))
    panel.get_by_role("button", name="Surprise me").click()
    expect(reference).not_to_have_attribute("src", before)
    expect(status).to_contain_text("4 pictures in")
    expect(status).not_to_contain_text("is unlike all that")
    expect(switch).to_have_count(0)
    noise = np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((300, 300), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    panel.locator("input[type=file]").first.set_input_files(tmp_path / "a.png")
    expect(reference).to_have_attribute("src", re.compile("a.png"))
    generate(panel)
    expect(status).to_contain_text("is unlike all that tabletop was trained on")
    switch.click()
    expect(page.get_by_test_id("toast-body").get_by_text("--visitor-downloads")).to_be_visible()
    panel.get_by_role("button", name="Sweep λ").click()
    expect(status).to_contain_text("λ from 0 to 1.5")
    expect(status).to_contain_text("is unlike all that tabletop was trained on")
    width = open_section(panel, "Advanced", "Width")
    width.fill("7")
    panel.get_by_role("button", name="Generate", exact=True).click()
    expect(status).to_contain_text("“Width”")
    expect(switch).to_have_count(0)  # it would not help
    width.fill("0")
    panel.get_by_role("button", name="Surprise me").click()
    expect(switch).to_have_count(0)


def test_words_of_a_small_model_are_clicked_and_others_named(page: Page) -> None:
    panel = open_tab(page, "Image + text")
    prompt, unknown = panel.locator(".prompt textarea"), panel.locator(".unknown")
    prompt.fill("a Red cat on the café's floor, red 🍎 ☀️")
    expect(unknown).to_have_text("tabletop does not know: cat, café, s, 🍎, ☀")
    prompt.fill("a red sphere")
    expect(unknown).to_be_empty()
    panel.locator(".words").get_by_role("button", name="striped").click()
    expect(prompt).to_have_value("a red sphere striped")
    prompt.press_sequentially(" do")
    settle(page)
    expect(unknown).to_be_empty()  # a word that is being written is none yet
    prompt.press_sequentially("g")
    prompt.blur()
    expect(unknown).to_have_text("tabletop does not know: dog")


def test_a_mask_is_shown_on_the_picture_by_either_convention(page: Page, tmp_path: Path) -> None:
    """White paper with a transparent hole: by its paint, all but the hole; else the hole."""
    picture(5, 200, 200).save(tmp_path / "photo.png")
    mask = Image.new("RGBA", (200, 200), "white")
    mask.paste((0, 0, 0, 0), (80, 80, 120, 120))
    mask.save(tmp_path / "mask.png")
    panel = open_tab(page, "Inpaint")
    expect(panel.get_by_label("Brush", exact=True)).to_be_visible()  # the editor is ready
    panel.locator(".mask-editor input[type=file]").first.set_input_files(tmp_path / "photo.png")
    expect(panel.get_by_label("Upload", exact=True)).to_be_hidden()  # it has the picture
    panel.locator(".mask input[type=file]").first.set_input_files(tmp_path / "mask.png")
    view = panel.locator(".mask-view img")
    expect(view).to_be_visible()

    photo, mask_only = np.asarray(picture(5, 200, 200), int), np.zeros((200, 200), bool)
    mask_only[80:120, 80:120] = True

    def expect_marked(here: np.ndarray) -> None:
        """Soon: the editor sends its picture when it likes."""
        until = time.monotonic() + WAIT_MS / 1000
        while True:
            content = httpx.get(view.get_attribute("src") or "").content
            shown = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), int)
            changed = abs(shown - photo).sum(axis=-1) > 3
            if not changed[~here].any() and changed[here].mean() > 0.9:
                return
            assert time.monotonic() < until, changed.mean()
            page.wait_for_timeout(100)

    expect_marked(~mask_only)
    panel.get_by_label("Mask: selected part").click()
    page.get_by_role("option", name="Transparent = selected").click()
    expect_marked(mask_only)
    open_section(panel, "Advanced", "number input for Steps").fill("1")
    given = request_of(generate(panel)).inpaint
    assert given is not None
    assert np.array_equal(np.asarray(given.mask) > 0, mask_only)


# Everybody


TABS = ("Variation", "Image + text", "Structure", "Inpaint", "Compare")
# Text that stands in its own box, wider than that; and a page that is wider than the screen.
CUT = """() => [
    ...[...document.querySelectorAll("body *")].filter((one) => {
        const words = [...one.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        const seen = words && one.checkVisibility() && !one.closest(".sr-only, .cm-editor, .skip");
        if (!seen || one.clientWidth === 0) return false;
        const box = one.getBoundingClientRect();
        const hidden = getComputedStyle(one).overflowX !== "visible";
        return (hidden && one.scrollWidth > one.clientWidth + 1)
            || box.right > innerWidth + 1 || box.left < -1;
    }).map((one) => one.textContent.trim()),
    ...[...document.querySelectorAll("input[role=listbox]")].filter((field) => {
        if (!field.checkVisibility()) return false;
        const drawn = document.createElement("canvas").getContext("2d");
        drawn.font = getComputedStyle(field).font;
        return drawn.measureText(field.value).width > field.clientWidth + 1;
    }).map((field) => field.value),
    ...[...document.querySelectorAll(".inputs .table-wrap")].filter((one) =>
        one.checkVisibility() && one.scrollWidth > one.clientWidth + 1).map(() => "examples"),
    ...(document.documentElement.scrollWidth > innerWidth ? ["the page"] : []),
]"""

# A label that buttons of its field lie over.
COVERED = """(field) => {
    const label = field.querySelector("[data-testid='block-label']").getBoundingClientRect();
    return [...field.querySelectorAll("button")].some((button) => {
        const box = button.getBoundingClientRect();
        return button.checkVisibility() && box.left < label.right && box.right > label.left
            && box.top < label.bottom && box.bottom > label.top;
    });
}"""


OPEN = "panel => panel.querySelectorAll('button.label-wrap:not(.open)').forEach((b) => b.click())"
# What axe finds of critical or serious impact: the rule, and where.
GRAVE = """async () => {
    const { violations } = await axe.run({ resultTypes: ["violations"] });
    const grave = violations.filter(({ impact }) => ["critical", "serious"].includes(impact));
    const said = (id) => ({ html }) => `${id}: ${html.slice(0, 300)}`;
    return grave.flatMap(({ id, nodes }) => nodes.map(said(id)));
}"""


def unfolded(page: Page, tab: str) -> Locator:
    """A tab with all its accordions open, those in others too."""
    panel = open_tab(page, tab)
    for _ in range(2):
        panel.evaluate(OPEN)
        settle(page)
    return panel


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_critical_or_serious(browser: Browser, url: str, theme: str) -> None:
    """On no tab, with all accordions open, nor with results."""
    with visit(browser, url, theme) as page:
        page.add_style_tag(content="* { transition: none !important }")  # colours as they will be
        page.evaluate(Axe().axe_script)
        page.mouse.move(0, 0)
        for tab in TABS:
            unfolded(page, tab)
            assert page.evaluate(GRAVE) == [], tab
        panel = page.get_by_role("tabpanel").filter(visible=True)
        panel.get_by_label("YAML or JSON").fill(
            "columns: {seed: [1, 2]}\nrequest: {steps: 1, references: [{image: red-sphere.png}]}"
        )
        compare = panel.get_by_role("button", name="Compare", exact=True)
        compare.click()
        expect(panel.get_by_text("2 of 2 cells.")).to_be_visible()
        expect(compare).to_be_enabled()
        assert page.evaluate(GRAVE) == [], "a comparison"
        panel = open_tab(page, "Variation")
        set_number(panel, "Steps", 1)
        generate(panel)
        assert page.evaluate(GRAVE) == [], "results"


def test_the_keyboard_leads_to_a_picture_in_few_keys(page: Page) -> None:
    """From a page that was just loaded; and the focus is where it was."""
    panel = page.get_by_role("tabpanel").filter(visible=True)
    results = panel.locator(".results img")
    before = results.first.get_attribute("src")
    for key in ("Tab", "Enter"):
        page.keyboard.press(key)
    button = panel.get_by_role("button", name="Generate", exact=True)
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(button).to_be_disabled()
    expect(results.first).not_to_have_attribute("src", before or "")
    expect(button).to_be_enabled()
    expect(button).to_be_focused()
    set_number(panel, "Steps", 50)
    panel.get_by_role("button", name="Sweep λ").press("Enter")  # which goes
    expect(panel.get_by_role("button", name="Queue")).to_be_focused()
    stop = panel.get_by_role("button", name="Stop")
    stop.press("Enter")
    expect(stop).to_be_disabled()
    expect(button).to_be_focused()


def test_results_and_examples_have_names(page: Page) -> None:
    panel = page.get_by_role("tabpanel").filter(visible=True)
    opening = panel.get_by_role("button", name="variation of the reference, λ = 1, seed 2")
    expect(opening).to_be_visible()
    expect(panel.get_by_role("button", name="Example 2: blue-cone")).to_be_visible()
    panel = open_tab(page, "Image + text")
    expect(panel.get_by_role("gridcell", name="checker-cube")).to_be_visible()
    panel.locator(".prompt textarea").fill("a red  cone")
    open_section(panel, "Advanced", "Random seed").uncheck()
    panel.get_by_label("Seed", exact=True).fill("7")
    for name, value in (("Steps", 1), ("Number of images", 2)):
        set_number(panel, name, value)
    generate(panel)
    for seed in (7, 8):
        expect(panel.get_by_role("img", name=f"a red cone, seed {seed}")).to_be_visible()
        expect(panel.get_by_role("button", name=f"a red cone, seed {seed}")).to_be_visible()
    click_example(panel, 0)
    generate(panel)
    drawn = panel.get_by_role("img", name="on a green striped floor, λ = 0.7, seed 7", exact=True)
    expect(drawn).to_be_visible()
    expect(panel.get_by_role("img", name="a red cone")).to_have_count(0)


def test_nothing_is_cut_on_a_screen(page: Page) -> None:
    """A phone, a desktop, and that at 200 %: 640 x 400 pixels of the page."""
    for tab in TABS:
        page.set_viewport_size({"width": 390, "height": 844})
        panel = open_tab(page, tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
        unfolded(page, tab)
        for width, height in ((390, 844), (640, 400), (1280, 800)):
            page.set_viewport_size({"width": width, "height": height})
            settle(page)
            assert page.evaluate(CUT) == [], (tab, width)
            for editor in panel.locator(".mask-editor").all():
                assert not editor.evaluate(COVERED), (tab, width)


@pytest.mark.parametrize("touch", [True, False], ids=["touch", "keys"])
def test_keys_are_explained_where_there_are_some(browser: Browser, url: str, touch: bool) -> None:
    context = browser.new_context(has_touch=touch, is_mobile=touch)
    page = context.new_page()
    page.goto(url)
    panel = open_tab(page, "Inpaint")
    expect(panel.locator(".mask-editor")).to_be_visible()
    expect(panel.get_by_text("brush size", exact=False)).to_be_visible(visible=not touch)
    context.close()


def test_a_slider_shows_that_it_has_the_focus(page: Page) -> None:
    panel = page.get_by_role("tabpanel").filter(visible=True)
    slider = panel.get_by_role("slider").first
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert slider.evaluate("slider => getComputedStyle(slider).outlineStyle") == "solid"
