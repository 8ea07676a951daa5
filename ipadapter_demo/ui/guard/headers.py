"""Headers by which a browser keeps the page to itself, on every answer.

https://www.w3.org/TR/CSP3/ : scripts are the page's own files and those in it that bear this
answer's nonce, so what a visitor types can be no script, whatever becomes of it. gradio runs the
`js` of an event with `new Function`, and so does its canvas: hence 'unsafe-eval'.
"""

from __future__ import annotations

import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ipadapter_demo.ui.language import SCRIPT

POLICY = (
    "default-src 'self'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors {frames}"
)
FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"  # an upload is no page
FIRST = f"<head><script>{SCRIPT}</script>".encode()  # before gradio asks for the language
OWN_FRAMES = "'self'"
SPACE_FRAMES = "'self' https://huggingface.co https://*.huggingface.co"


class Headers:
    def __init__(self, app: ASGIApp, on_space: bool) -> None:
        self.app, self.on_space = app, on_space

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        nonce = secrets.token_urlsafe(16)
        start: Message | None = None
        page: list[bytes] = []

        async def sent(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                self._add(MutableHeaders(scope=message), scope["path"], nonce)
                if _is_page(message):  # held back: its length changes
                    start = message
                    return
            elif start is not None:
                page.append(message.get("body", b""))
                if message.get("more_body"):
                    return
                body = b"".join(page).replace(b"<head>", FIRST, 1)
                # without quotation marks, since a text of gradio's configuration may say <script
                body = body.replace(b"<script", b"<script nonce=%b" % nonce.encode())
                if "content-length" in (headers := MutableHeaders(scope=start)):
                    headers["content-length"] = str(len(body))
                await send(start)
                message = {"type": "http.response.body", "body": body}
            await send(message)

        await self.app(scope, receive, sent)

    def _add(self, headers: MutableHeaders, path: str, nonce: str) -> None:
        frames = SPACE_FRAMES if self.on_space else OWN_FRAMES
        is_file = "/gradio_api/file" in path
        policy = FILE_POLICY if is_file else POLICY.format(nonce=nonce, frames=frames)
        headers["Content-Security-Policy"] = policy
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "same-origin"
        if not self.on_space:
            headers["X-Frame-Options"] = "SAMEORIGIN"


def _is_page(start: Message) -> bool:
    return MutableHeaders(scope=start).get("content-type", "").startswith("text/html")
