"""Ways in which servers that resemble Glance differ from it, put in front of a stand-in."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from tests.support.faults import Fault, is_page


def all_of(*faults: Fault) -> Fault:
    """Several differences at once, the first outermost."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        for each in reversed(faults):
            handler = _behind(each, handler)
        return await handler(request)

    return fault


def _behind(fault: Fault, handler: Handler) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await fault(request, handler)

    return handle


def versions_at_root(
    document: Any, status: int = 300, elsewhere: int = 404, token: str = ""
) -> Fault:
    """The list of versions is at ``/`` only. ``elsewhere``: the status of all paths but the API's.
    ``token``: the X-Auth-Token without which every path answers 401."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token and request.headers.get("X-Auth-Token") != token:
            return web.json_response({"error_code": "APIGW.0301"}, status=401)
        if request.path == "/":
            return web.json_response(document, status=status)
        if request.path in ("/versions", "/healthcheck"):
            return web.json_response({"error_code": "APIGW.0101"}, status=elsewhere)
        return await handler(request)

    return fault


def ignores(*names: str) -> Fault:
    """These query parameters have no effect."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        query = [(name, value) for name, value in request.query.items() if name not in names]
        return await handler(request.clone(rel_url=request.rel_url.with_query(query)))

    return fault


def takes_for_properties(*names: str) -> Fault:
    """These query parameters are filters on properties, which no image has: nothing matches."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_page(request) and set(names) & set(request.query):
            return web.json_response({"images": []})
        return await handler(request)

    return fault


def refuses(*names: str, status: int = 400) -> Fault:
    """Requests with these query parameters are refused."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if set(names) & set(request.query):
            return web.json_response({"message": "unknown parameter"}, status=status)
        return await handler(request)

    return fault


def lists_by(key: Callable[[dict[str, Any]], Any], page: int, *, reverse: bool = False) -> Fault:
    """The listing is in this order, whatever order is asked for. Markers work."""

    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_page(request):
            return await handler(request)
        query = {
            name: value for name, value in request.query.items() if name not in ("marker", "limit")
        }
        whole = request.clone(rel_url=request.rel_url.with_query({**query, "limit": "1000"}))
        response = await handler(whole)
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        rows = sorted(json.loads(response.body)["images"], key=key, reverse=reverse)
        ids = [row["id"] for row in rows]
        first = ids.index(request.query["marker"]) + 1 if "marker" in request.query else 0
        size = min(page, int(request.query.get("limit", "25")))
        return web.json_response({"images": rows[first : first + size]})

    return fault


def shuffled(seed: int) -> Callable[[dict[str, Any]], float]:
    """A key that puts rows into some fixed order."""
    return lambda row: random.Random(f"{seed}{row['id']}").random()
