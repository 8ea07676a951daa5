"""A call of an endpoint: its name, fields and number of values, before gradio counts on them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ipadapter_demo.ui.guard.bodies import replayed, whole_body
from ipadapter_demo.ui.guard.quota import visitor_of
from ipadapter_demo.ui.guard.refusal import Refused

if TYPE_CHECKING:
    from gradio.blocks import BlockFunction, Blocks

CALL = re.compile(
    r"/gradio_api/(?:(?:run|api|(?P<waits>call)(?P<v2>/v2)?)/(?P<name>[^/]*)|queue/join)/?$"
)
MAX_NAMES = 30  # in a message
# Of one call: gradio goes through them all, piece by piece, before any check of ours. A batch of 50
# pictures, or a gallery of 100, has under a thousand.
MAX_VALUES, MAX_DEPTH = 20_000, 40
MAX_HASH = 100  # characters
LEAST = 8  # calls of an address, however short the queue is


class Calls:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._fields: dict[str, dict[str, bool]] | None = None  # whether each has a default

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        if is_post and (call := CALL.search(scope["path"])):
            check_login(scope)
            body = await whole_body(receive)
            values = parsed(body)
            page = scope["app"].get_blocks()
            if call["v2"]:
                self._check_fields(page, call["name"], values)
            else:
                check_values(page, call["name"], values)
            if call["waits"] or call["name"] is None:
                forget_sessions(page)
                check_waiting(page, scope)
            receive = replayed(body, receive)
        await self.app(scope, receive, send)

    def _check_fields(self, page: Blocks, name: str, values: Mapping[str, object]) -> None:
        """Of a call that gives its values by name."""
        if self._fields is None:
            described = page.get_api_info()["named_endpoints"]
            self._fields = {
                endpoint: {
                    p["parameter_name"]: p["parameter_has_default"] for p in one["parameters"]
                }
                for endpoint, one in described.items()
            }
        known = self._fields.get(f"/{name}")
        if known is None:
            raise Refused(404, f"there is no endpoint /{name:.80}; there are {_some(self._fields)}")
        if unknown := sorted(values.keys() - known):
            raise Refused(422, f"/{name} has no field {_some(unknown)}; it has {_some(known)}")
        if missing := [n for n in known if not known[n] and n not in values]:
            raise Refused(422, f"/{name} lacks {_some(missing)}")


def check_login(scope: Scope) -> None:
    """Before anything is said of the call itself: gradio would ask for it after that."""
    app = scope["app"]
    cookies = Request(scope).cookies
    names = (f"access-token{kind}-{app.cookie_id}" for kind in ("", "-unsecure"))
    if app.auth is not None and not any(cookies.get(name) in app.tokens for name in names):
        raise Refused(401, "log in first: this page is for those who have a login")


def parsed(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(422, "a call must be a JSON object") from error
    if not isinstance(values, dict):
        raise Refused(422, f"a call must be a JSON object, got {values!r:.80}")
    _check_size(values)
    return values


def _check_size(values: dict[str, Any]) -> None:
    """How many a call has, and how deep they are nested."""
    level: list[object] = [values]
    count = 1
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
            if count + len(below) > MAX_VALUES:
                raise Refused(413, f"a call may have {MAX_VALUES:,} values, got more")
        if not below:
            return
        level, count = below, count + len(below)
    raise Refused(413, f"a call may be nested {MAX_DEPTH} deep, got more")


def check_values(page: Blocks, name: str | None, values: Mapping[str, Any]) -> None:
    """Of a call that gives its values in order."""
    given = values.get("session_hash")
    if given is not None and not (isinstance(given, str) and len(given) <= MAX_HASH):
        raise Refused(422, f"session_hash must be a text of at most {MAX_HASH} characters")
    called = endpoint(page, name, values.get("fn_index"))
    data = values.get("data")
    counts = {len(called.inputs), sum(not one.skip_api for one in called.inputs)}
    if called.cancels:  # gradio fills it in
        return
    if not isinstance(data, list) or len(data) not in counts:
        raise Refused(
            422,
            f"data must be a list of {' or '.join(map(str, sorted(counts)))} values, got "
            f"{len(data) if isinstance(data, list) else repr(data)[:80]}",
        )


def check_waiting(page: Blocks, scope: Scope) -> None:
    """Half of the queue is the most that one address may have there, waiting or at work: previews
    and estimates wait in it too, and who fills it keeps out everybody."""
    queue = page._queue
    if queue.max_size is None:
        return
    most = max(LEAST, queue.max_size // 2)
    visitor = visitor_of(scope)
    waiting = (
        event for one in queue.event_queue_per_concurrency_id.values() for event in one.queue
    )
    at_work = (event for events in queue.active_jobs for event in events or ())
    count = sum(visitor_of(e.request.scope) == visitor for e in itertools.chain(waiting, at_work))
    if count >= most:
        raise Refused(
            429,
            f"{count} calls from your address are waiting or at work, and {most} is the limit: "
            "wait for one of them",
        )


def forget_sessions(page: Blocks) -> None:
    """gradio notes the calls of each session, and most programs are a session for each call: those
    whose calls have ended, or whose answers are gone, are forgotten now and then."""
    queue = page._queue
    noted, answers = queue.pending_event_ids_session, queue.pending_messages_per_session
    if len(noted) > 2 * answers.max_size:
        for session in [s for s, calls in noted.items() if not calls or s not in answers]:
            del noted[session]


def endpoint(page: Blocks, name: str | None, index: object) -> BlockFunction:
    """Raises Refused where there is none."""
    if index is not None:
        if type(index) is not int or index not in page.fns:
            raise Refused(404, f"fn_index must be that of an event of the page, got {index!r:.80}")
        return page.fns[index]
    for called in page.fns.values():
        if name and called.api_name == name:
            return called
    public = [fn.api_name for fn in page.fns.values() if fn.api_visibility == "public"]
    raise Refused(404, f"there is no endpoint /{name or '':.80}; there are {_some(public)}")


def _some(names: Iterable[object]) -> str:
    return ", ".join(f"{name:.40}" for name in itertools.islice(map(str, names), MAX_NAMES))
