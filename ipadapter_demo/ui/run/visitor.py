"""Who asks, as gradio knows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import TypeVar

from gradio.context import LocalContext

from ipadapter_demo.serving import Visitor
from ipadapter_demo.ui.guard.agents import agent_of, is_there

T = TypeVar("T")
UNREAD = 200  # events: as many as a short request has are read later, too


def this_visitor() -> Visitor | None:
    """Whoever clicked, or sent the call, that a handler runs for; None outside of any. Behind a
    proxy the address is the visitor's if the proxy is one that the server trusts."""
    request = LocalContext.request.get(None)
    if request is None or request.request is None:
        return None
    client = request.request.client
    session = agent_of(request.headers) or request.session_hash or ""  # agents have one for all
    return Visitor(session, client.host if client else "")


def while_listened(handler: Callable[..., Iterator[T]]) -> Callable[..., Iterator[T]]:
    """The same handler, which ends once nobody listens: an agent has left, or UNREAD of its events
    were not read, and gradio, which notices only who stops listening, would keep them all."""

    @wraps(handler)
    def run(**values: object) -> Iterator[T]:
        for update in handler(**values):
            yield update
            if _agent_left() or _unread() > UNREAD:
                return

    return run


def _agent_left() -> bool:
    request = LocalContext.request.get(None)
    agent = None if request is None else agent_of(request.headers)
    return agent is not None and not is_there(agent)


def _unread() -> int:
    request, page = LocalContext.request.get(None), LocalContext.blocks.get(None)
    if request is None or page is None:
        return 0
    events = page._queue.pending_messages_per_session.get(request.session_hash or "")
    return 0 if events is None else events.qsize()
