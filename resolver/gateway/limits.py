"""How much of what is dear one client may have, and who a client is."""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Callable, Iterable

from aiohttp import web

from resolver.errors import TooManyRequests
from resolver.glance.host_policy import Address, parse_address

BURST = 10.0
"""Seconds' worth that a client may have at once."""

MOST_CLIENTS = 65_536
"""Clients that are remembered. One more and the one longest unseen is forgotten."""

BULK_IDS = 500
"""Ids of a bulk request that cost as much as one question to the locations. At the default rate
that is more than a worker can answer."""


class Buckets:
    """A token bucket for each client, full for those that are not in the table.

    Of each no more is kept than when it will be full again (the generic cell rate algorithm).
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``rate``: tokens a second; 0: no limit."""
        self._rate = rate
        self._clock = clock
        self._full_at: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: bytes, tokens: float) -> float:
        """Takes tokens, and returns 0; or none, and returns the seconds until they can be taken.

        What is more than a whole bucket takes a whole bucket.
        """
        if not self._rate:
            return 0.0
        now = self._clock()
        full_at = max(self._full_at.get(client, now), now) + min(tokens / self._rate, BURST)
        if (wait := full_at - now - BURST) > 1e-6:
            return wait
        self._full_at.pop(client, None)  # to the end: the first is the one longest unseen
        self._full_at[client] = full_at
        if len(self._full_at) > MOST_CLIENTS:
            del self._full_at[next(iter(self._full_at))]
        return 0.0


class Limits:
    """What clients may have of this process."""

    def __init__(self, rate: float, proxies: Iterable[str]) -> None:
        """``proxies``: networks whose `X-Forwarded-For` is believed."""
        self.buckets = Buckets(rate)
        self._proxies = [ipaddress.ip_network(one) for one in proxies]

    def charge(self, request: web.BaseRequest, tokens: float) -> None:
        """Takes tokens from the client's bucket.

        Raises:
            TooManyRequests: it has not as many.
        """
        wait = self.buckets.take(self.client(request), tokens)
        if wait:
            seconds = math.ceil(wait)
            raise TooManyRequests(
                f"this client asks for too much at once (RESOLVER_CLIENT_RATE): come again in "
                f"{seconds} s; images that are known are redirected meanwhile",
                headers={"Retry-After": str(seconds)},
            )

    def client(self, request: web.BaseRequest) -> bytes:
        """Who asks: the peer's address, of IPv6 its /64, which is one customer's. Behind proxies
        that are trusted, the last address in ``X-Forwarded-For`` that is not one of theirs."""
        address = parse_address(request.remote or "")
        fields = request.headers.getall("X-Forwarded-For", ()) if self._proxies else ()
        named = [name for field in fields for name in field.split(",")]
        while named and address is not None and self._trusts(address):
            before = parse_address(_host(named.pop()))
            if before is None:
                break
            address = before
        if address is None:
            return b""
        return address.packed[:8]  # all of an IPv4 address

    def _trusts(self, address: Address) -> bool:
        return any(
            address.version == proxies.version and address in proxies for proxies in self._proxies
        )


def _host(text: str) -> str:
    """An address without a port that stands behind it, as some proxies write."""
    text = text.strip()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


class ChargeOnce:
    """A charge for one request, however often it comes to it."""

    def __init__(self, limits: Limits, request: web.BaseRequest) -> None:
        self._limits = limits
        self._request = request
        self._paid = False

    def __call__(self) -> None:
        """Raises TooManyRequests."""
        if not self._paid:
            self._limits.charge(self._request, 1)
            self._paid = True


LIMITS = web.AppKey("limits", Limits)
