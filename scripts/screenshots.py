"""Pictures of all tabs for the docs: `make screenshots`, with the page served by this process.

python -m scripts.screenshots docs/screenshots

Those that docs/page.md shows, some light and some dark, on a desktop and on a phone; WebP, less
than 400 kB together.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page

import ipadapter_demo as ip
from benchmarks.browser import chromium
from benchmarks.page import served
from ipadapter_demo.cli.serve import scene_of_seed

WINDOWS = {  # name: width, height, scheme
    "desktop-light": (1280, 800, "light"),
    "desktop-dark": (1280, 800, "dark"),
    "phone-light": (390, 844, "light"),
    "phone-dark": (390, 844, "dark"),
}
WAIT_MS = 300_000
SEED = "7"
QUALITY = 60
MOST = 400_000  # bytes, all together


def opened(page: Page, tab: str) -> Locator:
    page.get_by_role("tab", name=tab, exact=True).click()
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.get_by_role("button", name="Compare" if tab == "Compare" else "Generate").wait_for()
    page.wait_for_timeout(1000)  # the widgets of a tab come a little later
    return panel


def example(panel: Locator) -> None:
    """Drawn with a seed of its own, so that two runs show the same."""
    panel.get_by_role("button", name="Advanced").first.click()
    panel.get_by_label("Random seed").uncheck()
    panel.get_by_label("Seed", exact=True).fill(SEED)
    panel.get_by_role("button", name="Advanced").first.click()
    panel.locator(".inputs :is(.gallery-item, tr.tr-body)").first.click()
    panel.locator(".results img[src*=ip-adapter-]").first.wait_for()


def sweep(panel: Locator) -> None:
    panel.get_by_role("button", name="Sweep λ").click()
    panel.get_by_text("move along the slider").wait_for()


def comparison(panel: Locator) -> None:
    panel.get_by_role("button", name="The paper's row").click()
    panel.page.wait_for_timeout(1000)
    panel.get_by_role("button", name="Compare", exact=True).click()
    panel.get_by_text("Download all").wait_for()


SHOTS = {  # name: tab, what is drawn, windows in which it is shown
    "variation": ("Variation", None, {"desktop-light", "phone-dark"}),
    "sweep": ("Variation", sweep, {"desktop-dark", "phone-light"}),
    "image-text": ("Image + text", example, {"desktop-light"}),
    "structure": ("Structure", example, {"desktop-dark"}),
    "inpaint": ("Inpaint", example, {"desktop-light"}),
    "compare": ("Compare", comparison, {"desktop-dark", "phone-dark"}),
}


def shoot(browser: Browser, url: str, window: str, folder: Path) -> None:
    width, height, scheme = WINDOWS[window]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(WAIT_MS)
    page.goto(f"{url}?__theme={scheme}")
    page.get_by_role("tab", name="Variation").wait_for()
    for name, (tab, draw, windows) in SHOTS.items():
        if window not in windows:
            continue
        panel = opened(page, tab)
        if draw is not None:
            draw(panel)
            page.wait_for_timeout(1500)  # pictures are decoded, notices stay
        if window.startswith("desktop"):
            page.evaluate("scrollTo(0, 0)")
        picture = Image.open(io.BytesIO(page.screenshot()))
        picture.convert("RGB").save(folder / f"{name}-{window}.webp", quality=QUALITY, method=6)
    page.close()


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser, served(ip.load("tabletop"), scene_of_seed) as url:
        for window in WINDOWS:
            shoot(browser, url, window, folder)
    files = sorted(folder.glob("*.webp"))
    size = sum(file.stat().st_size for file in files)
    print(f"{len(files)} pictures, {size:,} bytes, in {folder}")
    if size > MOST:
        sys.exit(f"more than {MOST:,} bytes: lower QUALITY")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
