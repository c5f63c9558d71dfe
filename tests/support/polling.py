"""Servers that record the polls they get."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import format_datetime

from aiohttp import web
from aiohttp.typedefs import Handler

from tests.support.faults import Fault


def is_poll(request: web.Request) -> bool:
    """Whether a request is for a page of changes, rather than about what the server supports."""
    query = request.query
    return "changes-since" in query or ("updated_at" in query and query.get("limit") != "1")


class PollRecorder:
    """A fault that records the polls that a server gets, and shifts the server's clock."""

    def __init__(self, shift: float = 0.0) -> None:
        self.since: list[float] = []
        """For each poll, the time from which it asks for changes, by the server's clock."""
        self.shift = shift
        self.fault: Fault | None = None
        """Answers polls instead of the server."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_poll(request):
            query = request.query
            moment = query.get("changes-since") or query["updated_at"].removeprefix("gte:")
            if "marker" not in query and query.get("os_hidden") != "true":
                self.since.append(datetime.fromisoformat(moment).timestamp())
            if self.fault is not None:
                return await self.fault(request, handler)
        response = await handler(request)
        now = datetime.fromtimestamp(time.time() + self.shift, UTC)
        response.headers["Date"] = format_datetime(now, usegmt=True)
        return response
