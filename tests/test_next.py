"""From a result to the next thing in a browser, on a tiny model: drawn after another, dragged, and
compared."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from ipadapter_demo.ui.run.further import MOST, queue_button
from tests.browsing import (
    DESKTOP,
    PHONE,
    box_of,
    browser,
    click_example,
    generate,
    open_section,
    open_tab,
    page,
    set_number,
    url,
)

__all__ = ["browser", "page", "url"]  # fixtures

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]


def drawn(page: Page, tab: str) -> Locator:
    """The tab after a run of its first example, in one step."""
    panel = open_tab(page, tab)
    click_example(panel, 0)
    set_number(panel, "Steps", 1)
    generate(panel)
    return panel


def test_runs_wait_with_the_values_of_their_moment(page: Page) -> None:
    panel = open_tab(page, "Variation")
    click_example(panel, 0)
    set_number(panel, "Steps", 50)
    panel.get_by_role("button", name="Generate").click()
    queue = panel.get_by_role("button", name=re.compile("^Queue"))
    expect(queue).to_be_in_viewport(ratio=1)
    for steps in (3, 4):
        set_number(panel, "Steps", steps)
        queue.click()
        expect(queue).to_have_text(re.compile(r"Queue \(\d\)"))
    runs = page.locator(".history img")
    expect(runs).to_have_count(3)
    expect(queue).to_be_hidden()
    for number, steps in ((2, 50), (1, 3), (0, 4)):
        runs.nth(number).click()
        expect(panel.get_by_label("number input for Steps")).to_have_value(str(steps))


@pytest.mark.parametrize("page", [DESKTOP], indirect=True)
def test_what_a_button_below_a_result_did_is_said(page: Page) -> None:
    panel = drawn(page, "Variation")
    status = panel.get_by_role("status").first
    for button, said in (
        ("Use as reference", "The picture is the reference now."),
        ("Keep this seed", "The next runs have this seed, too: it stands in Advanced."),
        ("Load its settings", "Its settings are in the fields: Generate draws it again."),
    ):
        panel.get_by_role("button", name=button).click()
        expect(status).to_have_text(re.compile(rf"^\d pictures in .*PNG\..*{re.escape(said)}$"))
    page.mouse.wheel(0, 400)
    panel.get_by_role("button", name="Inpaint this").click()
    expect(page.get_by_role("tab", name="Inpaint")).to_have_attribute("aria-selected", "true")
    page.wait_for_function("scrollY === 0")


@pytest.mark.parametrize("page", [DESKTOP, PHONE], indirect=True)
def test_a_number_beyond_its_slider_is_said(page: Page) -> None:
    panel = open_tab(page, "Variation")
    steps, said = panel.get_by_label("number input for Steps"), panel.locator(".beyond")
    for typed, taken in (("999", "50"), ("-4", "1")):
        steps.fill(typed)
        steps.press("Tab")
        expect(steps).to_have_value(taken)
        expect(said).to_have_text(f"“Steps” must be from 1 to 50, got {typed}: {taken} is taken.")
    steps.fill("7")
    steps.press("Tab")
    expect(said).to_have_count(0)


@pytest.mark.parametrize("page", [DESKTOP], indirect=True)
def test_an_error_is_seen_where_the_settings_are(page: Page) -> None:
    panel = open_tab(page, "Variation")
    click_example(panel, 0)
    width = open_section(panel, "Advanced", "Width")
    width.fill("7")
    width.scroll_into_view_if_needed()
    panel.get_by_role("button", name="Generate").click()
    error = panel.get_by_role("status").first
    expect(error).to_contain_text("“Width” must be from")
    expect(error).to_be_in_viewport(ratio=1)
    toast = box_of(page.locator(".toast-body"))
    assert toast["y"] > box_of(error)["y"] + box_of(error)["height"]


@pytest.mark.parametrize("page", [DESKTOP], indirect=True)
def test_stop_drops_the_runs_that_wait(page: Page) -> None:
    panel = drawn(page, "Image + text")
    set_number(panel, "Steps", 50)
    open_section(panel, "Advanced", "Shape")
    set_number(panel, "Number of images", 8)  # the first run lasts until *Stop*
    panel.get_by_label("Width", exact=True).fill("512")
    panel.get_by_role("button", name="Generate").click()
    queue = panel.get_by_role("button", name=re.compile("^Queue"))
    for _ in range(3):
        queue.dispatch_event("click")
    expect(panel.locator(".queue")).to_have_text(re.compile(r"\d"))
    panel.get_by_role("button", name="Stop").dispatch_event("click")
    expect(panel.get_by_role("button", name="Generate")).to_be_enabled()
    expect(queue).to_be_hidden()
    expect(panel.locator(".queue")).to_have_text("Queue")
    expect(
        panel.get_by_text(
            re.compile(r"(stay|are not finished)\. Runs that waited are dropped: \d\.")
        )
    ).to_be_visible()
    set_number(panel, "Steps", 1)
    panel.get_by_label("Width", exact=True).fill("0")
    set_number(panel, "Number of images", 1)
    generate(panel)
    expect(page.locator(".history img")).not_to_have_count(5)


@pytest.mark.parametrize("page", [DESKTOP], indirect=True)
def test_shift_and_enter_begin_no_second_run(page: Page) -> None:
    panel = open_tab(page, "Image + text")
    click_example(panel, 0)
    set_number(panel, "Steps", 20)
    prompt, button = panel.get_by_label("Prompt", exact=True), panel.locator(".generate")
    panel.get_by_role("button", name="Sweep λ").click()
    expect(button).to_be_disabled()
    prompt.press("Shift+Enter")
    expect(button).to_be_enabled()
    scrubber = panel.get_by_label("λ to look at")
    expect(scrubber).to_be_visible()
    set_number(panel, "Steps", 1)
    prompt.press("Shift+Enter")
    expect(panel.get_by_role("status").first).to_have_text(re.compile(r"^\d pictures? in "))
    expect(scrubber).to_be_hidden()


@pytest.mark.parametrize("page", [DESKTOP], indirect=True)
def test_a_result_is_dragged_into_a_field(page: Page) -> None:
    """Also where there is a picture already."""
    panel = drawn(page, "Structure")
    field = panel.locator(".inputs .block:has(input[type=file])").first
    before = field.locator("img").get_attribute("src") or ""
    panel.locator(".results img").first.drag_to(field)
    expect(field.locator("img")).to_have_attribute("src", re.compile("ip-adapter-"))
    assert "ip-adapter-" not in before


def test_results_go_into_a_comparison(page: Page) -> None:
    """Beside each other, and not beside the examples."""
    panel = open_tab(page, "Variation")
    click_example(panel, 0)
    set_number(panel, "Steps", 1)
    for number in (1, 2):
        generate(panel)
        panel.get_by_role("button", name="Into Compare").click()
        panel = page.get_by_role("tabpanel").filter(visible=True)
        expect(panel.get_by_role("button", name="Compare", exact=True)).to_be_visible()
        expect(panel.locator(".inputs .gallery-container img")).to_have_count(number)
        expect(panel.get_by_text(f"{6 * number} cells")).to_be_visible()
        panel = open_tab(page, "Variation")


def test_queue_takes_no_more_than_it_holds() -> None:
    """gradio would not show an error of the click."""
    assert queue_button([{}] * (MOST - 1)).interactive
    full = queue_button([{}] * MOST)
    assert (full.interactive, full.value) == (False, f"Queue ({MOST})")
