"""The page under a path of another server, as nginx shows it: a small reverse proxy that takes the
path away, and hands on everything else."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import Browser, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch
from tests.browsing import browser, generate, open_tab, visit
from tests.test_api import free_port, texts, with_tools
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
PATH = "/lab/demo"
OF_A_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"}


def proxy(target: str) -> Starlette:
    client = httpx.AsyncClient(base_url=target, timeout=None)

    async def hand_on(request: Request) -> Response:
        rest = request.url.path.removeprefix(PATH)
        headers = dict(request.headers) | {
            "x-forwarded-host": request.headers["host"],
            "x-forwarded-proto": "http",
        }
        asked = client.build_request(
            request.method,
            httpx.URL(path=rest, query=request.url.query.encode()),
            headers=headers,
            content=await request.body(),
        )
        answer = await client.send(asked, stream=True)

        async def body() -> AsyncIterator[bytes]:
            try:
                async for part in answer.aiter_bytes():
                    yield part
            finally:
                await answer.aclose()

        kept = {k: v for k, v in answer.headers.items() if k not in OF_A_HOP}
        return StreamingResponse(body(), answer.status_code, kept)

    methods = ["GET", "HEAD", "POST", "DELETE"]
    return Starlette(
        routes=[
            Route(PATH + "{path:path}", hand_on, methods=methods),
            Route("/favicon.ico", lambda _: Response(status_code=204)),  # of the other server
        ]
    )


def _served(server: uvicorn.Server) -> None:
    """Its end cancels streams of tools that their client has closed."""
    with suppress(BaseException):
        server.run()


@pytest.fixture(scope="module")
def url(model: Any) -> Iterator[str]:
    """The address at which the proxy shows the page; every other path of it is not found."""
    settings = Settings(port=free_port(), root_path=PATH, mcp=True)
    page = build_ui(ImagePromptPipeline(model), settings)
    launch(page, settings)
    port = free_port()
    app = proxy(f"http://127.0.0.1:{settings.port}")
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=_served, args=(server,))
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}{PATH}/"
    server.should_exit = server.force_exit = True
    thread.join()
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
