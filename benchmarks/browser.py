"""Chromium, for benchmarks, screenshots and tests that drive the page in a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",  # containers, and root, have no sandbox to offer
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-sync",
    "--disable-component-update",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The one that the variable CHROMIUM names, or the first on the path.

    Raises SystemExit where there is none."""
    names = (os.environ.get("CHROMIUM", ""), *NAMES)
    path = next((found for name in names if name and (found := shutil.which(name))), None)
    if path is None:
        raise SystemExit("no Chromium: install one, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
