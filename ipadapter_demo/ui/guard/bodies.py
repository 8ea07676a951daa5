"""The body of a request, bounded: an upload by its quota, as it comes, all else by its size."""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ipadapter_demo.ui.guard.quota import Quota, visitor_of
from ipadapter_demo.ui.guard.refusal import Refused

MAX_BODY = 2 * 2**20  # bytes; a spec of MAX_TEXT letters of four bytes, and its pictures' names


class Bodies:
    def __init__(self, app: ASGIApp, quota: Quota) -> None:
        self.app, self.quota = app, quota

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return await self.app(scope, receive, send)
        if scope["path"].endswith("/gradio_api/upload"):
            visitor = visitor_of(scope)
            return await self.app(scope, _Upload(scope, receive, self.quota, visitor), send)
        await self.app(scope, replayed(await whole_body(receive), receive), send)


class _Upload:
    """The parts of an upload, counted as they come. Only files may be among them: gradio keeps
    any other part in memory, however long."""

    def __init__(self, scope: Scope, receive: Receive, quota: Quota, visitor: str) -> None:
        self._receive, self._quota, self._visitor = receive, quota, visitor
        kind, options = parse_options_header(Headers(scope=scope).get("content-type"))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise Refused(400, "an upload must be multipart/form-data with a boundary")
        self._name, self._value = b"", b""
        self._is_file, self._files = False, 0
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begun,
                "on_header_field": self._named,
                "on_header_value": self._said,
                "on_header_end": self._header,
                "on_headers_finished": self._checked,
            },
        )

    async def __call__(self) -> Message:
        message = await self._receive()
        if body := message.get("body"):
            self._files = 0
            try:
                self._parser.write(body)
            except FormParserError as error:
                raise Refused(400, f"an upload is not multipart/form-data: {error}") from error
            self._quota.add(self._visitor, len(body), self._files)
        return message

    def _begun(self) -> None:
        self._is_file = False
        self._name = self._value = b""

    def _named(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _said(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        if self._name.lower() == b"content-disposition":
            options = parse_options_header(self._value)[1]
            self._is_file = b"name" in options and b"filename" in options
        self._name = self._value = b""

    def _checked(self) -> None:
        if not self._is_file:
            raise Refused(400, "an upload may hold files alone, each with a name")
        self._files += 1


async def whole_body(receive: Receive, most: int = MAX_BODY) -> bytes:
    """Raises Refused for a longer one."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the connection was closed before the request was whole")
        body += message.get("body", b"")
        if len(body) > most:
            raise Refused(413, f"a request may have {most:,} bytes beside its uploads, got more")
        if not message.get("more_body"):
            return bytes(body)


def replayed(body: bytes, receive: Receive) -> Receive:
    """The messages of a request whose body was read."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def message() -> Message:
        return waiting.pop() if waiting else await receive()

    return message
