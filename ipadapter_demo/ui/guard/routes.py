"""The routes of gradio that the page does not need are shut: they fetch what a visitor names, keep
what he sends for ever, or are for whoever writes the page."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from ipadapter_demo.ui.guard.refusal import Refused

SHUT = re.compile(
    r"/gradio_api/(proxy=|component_server|process_recording|deep_link|stream/|dev/|run-history"
    r"|runs\b|profiling|vibe-|undo-vibe-|file[=/][a-z][a-z0-9+.-]+:)"  # of another machine
    r"|/gradio_api/mcp/(sse|messages)\b"  # does not say when an agent leaves
    r"|/(monitoring|custom_component|svelte)\b",
    re.IGNORECASE,
)


class Routes:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and SHUT.search(scope["path"]):
            raise Refused(404, f"there is no {scope['path']!r:.100} here")
        await self.app(scope, receive, send)
