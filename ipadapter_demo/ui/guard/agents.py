"""Agents, which call tools, and whether they are still there.

gradio's server of tools calls the page from this machine, on a connection of its own that stays
open for all agents. So the agent's own connection is watched here, and each call bears its name.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOOLS = re.compile(r"/gradio_api/mcp(/http)?/?$")
HEADER = "x-agent"  # of the call that stands for an agent's
IN_SCOPE = "ipadapter_demo.agent"

_there: set[str] = set()  # names that nobody guesses


class Agents:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not TOOLS.search(scope["path"]):
            return await self.app(scope, receive, send)
        name = scope[IN_SCOPE] = secrets.token_hex(16)

        async def received() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect":
                _there.discard(name)
            return message

        _there.add(name)
        try:
            await self.app(scope, received, send)
        finally:
            _there.discard(name)


def agent_of(headers: Mapping[str, str]) -> str | None:
    """The name of the agent that a call stands for; None where a visitor calls himself."""
    return headers.get(HEADER)


def is_there(agent: str) -> bool:
    """False once the agent's connection is closed, and for a name that somebody made up."""
    return agent in _there
