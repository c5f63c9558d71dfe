"""Ways in which a Glance server misbehaves, put in front of a stand-in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

Fault = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


class Switch:
    """A middleware that does nothing until `fault` is set."""

    def __init__(self) -> None:
        self.fault: Fault | None = None

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def switch(request: web.Request, handler: Handler) -> web.StreamResponse:
            if self.fault is None:
                return await handler(request)
            return await self.fault(request, handler)

        return switch


class Gate:
    """Holds each page of a listing back until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.waiting = 0
        self.most = 0
        """The largest number of requests held at the same time."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_page(request):
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            try:
                await self.open.wait()
            finally:
                self.waiting -= 1
        return await handler(request)


def is_page(request: web.Request) -> bool:
    """Whether a request is for a page of a whole listing, rather than about some images."""
    path = request.path.rstrip("/")
    return path.endswith(("/images", "/images/detail")) and not {"id"} & set(request.query)


def on_pages(answer: Fault, *, later: bool = False) -> Fault:
    """`answer` instead of each page of a listing; `later`: of each but the first."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_page(request) and not (later and "marker" not in request.query):
            return await answer(request, handler)
        return await handler(request)

    return fault


def status(code: int, **headers: str) -> Fault:
    async def answer(_: web.Request, __: Handler) -> web.StreamResponse:
        return web.json_response({"images": []}, status=code, headers=headers)

    return answer


def body(text: str) -> Fault:
    async def answer(_: web.Request, __: Handler) -> web.StreamResponse:
        return web.Response(text=text, content_type="application/json")

    return answer


async def cut(request: web.Request, _: Handler) -> web.StreamResponse:
    """The connection breaks off within the body."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"images": [')
    if request.transport is not None:
        request.transport.close()
    return response


async def slow(_: web.Request, __: Handler) -> web.StreamResponse:
    """No answer ever comes."""
    await asyncio.Event().wait()
    raise AssertionError


async def endless(request: web.Request, _: Handler) -> web.StreamResponse:
    """The body never ends."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)
        await asyncio.sleep(0.01)


async def circle(request: web.Request, _: Handler) -> web.StreamResponse:
    """Redirected to itself."""
    return web.Response(status=302, headers={"Location": str(request.url)})


def images(change: Callable[[list[Any]], list[Any]]) -> Fault:
    """The true page with its images changed."""

    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        assert isinstance(response, web.Response)
        if response.status != 200:
            return response
        assert isinstance(response.body, bytes)
        document = json.loads(response.body)
        document["images"] = change(document["images"])
        return web.json_response(document)

    return answer


async def repeat(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Markers are ignored: the first page comes again and again."""
    query = {name: value for name, value in request.query.items() if name != "marker"}
    return await handler(request.clone(rel_url=request.rel_url.with_query(query)))
