"""Chromium and the page, for benchmarks, screenshots and tests that drive it in a browser."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.serving import ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch_options
from ipadapter_demo.ui.run.offers import Scene

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

    Raises FileNotFoundError where there is none."""
    names = (os.environ.get("CHROMIUM", ""), *NAMES)
    path = next((found for name in names if name and (found := shutil.which(name))), None)
    if path is None:
        raise FileNotFoundError("no Chromium: install one, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def served(pipeline: ImagePromptPipeline, scene: Scene | None = None) -> Iterator[str]:
    """The address of the page over a pipeline, in this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        settings = Settings(port=free.getsockname()[1])
    page = build_ui(ModelManager(pipeline), settings, scene)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_options(settings))
    yield url
    page.close()
