"""Servers that do what a test says: a scripted one, and a location that serves bytes badly."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from tests.support.faults import Fault


@dataclass(frozen=True)
class Scripted:
    """One response."""

    status: int = 200
    document: Any = None
    headers: tuple[tuple[str, str], ...] = ()


class ScriptedServer:
    """Answers with these responses in turn, the last one again and again."""

    def __init__(self, *responses: Scripted) -> None:
        self.responses = list(responses)
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Target and headers of each request."""
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append((request.path_qs, dict(request.headers)))
        response = self.responses[0] if len(self.responses) == 1 else self.responses.pop(0)
        return web.json_response(
            response.document, status=response.status, headers=response.headers
        )

    def tokens(self) -> list[str | None]:
        return [headers.get("X-Auth-Token") for _, headers in self.requests]


@asynccontextmanager
async def scripted(*responses: Scripted) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(*responses)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


class Bytes:
    """A fault of a stand-in: how it serves the bytes of images.

    Each of ``cuts`` breaks one response after so many bytes. ``ranges``: whether it knows `Range`,
    as Glance does. ``data`` is sent in place of the image's, whose record stays.
    """

    def __init__(
        self,
        *,
        cuts: Iterable[int] = (),
        ranges: bool = True,
        data: bytes | None = None,
        then: Fault | None = None,
    ) -> None:
        """After all cuts come the remaining bytes, or ``then``."""
        self.cuts = list(cuts)
        self.ranges = ranges
        self.data = data
        self.then = then
        self.asked: list[str | None] = []
        """`Range` of each request for bytes."""
        self.tokens: list[str | None] = []
        """`X-Auth-Token` of each request."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.tokens.append(request.headers.get("X-Auth-Token"))
        is_v1 = request.path.startswith("/v1/images/") and request.method == "GET"
        response = await handler(request)
        if not is_v1 and not request.path.endswith("/file"):
            return response
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        asked = request.headers.get("Range")
        self.asked.append(asked)
        data = response.body if self.data is None else self.data
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        answer = web.StreamResponse(status=206 if start else 200)
        if start:
            answer.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if not self.cuts and self.then is not None:
            return await self.then(request, handler)
        sent = data[start:]
        answer.content_length = len(sent)
        await answer.prepare(request)
        if not self.cuts:
            await answer.write(sent)
            return answer
        await answer.write(sent[: self.cuts.pop(0)])
        assert request.transport is not None
        request.transport.close()
        return answer


def owner(location: str, url: str, **members: Any) -> dict[str, Any]:
    """An owner in a gateway's answer."""
    values = {"region": "R", "uri": url, "health": "up", "state": "active", "status": "active"}
    return {"location": location, "url": url, **values, "digest": None, **members}


def found(image_id: str, owners: Sequence[dict[str, Any]]) -> Scripted:
    return Scripted(
        document={"id": image_id, "outcome": "found", "owners": owners, "conflict": False}
    )
