"""Seconds from starting the page to its answer, and to its first picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from benchmarks.ports import free_port

APP = Path(__file__).parents[1] / "app.py"
PATIENCE = 600.0


def page_start() -> dict[str, float]:
    """`page` and `picture`; the picture is one of words, as the page draws it by itself."""
    port = free_port()
    url, began = f"http://127.0.0.1:{port}", time.perf_counter()
    words = [sys.executable, str(APP), "--port", str(port)]
    env = os.environ | {"IPADAPTER_MODEL": "tabletop"}
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(words, stdout=said, stderr=said, env=env) as server,
    ):
        try:
            while not _answers(url):
                if server.poll() is not None or time.perf_counter() - began > PATIENCE:
                    said.seek(0)
                    raise RuntimeError(
                        f"the page did not start: {server.returncode}, {said.read()}"
                    )
                time.sleep(0.05)
            page = time.perf_counter() - began
            _draw(f"{url}/gradio_api/call/v2/image_text")
            return {"page": page, "picture": time.perf_counter() - began}
        finally:
            server.terminate()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as page:
            return page.status == 200
    except (URLError, OSError):
        return False


def _draw(endpoint: str) -> None:
    body = json.dumps({"prompt": "a red sphere", "seed": 0}).encode()
    asked = Request(endpoint, body, {"Content-Type": "application/json"})
    with urlopen(asked, timeout=PATIENCE) as answer:
        event = json.load(answer)["event_id"]
    with urlopen(f"{endpoint}/{event}", timeout=PATIENCE) as events:
        text = events.read().decode()
    if "event: complete" not in text:
        raise RuntimeError(f"no picture: {text[-300:]}")
