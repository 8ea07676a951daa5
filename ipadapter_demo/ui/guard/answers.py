"""Words instead of errors: one sentence for whoever asked, one line for the log."""

from __future__ import annotations

import logging
import re

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ipadapter_demo.ui.guard.refusal import Refused, response

# To a call without a queue gradio answers a sentence for whoever asked with status 500.
DIRECT = re.compile(r"/gradio_api/(run|api)/")

log = logging.getLogger(__name__)

# What gradio's routes raise over a request that lacks what they take from it.
STUMBLED = (LookupError, TypeError, ValueError, AttributeError, RecursionError, HTTPException)


class Answers:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun = ended = False
        direct = DIRECT.search(scope["path"])

        async def sent(message: Message) -> None:
            nonlocal begun, ended
            begun = True
            if direct and message.get("status") == 500:
                message["status"] = 422
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            return await self.app(scope, receive, sent)
        except Exception as error:
            refused = refusal_of(error)
            said = scope["method"], scope["path"], refused.words, type(error).__name__
            log.warning("%s %.100r: %s (%s)", *said, exc_info=refused.status == 500)
        if not begun:
            await response(scope, refused.status, refused.words)(scope, receive, send)
        elif not ended:
            await send({"type": "http.response.body", "body": b""})


def refusal_of(error: BaseException) -> Refused:
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, HTTPException):
        error = error.__cause__  # raised while an answer was on its way
    if isinstance(error, Refused):
        return error
    if isinstance(error, ClientDisconnect):
        return Refused(400, "the connection was closed before the request was whole")
    if isinstance(error, OSError):
        said = error.strerror or type(error).__name__
        return Refused(507, f"the server cannot keep the file: {said}")
    if isinstance(error, STUMBLED):
        return Refused(400, "the request cannot be read: a part of it is missing, or no such value")
    return Refused(500, "Something went wrong on the server; its log says what.")
