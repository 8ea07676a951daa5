"""The page under a path of another server."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import Browser, expect

from benchmarks.ports import free_port
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch
from tests.browsing import browser, generate, open_tab, visit
from tests.reverse_proxy import PATH
from tests.test_api import texts, with_tools
from tests.tiny import picture

__all__ = ["browser"]  # a fixture

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
    pytest.mark.filterwarnings("ignore:Use `streamable_http_client` instead:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*unclosed file <_io.BufferedReader:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <_io.*/gradio/:pytest.PytestUnraisableExceptionWarning"
    ),
]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def url(model: Any) -> Iterator[str]:
    """The address at which the proxy shows the page; every other path of it is not found."""
    settings = Settings(port=free_port(), root_path=PATH, mcp=True)
    page = build_ui(ImagePromptPipeline(model), settings)
    launch(page, settings)
    port = free_port()
    target = f"http://127.0.0.1:{settings.port}"
    # A process of its own: clients leave streams open, which end with it.
    command = [sys.executable, "-m", "tests.reverse_proxy", str(port), target]
    with subprocess.Popen(command, cwd=ROOT) as server:
        answers = False
        while not answers and server.poll() is None:
            time.sleep(0.05)
            with suppress(httpx.ConnectError):
                answers = httpx.get(f"http://127.0.0.1:{port}/favicon.ico").is_success
        yield f"http://127.0.0.1:{port}{PATH}/"
        server.kill()
    page.close()


@pytest.mark.browser
def test_a_visitor_draws_under_the_path(browser: Browser, url: str, tmp_path: Path) -> None:
    """Scripts, styles, uploads, events and results: `visit` takes no request beside the path."""
    picture(1).save(tmp_path / "reference.png")
    picture(1).save(tmp_path / "reference.tiff")
    with visit(browser, url) as page:
        assert page.evaluate("getComputedStyle(document.querySelector('.header h1')).fontSize")
        panel = open_tab(page, "Variation")
        for name in ("reference.png", "reference.tiff"):  # the page converts the second itself
            panel.locator("input[type=file]").first.set_input_files(tmp_path / name)
            expect(panel.locator(".filled img").first).to_be_visible()
            made = generate(panel)
            assert made[0].startswith(b"\x89PNG")
            page.reload()
            panel = open_tab(page, "Variation")


def test_a_program_draws_under_the_path(url: str, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "reference.png")
    client = Client(url, verbose=False)
    reference = handle_file(tmp_path / "reference.png")
    [made], *_ = client.predict(reference=reference, steps=1, count=1, api_name="/variation")
    with Image.open(made) as image:
        assert image.size == (64, 64)
    client.close()
    plain = Client(url, verbose=False, download_files=False)
    [made], *_ = plain.predict(reference=reference, steps=1, count=1, api_name="/variation")
    assert made["url"].startswith(url)
    assert httpx.get(made["url"]).content.startswith(b"\x89PNG")
    plain.close()


def test_a_tool_draws_under_the_path(url: str) -> None:
    def use(session: Any) -> Any:
        return session.call_tool("image_text", {"prompt": "a", "steps": 1, "count": 1})

    answer = with_tools(url, use)
    assert answer.content[0].type == "image"
    assert f"{url}gradio_api/file=" in texts(answer)
