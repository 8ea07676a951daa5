"""What a request gets that goes no further."""

from __future__ import annotations

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Scope

MAX_WORDS = 500  # characters


class Refused(Exception):
    """A request that goes no further, with a status of HTTP and one sentence."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words[:MAX_WORDS]


def response(scope: Scope, status: int, words: str) -> Response:
    """In the form in which the page shows it: gradio reads `detail`, and of an upload the text."""
    if scope["path"].endswith("/upload"):
        return PlainTextResponse(words, status)
    return JSONResponse({"detail": words}, status)
