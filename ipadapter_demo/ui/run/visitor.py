"""Who asks, as gradio knows it."""

from __future__ import annotations

from gradio.context import LocalContext

from ipadapter_demo.serving import Visitor


def this_visitor() -> Visitor | None:
    """Whoever clicked, or sent the call, that a handler runs for; None outside of any. Behind a
    proxy the address is the visitor's if the proxy is one that the server trusts."""
    request = LocalContext.request.get(None)
    if request is None or request.request is None:
        return None
    client = request.request.client
    return Visitor(request.session_hash or "", client.host if client else "")
