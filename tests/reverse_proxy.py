"""`python -m tests.reverse_proxy PORT TARGET`: shows another server under a path, as nginx does. It
takes the path away, and hands on everything else."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

PATH = "/lab/demo"
OF_A_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"}


def proxy(target: str) -> Starlette:
    # A connection for each request: the server closes an idle one, and a request that is on its way
    # in it at that moment is lost.
    limits = httpx.Limits(max_keepalive_connections=0)
    client = httpx.AsyncClient(base_url=target, timeout=None, limits=limits)

    async def hand_on(request: Request) -> Response:
        rest = request.url.path.removeprefix(PATH)
        headers = dict(request.headers) | {
            "x-forwarded-host": request.headers["host"],
            "x-forwarded-proto": "http",
        }
        asked = client.build_request(
            request.method,
            httpx.URL(path=rest, query=request.url.query.encode()),
            headers=headers,
            content=await request.body(),
        )
        answer = await client.send(asked, stream=True)

        async def body() -> AsyncIterator[bytes]:
            try:
                async for part in answer.aiter_bytes():
                    yield part
            finally:
                await answer.aclose()

        kept = {k: v for k, v in answer.headers.items() if k not in OF_A_HOP}
        return StreamingResponse(body(), answer.status_code, kept)

    methods = ["GET", "HEAD", "POST", "DELETE"]
    return Starlette(
        routes=[
            Route(PATH + "{path:path}", hand_on, methods=methods),
            Route("/favicon.ico", lambda _: Response(status_code=204)),  # of the other server
        ]
    )


if __name__ == "__main__":
    uvicorn.run(proxy(sys.argv[2]), port=int(sys.argv[1]), log_level="error")
