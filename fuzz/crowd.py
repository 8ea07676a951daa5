"""Many visitors: at once, for long, and such as stop, leave and reload."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from fuzz.inputs import bundle_of_manifest, manifests, picture, results
from fuzz.server import Server
from fuzz.wire import QUICK, Client, Told

Visit = Callable[[Client], str]
SETTLED = 20  # seconds after which a server has closed what visitors left open


def png() -> bytes:
    file = io.BytesIO()
    picture(64, 64).save(file, "PNG")
    return file.getvalue()


def drawn(client: Client) -> str:
    """A picture of a reference."""
    reference = client.upload(png(), "a.png")
    return client.call("variation", reference=reference, **QUICK)


def map_drawn(client: Client) -> str:
    control = client.upload(png(), "a.png")
    return client.call("structure_map", control=control, kind="canny/canny")


def restored(client: Client) -> str:
    upload = client.upload(results()[0], "a.png")
    return client.call_event(client.event("restore"), [upload, client.model])


def bundle_restored(client: Client) -> str:
    upload = client.upload(bundle_of_manifest(manifests()[0]), "a.zip")
    return client.call_event(client.event("restore"), [upload, client.model])


def refused(client: Client) -> str:
    return client.call("variation", steps=10**6)


def estimated(client: Client) -> str:
    event = client.event("estimate")
    return client.call_event(event, [client.values.get(i) for i in event["inputs"]])


def reloaded(client: Client) -> str:
    url = str(client.http.base_url).removesuffix("gradio_api/")
    answers = [httpx.get(f"{url}{path}", timeout=300) for path in ("", "config", "theme.css")]
    return "complete" if all(a.status_code == 200 for a in answers) else "refused 500"


MIXED: list[Visit] = [
    drawn, drawn, map_drawn, restored, bundle_restored, refused, estimated, reloaded,
]  # fmt: skip


def at_once(server: Server, clients: int = 64, each: int = 4, number: int = 0) -> dict[str, Any]:
    """`clients` visitors who begin together, each with `each` requests of the mixture."""
    told, lock, together = Told(), threading.Lock(), threading.Barrier(clients)

    def visitor(which: int) -> None:
        choose = random.Random(number * 1000 + which)
        client = Client(server.url)
        together.wait(300)
        for _ in range(each):
            _told(told, lock, client, choose.choice(MIXED))

    return _figures(server, told, lambda: _all(visitor, clients)) | {"clients": clients}


def soak(server: Server, count: int = 1000, number: int = 0) -> dict[str, Any]:
    """`count` requests one after the other; what the server holds after a tenth of them, in the
    middle, and at the end."""
    told, lock, choose, client = Told(), threading.Lock(), random.Random(number), Client(server.url)
    for visit in MIXED:  # what is loaded when it is first wanted
        visit(client)
    held = []

    def one_after_the_other() -> None:
        for done in range(count):
            if done in (count // 10, count // 2):
                held.append(server.held())
            _told(told, lock, client, choose.choice(MIXED))

    figures = _figures(server, told, one_after_the_other)
    return figures | {"held": [*held, server.held()]}


def storm(server: Server, count: int = 50) -> dict[str, Any]:
    """Runs of 200 steps that are stopped, runs whose visitor leaves, pages that are reloaded: as
    many of each at once as may stand in line, until `count` of each were there."""
    told, lock, before = Told(), threading.Lock(), server.held()
    client = Client(server.url)
    reference = client.upload(png(), "a.png")
    long = QUICK | {"steps": 200, "reference": reference}

    def stopped(which: int) -> None:
        event = client.event("variation")
        fields = client.fields("variation")
        data = [
            long.get(f, client.values.get(i)) for f, i in zip(fields, event["inputs"], strict=True)
        ]
        session = f"storm{which}"
        body = {"fn_index": event["id"], "data": data, "session_hash": session}
        joined = client.http.post("queue/join", json=body)
        if joined.status_code != 200:
            return _note(
                told, lock, f"refused {joined.status_code}: {joined.text}", "a run to stop"
            )
        with client.http.stream("GET", "queue/data", params={"session_hash": session}) as stream:
            next(stream.iter_lines(), None)
            cancel = {
                "session_hash": session, "fn_index": event["id"],
                "event_id": joined.json()["event_id"],
            }  # fmt: skip
            answer = client.http.post("cancel", json=cancel)
            _note(told, lock, f"stopped: {answer.status_code}", "a stop")

    def left(_: int) -> None:
        joined = client.http.post("call/v2/variation", json=long)
        if joined.status_code != 200:
            return _note(
                told, lock, f"refused {joined.status_code}: {joined.text}", "a run to leave"
            )
        place = f"call/variation/{joined.json()['event_id']}"
        with client.http.stream("GET", place) as stream:
            next(stream.iter_lines(), None)
        _note(told, lock, "left: in the middle", "a visit that ends")

    def again(_: int) -> None:
        _told(told, lock, client, reloaded)
        with client.http.stream("GET", f"heartbeat/storm{_}") as stream:
            next(stream.iter_lines(), None)

    def all_three() -> None:
        for visitor in (stopped, left, again):
            _all(visitor, count, at_once=16)

    figures = _figures(server, told, all_three)
    began = time.monotonic()
    answer = drawn(client)
    seconds = round(time.monotonic() - began, 1)
    time.sleep(SETTLED)
    return figures | {
        "next_picture": answer.partition(":")[0], "next_picture_seconds": seconds,
        "held": [before, server.held()],
    }  # fmt: skip


def _told(told: Told, lock: threading.Lock, client: Client, visit: Visit) -> None:
    try:
        answer = visit(client)
    except (httpx.HTTPError, ValueError) as error:
        answer = f"nothing: {type(error).__name__} {error}"
    if visit is not refused and answer.startswith("refused 422"):
        answer = f"nothing: {answer}"  # what is right was taken for wrong
    _note(told, lock, answer, visit.__name__)


def _note(told: Told, lock: threading.Lock, answer: str, asked: str) -> None:
    with lock:
        told.add(answer, asked)


def _all(visitor: Callable[[int], None], count: int, at_once: int | None = None) -> None:
    with ThreadPoolExecutor(at_once or count) as pool:
        list(pool.map(visitor, range(count)))


def _figures(server: Server, told: Told, run: Callable[[], None]) -> dict[str, Any]:
    before, began = server.tracebacks, time.monotonic()
    run()
    return told.figures() | {
        "seconds": round(time.monotonic() - began),
        "tracebacks": server.tracebacks - before,
        "crashed": not server.alive,
        "read_outside": server.read_outside,
    }
