"""Law 13 over HTTP: a visitor beside the most expensive request, and visitors who leave. What is
counted are calls of the model, never seconds."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from benchmarks.ports import free_port
from ipadapter_demo.models.catalog import CatalogEntry
from ipadapter_demo.pipeline import ImagePromptPipeline, Preview, Result, load, prepare
from ipadapter_demo.request import GenerateRequest
from ipadapter_demo.serving import Limits, ModelManager
from ipadapter_demo.settings import Settings
from ipadapter_demo.ui import build_ui, launch
from tests.test_sharing import Gate, gated
from tests.test_ui import FAST, Api, Failed, png
from tests.tiny import picture

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
    pytest.mark.filterwarnings("ignore:Use `streamable_http_client` instead:DeprecationWarning"),
    # gradio opens the pictures that a tool returns, and leaves them open.
    pytest.mark.filterwarnings("ignore:.*unclosed file <_io.Buff:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning"
    ),
]

DEAR = {"steps": 200, "count": 16, "guidance": 2.0}  # costs 7,000, and the limit is 8,000
CHEAP = {"steps": 5, "count": 1, "guidance": 2.0}


class Server:
    """The page over two models, the calls of the first one counted: by their rows, 32 of the dear
    request, 2 of the cheap one."""

    def __init__(self, entry: CatalogEntry) -> None:
        def prepared(name: str, _: Any) -> Callable[[], ImagePromptPipeline]:
            return prepare(replace(entry, name=name))

        settings = Settings(
            port=free_port(),
            max_cost=8000,
            visitor_requests=1,
            time_limit=900,
            mcp=True,
        )
        pipeline = load(entry)
        self.rows: list[int] = []
        self.model = pipeline._model
        self.model.unet.register_forward_pre_hook(lambda _, given: self.rows.append(len(given[0])))
        self.engine = pipeline._engine
        most, limits = settings.queue_size, Limits.of(settings)
        self.manager = ModelManager(pipeline, prepared, {"other": "other"}, most, limits)
        self.page = build_ui(self.manager, settings)
        launch(self.page, settings)
        self.url = f"http://127.0.0.1:{settings.port}/"
        self.api = Api(self.url)
        self.upload = self.api.upload(png(picture(1)))

    @contextmanager
    def gated(self) -> Iterator[Gate]:
        with gated(self.manager.pipeline) as gate:
            yield gate

    def begun(self, **values: Any) -> str:
        """The address of the events of a request that was sent."""
        return self.called("variation", FAST | {"reference": self.upload} | values)

    def called(self, name: str, values: dict[str, Any]) -> str:
        headers = {"Content-Type": "application/json"}
        body = json.dumps(values)
        answer = self.api.http.post(f"call/v2/{name}", content=body, headers=headers)
        answer.raise_for_status()
        return f"{self.url}gradio_api/call/v2/{name}/{answer.json()['event_id']}"

    def turns(self, count: int) -> None:
        until(lambda: len(self.manager.line.turns) == count)

    def jobs(self, count: int) -> None:
        until(lambda: sum(not job.left for job in self.engine._jobs) == count)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def listening(url: str) -> Iterator[None]:
    """A client that reads the first event, and goes at the end of the block."""
    with httpx.Client(timeout=60) as http, http.stream("GET", url) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: generating"
        yield
        lines.close()  # type: ignore[attr-defined]  # a generator, whose end closes the connection


@asynccontextmanager
async def agent(url: str) -> AsyncIterator[ClientSession]:
    async with (
        streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session


@pytest.fixture(scope="module")
def server(entry: CatalogEntry) -> Iterator[Server]:
    server = Server(entry)
    yield server
    server.api.http.close()
    server.page.close()


@pytest.fixture(autouse=True)
def rested(server: Server) -> Iterator[None]:
    server.manager.with_model("tiny")
    yield
    server.turns(0)


def test_a_visitor_beside_the_most_expensive_request_waits_for_one_step_of_it(
    server: Server,
) -> None:
    """His own picture takes 5 calls; at most one is the other's, the one that was being made."""
    with server.gated() as gate:
        with listening(server.begun(**DEAR)):
            for _ in range(3):
                gate.step()
            assert gate.arrived.acquire(timeout=60)
            server.rows.clear()
            found: list[Any] = []
            ask = threading.Thread(
                target=lambda: found.append(
                    server.api.call("variation", reference=server.upload, **CHEAP)
                )
            )
            ask.start()
            server.jobs(2)
            gate.open.release()  # the call of the other that was at work
            for _ in range(5):
                gate.step()
            ask.join(60)
            assert len(found[0][0]) == 1
            assert server.rows[:5] == [2] * 5
            assert len(server.rows) <= 6, "the dear one goes on when the picture is drawn"
        gate.release()


def test_who_closes_the_connection_is_dropped_before_the_next_step(server: Server) -> None:
    with listening(server.begun(**DEAR)):
        until(lambda: server.manager.line.turns[0].share > 0)
    server.turns(0)
    server.rows.clear()
    server.api.call("variation", reference=server.upload, **CHEAP)
    assert 32 not in server.rows


def test_an_agent_who_closes_the_connection_is_dropped_too(server: Server) -> None:
    """And no other with him, nor is what one may ask for shared by all of them."""
    reference = {"reference": server.upload["path"]}

    async def with_another() -> Any:
        async with agent(server.url) as leaving, agent(server.url) as staying:
            dear = asyncio.create_task(leaving.call_tool("variation", FAST | DEAR | reference))
            await asyncio.to_thread(
                until, lambda: any(t.share > 0 for t in server.manager.line.turns)
            )
            answer = await staying.call_tool("variation", FAST | CHEAP | reference)
            dear.cancel()
            assert server.manager.line.turns[0].share < 1
        return answer

    with ThreadPoolExecutor(1) as thread:  # a browser's loop may run in this one
        answer = thread.submit(asyncio.run, with_another()).result()
    server.turns(0)
    server.rows.clear()
    server.api.call("variation", reference=server.upload, **CHEAP)
    assert 32 not in server.rows
    assert not answer.isError


def test_who_leaves_while_others_come_first_is_dropped_too(server: Server) -> None:
    """Though no step of his is made in all that time."""
    with server.gated() as gate:
        with listening(server.begun(**DEAR)):
            gate.step()
            assert gate.arrived.acquire(timeout=60)
            with listening(server.begun(**CHEAP)):
                server.jobs(2)
                gate.open.release()
                assert gate.arrived.acquire(timeout=60)  # a call of the cheap one, held
                server.turns(2)
                dear = next(turn for turn in server.manager.line.turns if turn.cost > 1000)
                assert dear.ahead == 1
        server.turns(0)
        gate.release()


def test_who_leaves_the_line_gives_up_the_place(server: Server) -> None:
    """He waits for another model, and nothing that is said of that ever changes."""
    with server.gated() as gate:
        with listening(server.begun(**CHEAP)):
            assert gate.arrived.acquire(timeout=60)
            elsewhere = {"reference": server.upload, "model": "other"}
            for name, values in (("variation", FAST | CHEAP), ("image_embeds", {})):
                with listening(server.called(name, values | elsewhere)):
                    server.turns(2)
                server.turns(1)
            gate.open.release()
        server.turns(0)
        gate.release()
    assert server.manager.info.name == "tiny", "and nothing is loaded for nobody"


def test_a_request_that_costs_too_much_is_refused_before_it_waits(server: Server) -> None:
    server.rows.clear()
    with pytest.raises(Failed, match=r"costs 1\d,\d\d\d calls .* 8,000 is the limit .*count 16 x"):
        server.api.call("variation", reference=server.upload, **DEAR | {"guidance": 2.0}, width=96)
    assert not server.rows


def test_a_visitor_with_many_sessions_has_only_so_many_requests(server: Server) -> None:
    """Calls over HTTP name no session: each of them is one of its own to gradio."""
    with server.gated() as gate:
        for _ in range(4):
            server.begun(**CHEAP)
        server.turns(4)
        with pytest.raises(Failed, match="4 requests from your address are waiting or at work"):
            server.api.call("variation", reference=server.upload, **CHEAP)
        gate.release()


def test_a_request_that_nobody_listens_to_ends(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gradio misses who stops listening, and not who never did."""
    monkeypatch.setattr("ipadapter_demo.ui.run.visitor.UNREAD", 10)
    server.rows.clear()
    server.begun(steps=200, count=1)
    until(lambda: len(server.rows) > 3)
    server.turns(0)
    assert len(server.rows) < 50
    assert len(server.api.call("variation", reference=server.upload, steps=30)[0]) == 1


def test_a_filmstrip_comes_as_late_as_it_costs(server: Server) -> None:
    """Each of its pictures by itself would come before a request of four."""
    pipeline = server.manager.pipeline
    one = GenerateRequest(steps=4, guidance=2.0)
    with server.gated() as gate:
        work = pipeline.outcomes([one] * 7, look_again=0.01)
        first = next(work)
        assert isinstance(first, Preview)
        four = pipeline.stream(replace(one, count=4), look_again=0.01)
        next(four)
        assert gate.arrived.acquire(timeout=60)
        server.rows.clear()
        gate.release()
        *_, result = four
        assert isinstance(result, Result)
        assert server.rows[:4] == [8] * 4
        work.close()


def test_a_session_has_one_request_where_one_is_allowed(server: Server) -> None:
    config = server.api.http.get(server.url + "config").json()
    [number] = [one["id"] for one in config["dependencies"] if one["api_name"] == "variation"]
    inputs = next(one["inputs"] for one in config["dependencies"] if one["id"] == number)
    props = {one["id"]: one["props"].get("value") for one in config["components"]}
    data = [props.get(one) for one in inputs]
    data[0] = server.upload
    body = {"data": data, "fn_index": number, "session_hash": "mine"}

    def join() -> None:
        server.api.http.post("queue/join", json=body).raise_for_status()

    with server.gated() as gate:
        join()
        server.turns(1)
        join()
        with server.api.http.stream("GET", "queue/data", params={"session_hash": "mine"}) as answer:
            said = next(line for line in answer.iter_lines() if "you have 1 requests" in line)
        assert "1 is the limit" in said
        gate.release()
