"""A browser for tests, and what a visitor does in it.

Without a Chromium these tests fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    FloatRect,
    Locator,
    Page,
    expect,
)

from benchmarks.browser import chromium
from benchmarks.page import served
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline import ImagePromptPipeline

WAIT_MS = 120_000  # on a busy machine; on a free one nothing here takes more than a few seconds
expect.set_options(timeout=WAIT_MS)

DESKTOP, PHONE = (1280, 800, "light"), (390, 844, "dark")  # of a page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@contextmanager
def visit(browser: Browser, url: str, theme: str = "light") -> Iterator[Page]:
    """A page at whose end nothing has gone wrong and no other machine was asked. One visitor after
    another uses the scripts that the browser keeps; those who visit at once share nothing, since a
    browser has few connections to a host."""
    idle = (context for context in browser.contexts if not context.pages)
    context = next(idle, None) or browser.new_context()
    page = context.new_page()
    page.set_viewport_size({"width": 1200, "height": 1000})
    page.set_default_timeout(WAIT_MS)
    wrong: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            wrong.append(message.text)

    # what gradio says of the answers that a reload breaks off is no fault of the page
    page.add_init_script("addEventListener('beforeunload', () => { console.error = () => {}; })")
    page.on("console", note)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: None if local(r.url, url) else wrong.append(f"asked {r.url}"))
    page.goto(f"{url}?__theme={theme}")
    expect(page.get_by_role("tab", name="Variation")).to_be_visible()
    yield page
    page.close()
    assert not wrong, wrong


def local(address: str, url: str) -> bool:
    return address.startswith((url, "data:", "blob:"))


def open_tab(page: Page, name: str) -> Locator:
    page.get_by_role("tab", name=name, exact=True).click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    start = "Compare" if name == "Compare" else "Generate"
    expect(panel.get_by_role("button", name=start, exact=True)).to_be_visible()
    settle(page)
    return panel


def open_section(panel: Locator, name: str, field: str) -> Locator:
    """Open an accordion: the field of that label in it."""
    panel.get_by_text(name, exact=True).click()
    found = panel.get_by_label(field)
    expect(found).to_be_visible()
    settle(panel.page)
    return found


def box_of(locator: Locator) -> FloatRect:
    """Where it is seen."""
    box = locator.bounding_box()
    assert box is not None
    return box


def settle(page: Page) -> None:
    """Two frames: in the one after Gradio shows a tab or an accordion, it sets every field there
    to its initial value once more, and only a machine types sooner."""
    page.evaluate(
        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))"
    )


def set_number(panel: Locator, label: str, value: int) -> None:
    panel.get_by_label(f"number input for {label}").fill(str(value))


def click_example(panel: Locator, row: int) -> None:
    """An example fills the widgets and clicks Generate; here that click is only awaited."""
    generate = panel.get_by_role("button", name="Generate", exact=True)
    generate.evaluate("button => button.click = () => button.classList.add('asked')")
    panel.locator(".inputs :is(.gallery-item, tr.tr-body)").nth(row).click()
    expect(generate).to_have_class(re.compile("asked"))
    generate.evaluate("button => { delete button.click; button.classList.remove('asked') }")
    expect(panel.locator(".filled img").first).to_be_visible()  # what is drawn of its picture


def generate(panel: Locator) -> list[bytes]:
    """Press Generate and wait: the files behind the pictures that appear."""
    pictures = panel.locator(".results img")
    before = pictures.first.get_attribute("src") if pictures.count() else None
    panel.get_by_role("button", name="Generate").click()
    if before:
        expect(pictures.first).not_to_have_attribute("src", before)
    expect(pictures.first).to_have_attribute("src", re.compile("ip-adapter-"))  # no preview
    expect(panel.get_by_role("button", name="Generate")).to_be_enabled()
    for image in pictures.all():
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("image => image.naturalWidth") > 0
    return [httpx.get(image.get_attribute("src") or "").content for image in pictures.all()]


@pytest.fixture(scope="module")
def url(model: BaseModel) -> Iterator[str]:
    with served(ImagePromptPipeline(model)) as url:
        yield url


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, url: str, browser: Browser) -> Iterator[Page]:
    width, height, theme = request.param
    with visit(browser, url, theme) as page:
        page.set_viewport_size({"width": width, "height": height})
        yield page
