"""Listings that are read on behalf of clients: with their tokens, or with each location's own
credential where an operator asks."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import Sequence

import aiohttp

from resolver.errors import LocationUnavailable
from resolver.glance.cloud_credentials import CloudCredentials
from resolver.glance.glance_reply import Reply
from resolver.glance.glance_server import MAX_REASON_CHARACTERS, GlanceServer
from resolver.glance.rate_limits import PROBE_WAIT_SECONDS, RateLimits
from resolver.models import Location

MAX_PAGE_BYTES = 16 * 1024 * 1024
"""One page of a listing. 1,000 rows take 0.5 to 2 MB."""

MIN_PAGE_BYTES = 1024 * 1024
MAX_ROW_BYTES = 64 * 1024
"""How much a page of few rows may have: each property of an image may have 64 KB, but hardly any
row has 2."""

REFUSAL_STATUSES = (400, 401, 403)
"""What Glance answers where it is the client's request that it does not accept."""

MAX_ERROR_CHARACTERS = 4096
"""Of an error page that is searched for the reason. Glance's have a reason of some hundreds, behind
100 others. To resolve the references (``&amp;``) in more takes long, and one with more than 4,300
digits is a ValueError."""


class CallerListings:
    """Reads pages of listings."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        cloud_credentials: CloudCredentials,
        rate_limits: RateLimits,
    ) -> None:
        """``cloud_credentials`` have the settings for TLS."""
        self._session = session
        self._cloud_credentials = cloud_credentials
        self._rate_limits = rate_limits
        self._seconds: dict[int, float] = {}

    def last_seconds(self, location: Location) -> float:
        """How long a location took for its last answer; 0 where it has given none."""
        return self._seconds.get(location.number, 0.0)

    async def read(
        self,
        location: Location,
        path: str,
        params: Sequence[tuple[str, str]],
        token: str | None,
        seconds: float,
        rows: int = 1,
    ) -> bytes | bytearray:
        """The body of a location's answer 200 to the holder of ``token``; empty: to a client
        without one; None: to the location's own credential. ``rows``: how many are asked for, which
        bounds its size.

        Raises:
            LocationUnavailable: it gave none within ``seconds``. Where the location refused the
                request, the error has the code ``refused``, Glance's own reason as its detail, and
                the ``status`` (one of `REFUSAL_STATUSES`, or 404) among its extra members.
        """
        server = GlanceServer(
            self._session,
            location,
            self._cloud_credentials,
            self._rate_limits,
            max_wait=min(PROBE_WAIT_SECONDS, seconds),
        )
        max_bytes = min(MAX_PAGE_BYTES, MIN_PAGE_BYTES + rows * MAX_ROW_BYTES)
        started = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                reply = await server.request(path, params, token=token, max_bytes=max_bytes)
        except TimeoutError as error:
            raise LocationUnavailable("it did not answer in time", code="timeout") from error
        except LocationUnavailable as error:
            if token is None or error.problem_code != "unauthorized":
                raise
            raise LocationUnavailable(
                "Glance does not accept the token"
                if token
                else "it needs your token of Keystone (X-Auth-Token)",
                code="refused",
                extra={"status": 401, "challenge": error.extra.get("challenge", "")},
            ) from error
        self._seconds[location.number] = time.monotonic() - started
        if reply.status == 200:
            return reply.body
        if reply.status in (*REFUSAL_STATUSES, 404):
            # The text of a 404 is for no client.
            reason = reason_of(reply) if reply.status != 404 else "it answered 404"
            raise LocationUnavailable(reason, code="refused", extra={"status": reply.status})
        raise LocationUnavailable(f"it answered {reply.status}", code="no-clear-answer")


def reason_of(reply: Reply) -> str:
    """The sentence in an error page as Glance writes it, or else the status."""
    text = reply.body[:MAX_ERROR_CHARACTERS].decode(errors="replace")
    _, heading, rest = text.partition("</h1>")
    reason = html.unescape(rest.partition("<br")[0]) if heading else ""
    reason = " ".join("".join(c if c.isprintable() else " " for c in reason).split())
    return reason[:MAX_REASON_CHARACTERS] or f"it answered {reply.status}"
