"""The Compare tab in a browser, on a tiny model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browsing import (
    DESKTOP,
    PHONE,
    box_of,
    browser,
    open_section,
    open_tab,
    page,
    set_number,
    settle,
    url,
)
from tests.tiny import picture

__all__ = ["browser", "page", "url"]  # fixtures

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]


def compare(page: Page, columns: str, steps: int = 1) -> Locator:
    """Begin a comparison of the example pictures over λ."""
    panel = open_tab(page, "Compare")
    set_number(panel, "Steps", steps)
    panel.get_by_label("Values").first.fill(columns)
    expect(panel.get_by_text(re.compile(r"\d cells, [\d,]+ steps"))).to_be_visible()
    panel.get_by_role("button", name="Compare", exact=True).click()
    return panel


def test_a_preset_fills_the_form_and_compare_is_in_reach(page: Page) -> None:
    panel = open_tab(page, "Compare")
    start = panel.get_by_role("button", name="Compare", exact=True)
    expect(start).to_be_in_viewport(ratio=1)
    for name, axis, values in (
        ("Seeds", "seed", "1:5"),
        ("λ sweep", "strength λ", "0:1.25:0.25"),
        ("The paper's row", "method", "text only, image to image, image only, as it is"),
    ):
        panel.get_by_role("button", name=name, exact=True).click()
        expect(panel.get_by_label("Columns")).to_have_value(axis)
        expect(panel.get_by_label("Values").first).to_have_value(values)
    expect(panel.get_by_text("12 cells")).to_be_visible()
    prompt = panel.get_by_role("textbox", name="Prompt", exact=False).first
    expect(prompt).to_have_value("in a snowy forest")
    panel.get_by_role("button", name="Seeds", exact=True).click()
    expect(prompt).to_have_value("")  # which no visitor wrote
    prompt.fill("at night")
    panel.get_by_role("button", name="The paper's row", exact=True).click()
    expect(panel.get_by_label("Columns")).to_have_value("method")
    expect(prompt).to_have_value("at night")
    expect(start).to_be_in_viewport(ratio=1)
    assert (
        page.evaluate("document.documentElement.scrollWidth")
        <= box_of(page.locator("body"))["width"]
    )


@pytest.mark.parametrize("page", [DESKTOP], indirect=True)
def test_values_are_written_line_by_line_and_a_preset_s_go_with_its_axis(page: Page) -> None:
    panel = open_tab(page, "Compare")
    values, axis = panel.get_by_label("Values").first, panel.get_by_label("Columns")
    axis.click()
    page.get_by_role("option", name="prompt", exact=True).click()
    expect(values).to_have_value("")  # and not λ, to be drawn as a prompt
    expect(panel.get_by_text("one a line", exact=True)).to_be_visible()
    for line in ("a cat", "a dog"):
        values.press_sequentially(line)
        values.press("Enter")
    expect(values).to_have_value("a cat\na dog\n")
    expect(panel.get_by_text("6 cells,")).to_be_visible()
    axis.click()
    page.get_by_role("option", name="negative prompt", exact=True).click()
    expect(panel.get_by_text("6 cells,")).to_be_visible()
    expect(values).to_have_value("a cat\na dog\n")  # which somebody wrote


@pytest.mark.parametrize("page", [DESKTOP], indirect=True)
def test_an_error_goes_with_what_was_wrong(page: Page) -> None:
    panel = open_tab(page, "Compare")
    values, error = panel.get_by_label("Values").first, panel.locator(".status .problem")
    values.fill("1e9")
    expect(panel.get_by_text("Not ready: cell")).to_be_visible()  # the change has been seen
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(error).to_have_text(re.compile("cell .*: “Image strength λ” must be from 0 to 2"))
    open_tab(page, "Variation")
    open_tab(page, "Compare")  # its fields send their events anew, with what was compared
    page.wait_for_timeout(500)
    expect(error).to_have_count(1)
    values.fill("0, 1")
    expect(error).to_have_count(0)


@pytest.mark.parametrize("page", [DESKTOP], indirect=True)
def test_own_pictures_take_the_place_of_the_examples(page: Page, tmp_path: Path) -> None:
    """Later ones stand beside them."""
    panel = open_tab(page, "Compare")
    names = [tmp_path / f"{name}.png" for name in ("mine", "red-sphere", "third")]
    for number, path in enumerate(names):
        picture(number).save(path)
    panel.get_by_label("Values").first.fill("0, 1")
    expect(panel.get_by_text("6 cells,")).to_be_visible()
    upload = panel.locator("input[type=file]").first
    upload.set_input_files([str(path) for path in names[:2]])
    expect(panel.get_by_text("4 cells,")).to_be_visible()
    upload.set_input_files(str(names[2]))
    expect(panel.get_by_text("6 cells,")).to_be_visible()


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_two_fingers_zoom_where_their_middle_is(page: Page) -> None:
    panel = compare(page, "0, 1")
    expect(panel.get_by_text("6 of 6 cells.")).to_be_visible()
    cell, grid = panel.locator("[data-cell]").first, panel.locator(".comparison").last
    cell.scroll_into_view_if_needed()
    box, touch = box_of(cell), page.context.new_cdp_session(page)

    def fingers(kind: str, *at: tuple[float, float]) -> None:
        points = [
            {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": n}
            for n, (x, y) in enumerate(at)
        ]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", (0.4, 0.5), (0.6, 0.5))
    fingers("touchMove", (0.39, 0.5), (0.61, 0.5))
    fingers("touchMove", (0.3, 0.5), (0.7, 0.5))
    aimed = "one => ['--x', '--y', '--zoom'].map((n) => parseFloat(one.style.getPropertyValue(n)))"
    x, y, zoom = grid.evaluate(aimed)
    assert (x, y) == pytest.approx((50, 50), abs=2)
    assert 1.5 < zoom < 2.2
    fingers("touchMove", (0.2, 0.5), (0.6, 0.5))  # both to the left: what is on the right comes
    assert grid.evaluate(aimed)[0] > x + 5
    fingers("touchEnd")


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_a_grid_that_is_wider_than_a_phone_fades_where_it_goes_on(page: Page) -> None:
    def faded(panel: Locator) -> bool:
        grid = panel.locator(".comparison").last
        size = grid.evaluate("(grid) => getComputedStyle(grid).maskSize")
        return {"100% 36px, 100% 100%": True, "100% 36px, calc(100% + 40px) 100%": False}[size]

    panel = compare(page, "0:1.25:0.25")
    expect(panel.get_by_text("18 of 18 cells.")).to_be_visible()
    grid = panel.locator(".comparison").last
    assert grid.evaluate("(grid) => grid.scrollWidth - grid.clientWidth") > 40
    buttons = grid.get_by_text("1:1", exact=True)
    assert box_of(buttons)["y"] + box_of(buttons)["height"] - box_of(grid)["y"] <= 36
    assert faded(panel)
    grid.evaluate("(grid) => { grid.scrollLeft = grid.scrollWidth; }")
    settle(page)
    assert not faded(panel)
    panel.get_by_label("Values").first.fill("1")
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(panel.get_by_text("3 of 3 cells.")).to_be_visible()
    assert not faded(panel)


def test_cells_wait_with_seconds_and_stop_counts_right(page: Page) -> None:
    panel = compare(page, "0:1.5:0.1", steps=50)
    expect(panel.locator("[data-missing]").nth(30)).to_be_attached()
    expect(panel.locator(".spinner").first).to_be_in_viewport()
    expect(panel.locator("[data-left]").last).to_have_text(re.compile(r"^\d+ s$|^soon$"))
    expect(panel.locator("[data-cell]").first).to_be_visible()
    panel.get_by_role("button", name="Stop").dispatch_event("click")
    status = panel.get_by_role("status").first
    expect(status).to_have_text(re.compile(r"^\d+ of 48 cells. Compare goes on from here"))
    expect(panel.locator(".spinner")).to_have_count(0)
    count = int(status.inner_text().split()[0])
    expect(panel.locator("[data-cell]")).to_have_count(count)
    expect(panel.locator(".downloads").get_by_text("Download all")).to_be_visible()
    assert status.inner_text().startswith(f"{count} of 48")


def test_what_is_to_be_known_of_a_cell_stays_beside_the_grid(page: Page) -> None:
    panel = open_tab(page, "Compare")
    open_section(panel, "Spec", "YAML or JSON").fill(
        "columns: {seed: [1, 2]}\n"
        "request: {steps: 1, guidance: 1, negative_prompt: fog, "
        "references: [{image: red-sphere.png}]}"
    )
    panel.get_by_role("button", name="Compare", exact=True).click()
    status = panel.get_by_role("status").first
    expect(status).to_contain_text("2 of 2 cells.")
    expect(status).to_contain_text("“Negative prompt” has no effect at guidance 1.")
    assert status.inner_text().count("has no effect") == 1
    expect(page.get_by_test_id("toast-body")).to_have_count(0)


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_cells_are_buttons_of_which_two_are_held_against_each_other(page: Page) -> None:
    panel = compare(page, "0, 0.5, 1")
    expect(panel.get_by_text("9 of 9 cells.")).to_be_visible()
    for label, value in (
        ("First picture", "red-sphere · λ = 0"),
        ("Second picture", "red-sphere · λ = 0.5"),
    ):
        expect(panel.get_by_label(label, exact=True)).to_have_value(value)
    cell = panel.get_by_role("button", name="blue-cone · λ = 1, seed 0")
    cell.press("Enter")
    expect(cell).to_have_attribute("aria-pressed", "true")
    expect(cell).to_be_focused()
    expect(panel.get_by_label("First picture", exact=True)).to_have_value("blue-cone · λ = 1")
    for name in ("bundle.zip", "figure-p1.pdf", "scores.csv", "p1-r1-c2.png"):
        expect(panel.locator(f"a[download='{name}']")).to_have_count(1)


@pytest.mark.parametrize("page", [DESKTOP], indirect=True)
def test_the_wheel_scrolls_the_page_and_zooms_with_ctrl_keys_and_buttons(page: Page) -> None:
    panel = compare(page, "0, 1")
    expect(panel.get_by_text("6 of 6 cells.")).to_be_visible()
    grid, cell = panel.locator(".comparison").last, panel.locator("[data-cell]").first

    def expect_zoom(by: float) -> None:
        expect(grid).to_have_attribute("style", re.compile(rf"--zoom: {by:g};"))

    cell.scroll_into_view_if_needed()
    cell.hover()
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 300)
    page.wait_for_function(f"scrollY > {before}")
    assert "--zoom" not in (grid.get_attribute("style") or "")
    cell.scroll_into_view_if_needed()
    cell.hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    expect_zoom(1.25)
    panel.get_by_role("button", name="Whole pictures").click()
    expect_zoom(1)
    panel.get_by_role("button", name="Zoom in").click()
    expect_zoom(1.5)
    panel.locator("[data-cell]").nth(1).press("-")
    expect_zoom(1)


@pytest.mark.parametrize("page", [PHONE], indirect=True)
def test_flicker_is_paused_and_obeys_reduced_motion(page: Page) -> None:
    moves = "one => getComputedStyle(one).animationName"
    panel = compare(page, "0, 1")
    flicker, second = panel.locator(".flicker"), panel.locator(".flicker img").last
    expect(second).to_have_attribute("alt", "red-sphere · λ = 1, seed 0")
    assert second.evaluate(moves) == "flicker"
    flicker.get_by_role("button", name="Pause").click()
    assert second.evaluate(moves) == "none"
    flicker.get_by_role("button", name="Play").click()
    assert second.evaluate(moves) == "flicker"
    page.emulate_media(reduced_motion="reduce")
    expect(flicker.get_by_role("button", name="Play")).to_be_visible()
    assert second.evaluate(moves) == "none"


def test_a_blind_vote_asks_of_heads_and_gives_shares(page: Page) -> None:
    panel = open_tab(page, "Compare")
    panel.get_by_label("Prompt").first.fill("a red cube")
    panel = compare(page, "0, 1")
    expect(panel.get_by_text("6 of 6 cells.")).to_be_visible()
    panel.get_by_role("button", name="Blind vote").click()
    expect(panel.get_by_label("Column", exact=True)).to_have_value("λ = 0")
    expect(panel.get_by_label("against column")).to_have_value("λ = 1")
    panel.get_by_role("button", name="Begin").click()
    expect(panel.get_by_role("button", name="The left one")).to_be_in_viewport(ratio=1)
    for number in (1, 2, 3):
        asked = f"Which one follows the reference and “a red cube” better? {number} of 3."
        expect(panel.get_by_text(asked)).to_be_visible()
        for label in ("Reference", "Left", "Right"):
            shown = panel.locator(".filled").filter(has_text=label).locator("img")
            expect(shown).to_be_visible()
        panel.get_by_role("button", name="The left one").click()
    done = re.compile(r"λ = 1: \d of 3, \d+% \(95 % interval \d+% to \d+%\)")
    expect(panel.get_by_text(done)).to_be_visible()


@pytest.mark.parametrize("page", [DESKTOP], indirect=True)
def test_a_vote_ends_in_words_where_another_picture_takes_the_place_of_one(page: Page) -> None:
    """Nobody votes on pictures of which one was exchanged meanwhile; what was said so far stays."""
    panel = compare(page, "0, 1")
    expect(panel.get_by_text("6 of 6 cells.")).to_be_visible()
    panel.get_by_role("button", name="Blind vote").click()
    panel.get_by_role("button", name="Begin").click()
    left = panel.get_by_role("button", name="The left one")
    expect(left).to_be_enabled()
    panel.get_by_role("button", name="Compare", exact=True).click()  # goes on: the same comparison
    expect(panel.get_by_text("6 of 6 cells.")).to_be_visible()
    left.click()
    expect(panel.get_by_text(re.compile(r"2 of 3\.$"))).to_be_visible()
    again, seed = (
        panel.get_by_role("button", name="Redraw cell"),
        panel.get_by_label("New seed for the first picture"),
    )
    seed.fill("")
    again.click()
    expect(
        panel.get_by_text("“New seed for the first picture” is missing", exact=False).first
    ).to_be_visible()
    seed.fill("7")
    again.click()
    expect(panel.get_by_text("6 of 6 cells.")).to_be_visible()
    expect(again).to_be_enabled()
    left.click()
    ended = "The comparison has changed: the vote ends after 2 of 3."
    expect(panel.get_by_text(ended)).to_be_visible()
    expect(panel.get_by_text(re.compile(r"λ = 1: \d of 2"))).to_be_visible()
    expect(left).to_be_disabled()


@pytest.mark.parametrize("page", [DESKTOP], indirect=True)
def test_what_is_left_of_another_comparison_goes_at_once(page: Page) -> None:
    """Its files are deleted when the next one begins."""
    panel = compare(page, "0, 1")
    bundle = panel.get_by_role("link", name=re.compile("bundle"))
    expect(bundle).to_be_visible()
    set_number(panel, "Steps", 50)
    panel.get_by_label("Values").first.fill("0:1:0.05")
    panel.get_by_role("button", name="Compare", exact=True).click()
    expect(bundle).to_be_hidden()
    again = panel.get_by_role("button", name="Redraw cell")
    expect(again).to_be_hidden()
    panel.get_by_role("button", name="Stop", exact=True).click()
    expect(
        panel.get_by_text(re.compile(r"of 63 cells\. Compare goes on from here\."))
    ).to_be_visible()
