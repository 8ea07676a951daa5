"""The page on the open web: who may ask, for what, how much of it, and what a browser is told."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import re
import resource
import shutil
import time
import tracemalloc
from asyncio import Queue as AsyncQueue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio.queueing import EventQueue
from gradio.routes import App
from playwright.sync_api import Browser, expect
from starlette.datastructures import MutableHeaders
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from benchmarks.ports import free_port
from ipadapter_demo.cli.serve import PRIVATE
from ipadapter_demo.models.base_model import BaseModel
from ipadapter_demo.pipeline import ImagePromptPipeline
from ipadapter_demo.settings import Settings
from ipadapter_demo.temporary import AGE, EVERY, MARKER, PREFIX, files_in, sweep, temporary_folder
from ipadapter_demo.ui import build_ui, launch_options
from ipadapter_demo.ui.guard import app_options
from ipadapter_demo.ui.guard.bodies import MAX_BODY
from ipadapter_demo.ui.guard.calls import MAX_VALUES
from ipadapter_demo.ui.guard.hosts import trusted_hosts
from ipadapter_demo.ui.guard.quota import Quota, Share, visitor_of
from ipadapter_demo.ui.guard.refusal import Refused
from ipadapter_demo.ui.guard.routes import SHUT
from ipadapter_demo.ui.run.further import MAX_SIZE
from tests.browsing import browser as browser
from tests.tiny import picture

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]

QUOTA = {"upload_quota": "300kb", "upload_quota_total": "400kb"}


@pytest.fixture(scope="module")
def served(model: BaseModel) -> Iterator[tuple[str, App]]:
    """The address of a page, and what serves it."""
    settings = Settings(port=free_port(), trusted_hosts="demo.example,.lan", **QUOTA)
    page = build_ui(ImagePromptPipeline(model), settings)
    app, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_options(settings))
    yield url, app
    page.close()


@pytest.fixture
def http(served: tuple[str, App]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[0], timeout=60) as client:
        yield client


def png() -> bytes:
    file = io.BytesIO()
    picture(1).save(file, "PNG")
    return file.getvalue()


# How much of the queue a visitor may have


def test_nobody_fills_the_queue(
    served: tuple[str, App], http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Previews wait in gradio's queue, whose end is the end for everybody."""
    page = served[1].get_blocks()
    kept = EventQueue("kept", 1)
    kept.current_concurrency = 1  # nothing of it is begun
    scope = {"client": ["198.51.100.7", 1]}
    kept.queue += [SimpleNamespace(request=SimpleNamespace(scope=scope)) for _ in range(16)]
    monkeypatch.setitem(page._queue.event_queue_per_concurrency_id, "kept", kept)
    number = next(n for n, fn in page.fns.items() if fn.api_name == "as_png")

    def asked(address: str, path: str) -> httpx.Response:
        body = {"fn_index": number, "data": [None], "session_hash": "queue"}
        headers = {"X-Forwarded-For": address}  # this machine is a proxy that the server trusts
        return http.post(f"gradio_api/{path}", json=body, headers=headers)

    for path in ("queue/join", "call/as_png", "call/as_png/"):
        refused = asked("198.51.100.7", path)
        assert refused.status_code == 429, path
        assert "16 calls from your address are waiting or at work" in refused.json()["detail"]
    answer = asked("198.51.100.8", "queue/join")
    assert answer.status_code == 200, answer.text


# What is kept of visitors


def test_a_session_takes_little_memory(served: tuple[str, App], http: httpx.Client) -> None:
    """A program may name another one with each call."""
    app = served[1]
    page = app.get_blocks()
    number = next(n for n, fn in page.fns.items() if fn.api_name == "look")
    letters = "a" * 100_000

    def call(session: str) -> None:
        body = {"fn_index": number, "data": [None, letters, ""], "session_hash": session}
        assert http.post("gradio_api/run/look", json=body).status_code == 200

    call("first")
    tracemalloc.start()
    for count in range(20):
        call(f"session-{count}")
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "session-19" in app.state_holder
    assert grown / 20 < 20_000


def test_a_run_that_waits_takes_little_memory(served: tuple[str, App], http: httpx.Client) -> None:
    """Its values are kept before anything has checked them."""
    app = served[1]
    page = app.get_blocks()
    number, add = next((n, fn) for n, fn in page.fns.items() if fn.api_name == "add")
    at = [type(one) for one in add.inputs].index(gr.Textbox)

    def call(session: str, letters: str) -> int:
        data = [letters if place == at else None for place in range(len(add.inputs))]
        body = {"fn_index": number, "data": data, "session_hash": session}
        return http.post("gradio_api/run/add", json=body).status_code

    def waiting(session: str) -> int:
        return len(json.dumps(list(app.state_holder[session].state_data.values()), default=str))

    assert call("short", "a red cube") == 200
    assert 0 < waiting("short") < MAX_SIZE
    assert call("long", "a" * 10 * MAX_SIZE) != 200
    assert waiting("long") < 1000
    assert launch_options(Settings())["state_session_capacity"] == 2000


def test_sessions_whose_calls_have_ended_are_forgotten(
    served: tuple[str, App], http: httpx.Client
) -> None:
    queue = served[1].get_blocks()._queue
    noted, answers = queue.pending_event_ids_session, queue.pending_messages_per_session
    noted |= {f"ended-{n}": set() for n in range(4000)} | {"unread": {"a"}, "gone": {"b"}}
    answers["unread"] = AsyncQueue()
    body = {"data": [None]}
    assert http.post("gradio_api/call/as_png", json=body).status_code == 200
    assert not any(name.startswith("ended") or name == "gone" for name in noted)
    assert "unread" in noted, "its answer may still be read"


def test_a_session_has_its_own_widgets(served: tuple[str, App]) -> None:
    page = served[1].get_blocks()
    one, other = (served[1].state_holder[name] for name in ("one", "other"))
    number = next(n for n, block in page.blocks.items() if isinstance(block, gr.Number))
    one[number] = changed = gr.Number(4, maximum=5, render=False)
    assert one[number] is changed
    assert other[number] is page.blocks[number]
    # With another value alone it is the widget that all have.
    own = {**page.blocks[number].constructor_args, "value": 4, "render": False}
    one[number] = gr.Number(**own)
    assert one[number] is page.blocks[number]
    assert one.blocks_config.fns == page.fns


# Who may ask


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:7860", "LocalHost.", "127.0.0.1", "127.0.0.9:80", "[::1]:7860",
     "[::1]", "demo.example", "DEMO.example:8443", "box.lan", "a.b.lan:1"],
)  # fmt: skip
def test_this_machine_and_what_the_operator_names_may_ask(http: httpx.Client, host: str) -> None:
    assert http.get("config", headers={"Host": host}).status_code == 200
    origin = {"Origin": f"https://{host}"}
    assert http.get("config", headers=origin).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example",
     "demo.example.evil", "sub.demo.example", "lan", "evil", "192.168.1.7", "[fe80::1]:7860", "a b",
     "", "[::1", "127.0.0.1@evil.example"],
)  # fmt: skip
def test_a_name_that_points_here_may_not(http: httpx.Client, host: str) -> None:
    """DNS rebinding: the page of a stranger has let its own name point to this machine."""
    for path in ("", "config", "gradio_api/info", "gradio_api/queue/data?session_hash=a"):
        refused = http.get(path, headers={"Host": host})
        assert refused.status_code == 403
        assert "Host" in refused.text
        assert "--trusted-hosts" in refused.text


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "file:" + "//", "http://[", ""])
def test_a_page_elsewhere_may_not(http: httpx.Client, origin: str) -> None:
    headers = {"Origin": origin, "Content-Type": "text/plain"}  # which no browser asks us about
    body = json.dumps({"data": [], "fn_index": 0, "session_hash": "a"})
    for path in ("gradio_api/queue/join", "gradio_api/run/predict", "gradio_api/upload"):
        refused = http.post(path, content=body, headers=headers)
        assert refused.status_code == 403
        assert "Origin" in refused.text


def test_a_server_for_others_is_asked_by_address_and_under_its_names() -> None:
    def trusts(asked: str, env: dict[str, str] | None = None, **settings: Any) -> bool:
        return trusted_hosts(Settings(**settings), env or {}).trusts(asked)

    assert trusts("192.168.1.7", host="0.0.0.0")
    assert trusts("fe80::1", host="::")
    assert not trusts("evil.example", host="0.0.0.0")
    assert trusts("box.lan", host="box.lan")
    assert trusts("abcdef.gradio.live", share=True)
    assert not trusts("abcdef.gradio.live")
    assert trusts("any.example", trusted_hosts="*")
    space = {"SPACE_ID": "me/demo", "SPACE_HOST": "me-demo.hf.space"}
    assert trusts("me-demo.hf.space", space, host="0.0.0.0")
    assert not trusts("other.hf.space", space, host="0.0.0.0")
    assert not trusts("me-demo.hf.space")
    for wrong in ("https://demo.example", "demo.example/x", "a b"):
        with pytest.raises(ValueError, match="trusted_hosts must be names without scheme and port"):
            Settings(trusted_hosts=wrong)


# What a browser is told


def test_every_answer_says_what_a_browser_may_do_with_it(http: httpx.Client) -> None:
    for path in ("", "config", "nothing", "gradio_api/proxy=x", "theme.css"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "SAMEORIGIN"
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert (
        "default-src" in http.get("", headers={"Host": "evil"}).headers["content-security-policy"]
    )


def test_only_scripts_of_the_page_itself_run(http: httpx.Client) -> None:
    answers = [http.get(""), http.get("")]
    policies = [a.headers["content-security-policy"] for a in answers]
    nonces = [re.search(r"'nonce-([\w-]{16,})'", policy)[1] for policy in policies]
    assert nonces[0] != nonces[1]
    for answer, nonce, policy in zip(answers, nonces, policies, strict=True):
        scripts = re.findall(r"<script\b[^>]*>", answer.text)
        assert len(scripts) > 3
        assert all(f"nonce={nonce}" in script for script in scripts)
        [allowed] = re.findall(r"script-src ([^;]*)", policy)
        assert "unsafe-inline" not in allowed
        assert "http" not in policy, "no other machine"


def test_an_upload_is_no_page(http: httpx.Client) -> None:
    """A picture's address that is opened by itself, or HTML that was uploaded as one."""
    evil = b"<script>alert(document.domain)</script>"
    for name in ("x.html", "x.svg", "x.png", "x"):
        [path] = http.post("gradio_api/upload", files={"files": (name, evil)}).json()
        answer = http.get(f"gradio_api/file={path}")
        assert answer.status_code == 200
        assert "sandbox" in answer.headers["content-security-policy"]
        assert "script-src" not in answer.headers["content-security-policy"]
        assert not answer.headers["content-type"].startswith(("text/html", "image/svg"))


def test_a_space_is_framed_by_its_site_and_by_no_other() -> None:
    layers: Any = app_options(Settings(), {"SPACE_ID": "me/demo"})["middleware"]
    headers = layers[0]
    assert headers.kwargs == {"on_space": True}
    page = headers.cls(None, on_space=True)
    found = MutableHeaders()
    page._add(found, "/", "n")
    [frames] = re.findall(r"frame-ancestors ([^;]*)", found["content-security-policy"])
    assert frames.split() == ["'self'", "https://huggingface.co", "https://*.huggingface.co"]
    assert "x-frame-options" not in found


def test_html_that_slips_through_runs_nothing(browser: Browser, served: tuple[str, App]) -> None:
    """That the page works under the policy is what the tests of it in a browser show: they fail
    for any message of the console."""
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(served[0])
    expect(page.get_by_role("tab", name="Variation")).to_be_visible()
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=y: onerror=hit=1>')")
    page.evaluate(
        "const s = document.createElement('script'); s.text = 'hit=2'; document.body.append(s)"
    )
    page.wait_for_timeout(300)
    assert page.evaluate("window.hit") is None
    assert sum("Content Security Policy" in text for text in said) >= 2
    page.close()


# What may be asked for


ROUTES = {
    # the page, its parts, and what it is made of
    "/", "/{page}", "/{page}/", "/assets/{path:path}", "/static/{path:path}", "/favicon.ico",
    "/robots.txt", "/manifest.json", "/pwa_icon", "/pwa_icon/{size}", "/theme.css",
    "/gradio_api/theme.css", "/config", "/config/", "/gradio_api/info", "/gradio_api/info/",
    "/gradio_api/openapi.json",
    "/gradio_api/startup-events",
    # who is there
    "/login", "/login/", "/logout", "/gradio_api/user", "/gradio_api/user/",
    "/gradio_api/login_check", "/gradio_api/login_check/", "/gradio_api/token",
    "/gradio_api/token/", "/gradio_api/app_id",
    "/gradio_api/app_id/", "/gradio_api/heartbeat/{session_hash}",
    # files of the page's own folder
    "/gradio_api/upload", "/gradio_api/upload_progress", "/gradio_api/file={path_or_url:path}",
    "/gradio_api/file/{path:path}",
    # calls
    "/gradio_api/run/{api_name}", "/gradio_api/run/{api_name}/", "/gradio_api/api/{api_name}",
    "/gradio_api/api/{api_name}/", "/gradio_api/call/{api_name}", "/gradio_api/call/{api_name}/",
    "/gradio_api/call/v2/{api_name}", "/gradio_api/call/v2/{api_name}/",
    "/gradio_api/call/{api_name}/{event_id}", "/gradio_api/call/v2/{api_name}/{event_id}",
    "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/queue/status",
    "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/reset/",
}  # fmt: skip


def test_every_route_of_gradio_is_known_or_shut(served: tuple[str, App]) -> None:
    """A new version may bring a new one: somebody looks at it first."""
    routes = list(served[1].routes)
    for router in [r.original_router for r in routes if hasattr(r, "original_router")]:
        routes += router.routes
    paths = {route.path for route in routes if hasattr(route, "path")}
    assert "/gradio_api/upload" in paths
    assert {path for path in paths if not SHUT.search(path)} <= ROUTES


@pytest.mark.parametrize(
    "path",
    ["gradio_api/proxy=https://huggingface.co/x", "gradio_api/file=http://127.0.0.1:1/x",
     "gradio_api/file=HTTPS://example.org", "gradio_api/file/http://example.org", "monitoring",
     "gradio_api/file=ftp://x", "gradio_api/deep_link?session_hash=a", "gradio_api/vibe-code",
     "gradio_api/%70roxy=https://huggingface.co/x", "docs", "redoc", "openapi.json",
     "gradio_api/component_server", "gradio_api/process_recording",
     "gradio_api/run-history/records"],
)  # fmt: skip
def test_what_the_page_does_not_need_is_shut(http: httpx.Client, path: str) -> None:
    assert {http.get(path).status_code, http.post(path).status_code} <= {404, 405}


@pytest.mark.parametrize(
    "name", ["secret.png", "../secret.png", "/secret.png", "secret.png%00.png"]
)
def test_no_file_of_the_server_is_served(http: httpx.Client, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    for path in (f"{tmp_path}/{name}", f"/proc/self/root{secret}", "/etc/passwd", str(tmp_path)):
        answer = http.get(f"gradio_api/file={path}")
        assert answer.status_code in (400, 403, 404)
        assert png() not in answer.content


# How much of it


def test_a_visitor_uploads_so_much_within_an_hour(http: httpx.Client, served: Any) -> None:
    some, refused = {"files": ("x.png", bytes(90_000))}, None
    for _ in range(5):
        refused = http.post("gradio_api/upload", files=some)
        if refused.status_code != 200:
            break
    assert refused.status_code == 429
    assert refused.text == (
        "uploads: at most 307,200 bytes within an hour for a visitor; try again later"
    )
    _forgotten(served[1])


def _forgotten(app: App) -> None:
    """The visits of the tests before."""
    layer = app.middleware_stack
    while not hasattr(layer, "quota"):
        layer = layer.app
    layer.quota._minutes.clear()


def test_the_quota_is_a_visitors_own_and_all_have_one_together() -> None:
    now = [0.0]
    quota = Quota(Share(100, 3), Share(250, 5), clock=lambda: now[0])
    quota.add("a", 100, 1)
    with pytest.raises(Refused, match="at most 100 bytes within an hour for a visitor"):
        quota.add("a", 1, 0)
    quota.add("b", 100, 3)
    with pytest.raises(Refused, match="at most 3 files within an hour for a visitor"):
        quota.add("b", 0, 1)
    with pytest.raises(Refused, match="at most 250 bytes within an hour for all"):
        quota.add("c", 51, 0)
    with pytest.raises(Refused, match="at most 5 files within an hour for all"):
        quota.add("c", 0, 2)
    quota.add("c", 50, 1)
    now[0] = 3599
    with pytest.raises(Refused):
        quota.add("a", 1, 0)
    now[0] = 3661
    quota.add("a", 100, 3)


def test_a_visitor_is_an_address_or_a_network_of_version_6() -> None:
    def visitor(address: str) -> str:
        return visitor_of({"type": "http", "client": (address, 1), "headers": []})

    assert visitor("10.1.2.3") == "10.1.2.3"
    assert visitor("2001:db8:1:2:3::4") == visitor("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"


def test_no_visitor_of_a_space_gets_out_of_his_quota() -> None:
    """What he writes to the left of what the Space's own proxies add is not believed."""
    seen: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        seen.append(visitor_of(scope))

    behind = ProxyHeadersMiddleware(app, PRIVATE)
    for said in ("1.2.3.4, 198.51.100.7", "10.0.0.9,198.51.100.7 , 10.16.3.80", "198.51.100.7"):
        headers = [(b"x-forwarded-for", said.encode())]
        scope = {"type": "http", "client": ("10.16.0.1", 1), "headers": headers}
        with ThreadPoolExecutor(1) as thread:  # a browser's loop may run in this one
            thread.submit(asyncio.run, behind(scope, None, None)).result()  # type: ignore[arg-type]
    assert set(seen) == {"198.51.100.7"}


def test_an_upload_holds_files_alone(http: httpx.Client, served: Any) -> None:
    """gradio keeps what is no file in memory, however long it is."""
    refused = http.post("gradio_api/upload", data={"x": "y" * 1000}, files={"files": ("a", b"b")})
    assert (refused.status_code, refused.text) == (
        400,
        "an upload may hold files alone, each with a name",
    )
    for kind in ("text/plain", "multipart/form-data", "multipart/form-data; boundary=x"):
        answer = http.post("gradio_api/upload", content=b"--y", headers={"Content-Type": kind})
        assert answer.status_code == 400
    _forgotten(served[1])


def test_many_files_at_once_are_as_many(http: httpx.Client, served: Any) -> None:
    many = [("files", (f"{n}.txt", b"x")) for n in range(1001)]
    refused = http.post("gradio_api/upload", files=many)
    assert refused.status_code == 429
    assert "at most 1,000 files" in refused.text
    _forgotten(served[1])


def test_a_request_beside_its_uploads_is_short(http: httpx.Client) -> None:
    body = json.dumps({"data": ["x" * MAX_BODY]})
    for path in ("gradio_api/call/variation", "gradio_api/queue/join", "login"):
        refused = http.post(path, content=body, headers={"Content-Type": "application/json"})
        assert refused.status_code == 413
        assert refused.json() == {
            "detail": f"a request may have {MAX_BODY:,} bytes beside its uploads, got more"
        }


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([[]] * MAX_VALUES, "a call may have 20,000 values, got more"),
        ({str(n): n for n in range(MAX_VALUES)}, "a call may have 20,000 values, got more"),
        (json.loads("[" * 100 + "]" * 100), "a call may be nested 40 deep, got more"),
    ],
)
def test_a_call_has_so_many_values(http: httpx.Client, value: object, words: str) -> None:
    """gradio takes seconds for a list of 700,000 empty ones, and serves nobody meanwhile."""
    for path, body in (
        ("call/v2/variation", {"image_scale": value}),
        ("call/variation", {"data": [value]}),
        ("run/look", {"fn_index": 0, "data": [value]}),
        ("queue/join", {"fn_index": 0, "data": [value], "session_hash": "a"}),
    ):
        refused = http.post(f"gradio_api/{path}", json=body)
        assert (refused.status_code, refused.json()["detail"]) == (413, words)


# Calls that are none


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("call/v2/nothing", {}, 404, "no endpoint /nothing; there are /variation, /ima"),
        ("call/v2/variation", {"nonsense": 1}, 422, "/variation has no field nonsense; it has ref"),
        ("call/nothing", {"data": []}, 404, "there is no endpoint /nothing"),
        ("run/nothing", {"data": []}, 404, "there is no endpoint /nothing"),
        ("call/variation", {"data": [1]}, 422, "data must be a list of "),
        ("call/variation", {}, 422, "data must be a list of "),
        ("call/variation", {"data": {"a": 1}}, 422, "values, got {'a': 1}"),
        ("queue/join", {"data": [], "fn_index": 9999, "session_hash": "a"}, 404, "got 9999"),
        ("queue/join", {"data": [], "fn_index": "0", "session_hash": "a"}, 404, "got '0'"),
        ("queue/join", {"data": [], "fn_index": True, "session_hash": "a"}, 404, "got True"),
        ("queue/join", {"data": [], "session_hash": "a"}, 404, "there is no endpoint /"),
        ("queue/join", {"data": [], "fn_index": 0, "session_hash": ["a"]}, 422, "session_hash"),
        ("queue/join", {"data": [], "fn_index": 0, "session_hash": "a" * 101}, 422, "at most 100"),
        ("queue/join", [], 422, "a call must be a JSON object, got []"),
        ("queue/join", "x" * 5000, 422, "a call must be a JSON object"),
    ],
)  # fmt: skip
def test_a_call_that_is_none_is_refused_in_words(
    http: httpx.Client, path: str, body: Any, status: int, words: str
) -> None:
    answer = http.post(f"gradio_api/{path}", json=body)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert len(answer.text) < 700


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"data": 1' + b"0" * 5000 + b"}"]
)
def test_what_is_no_json_is_refused_in_words(http: httpx.Client, body: bytes) -> None:
    for path in ("call/variation", "call/v2/variation", "queue/join", "run/predict"):
        answer = http.post(f"gradio_api/{path}", content=body)
        assert answer.status_code == 422
        assert answer.json() == {"detail": "a call must be a JSON object"}


def test_what_gradio_stumbles_over_is_said_and_leaves_one_line(
    http: httpx.Client, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    [path] = http.post("gradio_api/upload", files={"files": ("a.png", png())}).json()
    odd = http.get(f"gradio_api/file={path}", headers={"Range": "bytes=1-2-3"})
    assert (odd.status_code, "cannot be read" in odd.text) == (400, True)
    stream = http.get("gradio_api/queue/data", params={"session_hash": "never"})
    assert stream.status_code == 200  # as gradio says that there is no such session
    said = capfd.readouterr()
    assert "Traceback" not in caplog.text + said.err + said.out
    assert "bytes" not in caplog.text


@pytest.mark.filterwarnings(  # gradio closes the file of such an upload only as it is forgotten
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)
def test_a_full_disk_is_said_and_leaves_one_line(
    http: httpx.Client, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """An upload, and a picture at the end of a run. A limit on the size of files stands for it."""
    [path] = http.post("gradio_api/upload", files={"files": ("a.png", png())}).json()

    def drawn() -> str:
        values = {"reference": {"path": path}, "steps": 1, "seed": 0}
        call = http.post("gradio_api/call/v2/variation", json=values).json()
        return http.get(f"gradio_api/call/v2/variation/{call['event_id']}").text

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        upload = http.post("gradio_api/upload", files={"files": ("b.png", bytes(1000))})
        said = drawn()
        log = caplog.text
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert upload.status_code == 507
    assert upload.text == "the server cannot keep the file: File too large"
    assert "The server cannot keep its files: File too large. Try again later." in said
    assert "event: complete" in drawn(), "the server goes on"
    shown = capfd.readouterr()
    assert "Traceback" not in log + shown.err + shown.out
    assert len(log.splitlines()) == 2


# Files that go


def test_files_go_within_the_hour(tmp_path: Path) -> None:
    """An upload, its half, a result, a comparison; the page's examples stay."""
    assert AGE + EVERY < 3600
    for name in (
        "kept/example.png",
        "kept/same-picture.png",
        "tmpupload",
        "result/a.png",
        "job/cells/a.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    kept = frozenset({tmp_path / "kept/example.png"})
    sweep(tmp_path, kept, time.time() + AGE - 60)
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 5
    sweep(tmp_path, kept, time.time() + AGE + 60)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [*kept]
    assert not (tmp_path / "job").exists()


def test_a_comparison_at_work_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ipadapter_demo import temporary

    (tmp_path / "job").mkdir()
    (tmp_path / "job/first.png").write_bytes(b"x")
    monkeypatch.setattr(temporary, "newest", lambda path: time.time())  # another cell just now
    sweep(tmp_path, frozenset(), time.time() + AGE - 1)
    assert (tmp_path / "job/first.png").exists()


def test_the_folder_is_the_servers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with temporary_folder() as folder:
        assert folder.parent == tmp_path.resolve()
        assert folder.stat().st_mode & 0o777 == 0o700
        left = folder.with_name(f"{PREFIX}killed_1")  # as one that was killed leaves it
        shutil.copytree(folder, left)
        (left / "a.png").write_bytes(b"x")
        others = {"somebody-elses", f"{PREFIX}main", f"{PREFIX}outputs", f"{PREFIX}backup_1"}
        for name in others:
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.png").write_bytes(b"x")
        (tmp_path / f"{PREFIX}main/{MARKER}").touch()  # a name that we do not make
        sweep(folder, frozenset(files_in(folder)), time.time() + AGE + 60)
        assert not left.exists()
        assert folder.exists()
        assert [*folder.iterdir()] == [folder / MARKER], "so that the next server knows it"
    assert {path.name for path in tmp_path.iterdir()} == others
    assert all((tmp_path / name / "a.png").exists() for name in others)


def test_a_folder_of_another_user_ends_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in it cannot be looked at; what is left beside it goes all the same."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with temporary_folder() as folder:
        left = [folder.with_name(f"{PREFIX}killed_{n}") for n in (1, 2, 3)]
        for path in left:
            shutil.copytree(folder, path)
        look = os.stat

        def stat(path: Any, *how: Any, **more: Any) -> os.stat_result:
            if Path(path).parent == left[1]:
                raise PermissionError
            return look(path, *how, **more)

        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", stat)
            sweep(folder, frozenset(files_in(folder)), time.time() + AGE + 60)
        assert [path.exists() for path in left] == [False, True, False]


def test_a_picture_that_is_gone_is_asked_for_again(http: httpx.Client) -> None:
    [path] = http.post("gradio_api/upload", files={"files": ("a.png", png())}).json()
    Path(path).unlink()
    call = http.post("gradio_api/call/v2/variation", json={"reference": {"path": path}, "steps": 1})
    said = http.get(f"gradio_api/call/v2/variation/{call.json()['event_id']}").text
    assert "reference is gone: uploads stay for an hour, upload it again" in said
