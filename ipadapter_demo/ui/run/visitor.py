"""Who asks, as gradio knows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import TypeVar

from gradio.context import LocalContext

from ipadapter_demo.serving import Visitor

T = TypeVar("T")
UNREAD = 200  # events: as many as a short request has are read later, too


def this_visitor() -> Visitor | None:
    """Whoever clicked, or sent the call, that a handler runs for; None outside of any. Behind a
    proxy the address is the visitor's if the proxy is one that the server trusts."""
    request = LocalContext.request.get(None)
    if request is None or request.request is None:
        return None
    client = request.request.client
    return Visitor(request.session_hash or "", client.host if client else "")


def while_listened(handler: Callable[..., Iterator[T]]) -> Callable[..., Iterator[T]]:
    """The same handler, which ends once UNREAD of its events were not read: nobody listens, and
    gradio, which notices only who stops listening, would keep them all."""

    @wraps(handler)
    def run(**values: object) -> Iterator[T]:
        for update in handler(**values):
            yield update
            if _unread() > UNREAD:
                return

    return run


def _unread() -> int:
    request, page = LocalContext.request.get(None), LocalContext.blocks.get(None)
    if request is None or page is None:
        return 0
    events = page._queue.pending_messages_per_session.get(request.session_hash or "")
    return 0 if events is None else events.qsize()
