"""A server that allows so many requests in a time, in front of a stand-in."""

from __future__ import annotations

import time

from aiohttp import web
from aiohttp.typedefs import Handler


class Limiting:
    """A fault: allows ``allowed`` requests in each window, and answers others with ``status``."""

    def __init__(
        self, allowed: int, window: float, *, status: int = 429, retry_after: str | None = ""
    ) -> None:
        """``retry_after``: the header; empty for the seconds that are left, None for none."""
        self._allowed = allowed
        self._window = window
        self._status = status
        self._retry_after = retry_after
        self._window_ends = 0.0
        self._used = 0
        self.times: list[float] = []
        """When requests came, on `time.monotonic`."""
        self.refused = 0
        self.queries: list[dict[str, str]] = []
        """Of the requests for pages of listings that were answered."""

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        now = time.monotonic()
        self.times.append(now)
        if now >= self._window_ends:
            self._window_ends, self._used = now + self._window, 0
        self._used += 1
        if self._used > self._allowed:
            self.refused += 1
            left = str(int(self._window_ends - now) + 1)
            headers = {"Retry-After": self._retry_after or left}
            return web.Response(
                status=self._status, headers=headers if self._retry_after is not None else {}
            )
        if request.path.endswith("/images") and request.query.get("limit") == "1000":
            self.queries.append(dict(request.query))
        return await handler(request)

    def begin_window(self) -> None:
        """Allows requests again."""
        self._window_ends = 0.0
