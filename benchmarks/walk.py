"""What the first results cost somebody who has never seen the page, in clicks, keys and seconds.

    python -m benchmarks.walk PICTURE [--url http://127.0.0.1:7860]

A browser goes the ways of a beginner: a variation of a picture of one's own, an edit by words, a
comparison. Choosing a file counts as two clicks: the field, and the file. Seconds run from the
page's address, or the tab's click, to the finished pictures; a person's own thinking and typing
come on top. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from benchmarks.browser import chromium

WORDS = "a red cone"
SIZE = {"width": 1280, "height": 720}
PATIENCE = 600_000  # milliseconds


@dataclass
class Count:
    """What a visitor did so far."""

    clicks: int = 0
    keys: int = 0


class Visitor:
    """One who clicks, types and chooses files, and is counted."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.count = Count()

    @property
    def panel(self) -> Locator:
        return self.page.get_by_role("tabpanel").filter(visible=True)

    def click(self, target: Locator) -> None:
        target.click()
        self.count.clicks += 1

    def choose_file(self, field: Locator, picture: Path) -> None:
        field.set_input_files(str(picture))
        self.count.clicks += 2

    def open_tab(self, name: str) -> None:
        self.click(self.page.get_by_role("tab", name=name, exact=True))
        # the fields of a tab that was just opened are reset in the next frame
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def type(self, field: Locator, text: str) -> None:
        self.click(field)
        field.press_sequentially(text)
        self.count.keys += len(text)

    def press(self, button: str) -> None:
        self.click(self.panel.get_by_role("button", name=button, exact=True))

    def generate(self) -> None:
        """Until the run has ended."""
        self.press("Generate")
        stop = self.panel.get_by_role("button", name="Stop", exact=True)
        expect(stop).to_be_enabled()
        expect(stop).to_be_disabled()
        expect(self.panel.locator(".results img").first).to_be_visible()


def vary(visitor: Visitor, picture: Path) -> None:
    """Four variations of a picture of one's own."""
    visitor.choose_file(visitor.panel.locator("input[type=file]").first, picture)
    expect(visitor.panel.locator(f"img[src*='{picture.stem}']").first).to_be_visible()
    visitor.generate()


def edit(visitor: Visitor, picture: Path) -> None:
    """The same picture, changed by words."""
    visitor.open_tab("Image + text")
    visitor.choose_file(visitor.panel.locator("input[type=file]").first, picture)
    visitor.type(visitor.panel.locator(".prompt textarea"), WORDS)
    visitor.generate()


def compare(visitor: Visitor, picture: Path) -> None:
    """The picture at six values of λ."""
    visitor.open_tab("Compare")
    visitor.choose_file(visitor.panel.locator("input[type=file]").first, picture)
    expect(visitor.panel.get_by_text("6 cells")).to_be_visible()
    visitor.press("Compare")
    expect(visitor.panel.locator("[data-cell]")).to_have_count(6)
    expect(visitor.panel.get_by_text("6 of 6 cells.")).to_be_visible()


WAYS: dict[str, Callable[[Visitor, Path], None]] = {
    "A variation of a picture of one's own (Variation)": vary,
    f"An edit of it by words, “{WORDS}” (Image + text)": edit,
    "It at six values of λ (Compare)": compare,
}


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.walk")
    parser.add_argument("picture", type=Path, help="a PNG of one's own")
    parser.add_argument("--url", default="http://127.0.0.1:7860", help="of the page")
    return parser.parse_args(words)


def main() -> None:
    arguments = parsed()
    expect.set_options(timeout=PATIENCE)
    print("| Way | Clicks | Keys | Seconds |\n|---|---|---|---|")
    with chromium() as browser:
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(PATIENCE)
        start = time.perf_counter()
        page.goto(arguments.url)
        for name, way in WAYS.items():
            visitor = Visitor(page)
            way(visitor, arguments.picture)
            seconds = time.perf_counter() - start
            count = visitor.count
            print(f"| {name} | {count.clicks} | {count.keys} | {seconds:.1f} |", flush=True)
            start = time.perf_counter()


if __name__ == "__main__":
    main()
