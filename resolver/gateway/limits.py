"""Rate limits: how much expensive work one client may cause."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

from aiohttp import web

from resolver.errors import TooManyRequests
from resolver.gateway.clients import Clients
from resolver.gateway.negotiation import HeaderFields

BURST_SECONDS = 10.0
"""A client may have this many seconds' worth of tokens at once."""

MAX_CLIENTS = 65_536
"""Clients that are remembered, and as many /56 and /48 in IPv6. One more, and the one seen longest
ago is forgotten."""

IPV6_SHARES = ((8, 1), (7, 4), (6, 16))
"""Bytes of a prefix in IPv6, and how many clients' tokens all addresses with it share. A customer
has a /56 or a /48 (RIPE-690), and so many /64 to come from."""

NEWCOMERS_SHARE = 100
"""While the table is full, all clients that are not in it share the tokens of this many."""

REFUSED_LOGIN_TOKENS = 10
"""What a refused login costs, of as many tokens as a client has for expensive requests: at the
default rate a client can guess a hundred times a second."""

MAX_QUESTIONS_SHARE = 0.5
"""The most of a full bucket that the questions about one image cost. So a client can always ask,
however many locations there are."""

IDS_PER_TOKEN = 500
"""Ids of a bulk request that cost as much as one question to a location. At the default rate that
is more than a worker can answer."""


class TokenBuckets:
    """A token bucket for each client; clients that are not in the table have a full one.

    All that is stored of a client is when its bucket will be full again (the generic cell rate
    algorithm, ITU-T I.371).
    """

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        """``rate``: tokens per second; 0 for no limit. ``max_clients``: see `MAX_CLIENTS`."""
        self._rate = rate
        self._max_clients = max_clients
        self._clock = clock
        self._tables: dict[int, dict[bytes, float]] = {}
        """By the length of their keys: many new /64 push out neither a /48 nor an IPv4 address."""
        self._newcomers_full_at = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    @property
    def size(self) -> float:
        """Tokens in a full bucket."""
        return self._rate * BURST_SECONDS

    def wait(self, client: bytes, tokens: float) -> float:
        """Seconds until the client could take as many tokens; 0 if it could now."""
        if not self._rate:
            return 0.0
        now = self._clock()
        wait = max(
            max(self._table(key).get(key, now), now) + cost - now - BURST_SECONDS
            for key, cost in self._charges(client, tokens)
        )
        if self._is_newcomer(client):
            cost = self._cost(tokens, NEWCOMERS_SHARE)
            wait = max(wait, max(self._newcomers_full_at, now) + cost - now - BURST_SECONDS)
        return wait if wait > 1e-6 else 0.0

    def _cost(self, tokens: float, share: int = 1) -> float:
        """Seconds that it takes to refill as much."""
        return min(tokens / self._rate, BURST_SECONDS) / share

    def _charges(self, client: bytes, tokens: float) -> list[tuple[bytes, float]]:
        """The buckets that a client takes from, and how much."""
        if len(client) != IPV6_SHARES[0][0]:
            return [(client, self._cost(tokens))]
        return [(client[:size], self._cost(tokens, share)) for size, share in IPV6_SHARES]

    def _is_newcomer(self, client: bytes) -> bool:
        table = self._table(client)
        return len(table) >= self._max_clients and client not in table

    def _table(self, key: bytes) -> dict[bytes, float]:
        """When the buckets of clients, or networks, with keys of this length are full again."""
        return self._tables.setdefault(len(key), {})

    def take(self, client: bytes, tokens: float) -> float:
        """Takes tokens and returns 0; or takes none and returns the seconds until it could.

        A request for more than a whole bucket takes a whole bucket.
        """
        if not self._rate:
            return 0.0
        if wait := self.wait(client, tokens):
            return wait
        now = self._clock()
        if self._is_newcomer(client):
            cost = self._cost(tokens, NEWCOMERS_SHARE)
            self._newcomers_full_at = max(self._newcomers_full_at, now) + cost
        for key, cost in self._charges(client, tokens):
            table = self._table(key)
            full_at = max(table.pop(key, now), now) + cost
            table[key] = full_at  # at the end: the first is the one seen longest ago
            if len(table) > self._max_clients:
                del table[next(iter(table))]
        return 0.0


class Limits:
    """What clients may cause in this process."""

    def __init__(self, rate: float, clients: Clients) -> None:
        self.buckets = TokenBuckets(rate)
        self.clients = clients
        self._logins = TokenBuckets(rate)
        """Apart, so that reads cannot keep an admin out."""

    def charge_client(self, client: bytes, tokens: float) -> None:
        """Takes tokens from a client's bucket.

        Raises:
            TooManyRequests: the client does not have as many.
        """
        self._refuse(self.buckets.take(client, tokens))

    @property
    def most_for_questions(self) -> float:
        """The most that the questions about one image cost; 0 without a limit."""
        size = self.buckets.size
        return size and max(1.0, size * MAX_QUESTIONS_SHARE)

    def charge_questions(self, request: web.BaseRequest, questions: int) -> None:
        """Charges the client of a request for questions about one of many images.

        Raises:
            TooManyRequests: the client does not have as many tokens.
        """
        self.charge(request, min(questions, self.most_for_questions))

    def _refuse(self, wait: float) -> None:
        """Raises TooManyRequests where there is something to wait for, in seconds."""
        if wait:
            seconds = math.ceil(wait)
            raise TooManyRequests(
                f"this client asks for too much at once (RESOLVER_CLIENT_RATE): retry in "
                f"{seconds} s; known images are redirected meanwhile",
                headers={"Retry-After": str(seconds)},
            )

    def check(self, request: web.BaseRequest, expected: float = 0.0) -> None:
        """Raises TooManyRequests where the client of a request has no token left. ``expected``: the
        tokens that the whole request will take, for the time to wait."""
        client = self.client(request)
        if self.buckets.wait(client, 1):
            self._refuse(self.buckets.wait(client, max(1.0, expected)))

    def charge_rest(self, request: web.BaseRequest, tokens: float, charged: float) -> None:
        """Charges what is missing to ``tokens``, where some were ``charged`` before."""
        full = self.buckets.size
        rest = max(0.0, min(tokens, full) - min(charged, full))
        self.charge(request, rest, expected=tokens)  # what was charged is spent

    def check_logins(self, client: bytes) -> None:
        """Raises TooManyRequests for a client that has had so many logins refused that the next one
        must wait."""
        if wait := self._logins.wait(client, REFUSED_LOGIN_TOKENS):
            seconds = math.ceil(wait)
            raise TooManyRequests(
                f"too many logins of this client were refused: retry in {seconds} s",
                headers={"Retry-After": str(seconds)},
            )

    def count_refused_login(self, client: bytes) -> None:
        """Counts a refused login of a client."""
        self._logins.take(client, REFUSED_LOGIN_TOKENS)

    def charge(self, request: web.BaseRequest, tokens: float, expected: float = 0.0) -> None:
        """Takes tokens from the bucket of a request's client. ``expected`` as for `check`.

        Raises:
            TooManyRequests: the client does not have as many.
        """
        client = self.client(request)
        if self.buckets.take(client, tokens):
            self._refuse(self.buckets.wait(client, max(tokens, expected)))

    def client(self, request: web.BaseRequest) -> bytes:
        """The key of the client that sent a request."""
        return self.client_key(request.remote or "", request.headers)

    def client_address(self, request: web.BaseRequest) -> str | None:
        """The address of the client that sent a request, for log lines."""
        return self.clients.address_text(request.remote or "", request.headers)

    def client_key(self, peer: str, headers: HeaderFields) -> bytes:
        """Identifies a client: its address, in IPv6 its /64. See `IPV6_SHARES`."""
        address = self.clients.address(peer, headers)
        return b"" if address is None else address.packed[:8]  # all of an IPv4 address


class RequestCharge:
    """Charges a client for all that one request of it asks of locations and Keystones."""

    def __init__(self, limits: Limits, client: Callable[[], bytes]) -> None:
        """``client`` gives the key of the client, if there is something to charge."""
        self._limits = limits
        self._client = client
        self._charged = 0.0

    @classmethod
    def for_request(cls, limits: Limits, request: web.BaseRequest) -> RequestCharge:
        return cls(limits, partial(limits.client, request))

    def __call__(self, questions: int) -> None:
        """Raises TooManyRequests, and then charges nothing."""
        total = min(self._charged + questions, self._limits.most_for_questions)
        if total > self._charged:
            self._limits.charge_client(self._client(), total - self._charged)
            self._charged = total


LIMITS = web.AppKey("limits", Limits)
