"""How many connections may be open, in all and for one client, and which are closed first."""

from __future__ import annotations

import heapq
import ipaddress
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

from resolver.gateway.metrics.counters import LightCounter
from resolver.glance.host_policy import parse_address

EVICT_AFTER_SECONDS = 1.0
"""How long a connection must be idle before it may be closed to make room."""

MAX_EVICTED_AT_ONCE = 32

MAX_LATE_AT_ONCE = 32
"""Late clients that are answered 408 before others have their turn: some 3 ms."""

MAX_CHECKED_AT_ONCE = 512
"""Connections that are checked before others have their turn: a tenth of a millisecond."""

CLIENT_SHARE = 0.5
"""The part of all connections that the clients of one network may have."""

MAX_KNOWN_CLIENTS = 4096

IPV6_PREFIX_BYTES = (8, 7, 6)
"""An IPv6 client is counted under its /64, /56 and /48: providers assign customers any of these."""


class LimitedConnection(Protocol):
    """A connection as the limiter sees it."""

    client_keys: tuple[bytes, ...]
    """See `ConnectionLimiter.client_keys`."""
    idle_since: float
    """`time.monotonic` since when no request is being answered."""

    @property
    def served(self) -> bool:
        """Whether it has had a request: others are closed first."""

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""

    def check_deadline(self, now: float) -> bool:
        """Closes the connection if its client takes too long. Whether it does."""

    def abort(self) -> None:
        """Closes the connection at once."""


class ConnectionLimiter:
    """The open connections of one worker."""

    def __init__(
        self,
        max_connections: int,
        proxies: Iterable[str] = (),
        client_share: float = CLIENT_SHARE,
    ) -> None:
        """Args:
        proxies: networks of trusted proxies, which have as many connections as there may be. So
            have clients on this host: they may be a proxy too.
        client_share: see `CLIENT_SHARE`.
        """
        self.max_connections = max_connections
        self._proxies = [ipaddress.ip_network(network) for network in proxies]
        self._max_per_client = max(1, int(max_connections * client_share))
        self.connections: set[LimitedConnection] = set()
        self._by_client: Counter[bytes] = Counter()
        self._keys: dict[str, tuple[bytes, ...]] = {}
        """`client_keys` by address."""
        self.closed = LightCounter(
            "glance_resolver_connections_cut", "Connections closed on their clients", ["reason"]
        )

    @property
    def open_count(self) -> int:
        return len(self.connections)

    def count_closed(self, reason: str) -> None:
        """A connection is closed although its client did not ask for that."""
        self.closed.counts[reason,] += 1

    def client_keys(self, peer: str) -> tuple[bytes, ...]:
        """What the connections of a client count under; nothing for a client without a limit."""
        keys = self._keys.get(peer)
        if keys is None:
            if len(self._keys) >= MAX_KNOWN_CLIENTS:
                self._keys.clear()
            keys = self._keys[peer] = self._make_client_keys(peer)
        return keys

    def _make_client_keys(self, peer: str) -> tuple[bytes, ...]:
        address = parse_address(peer)
        if address is None or address.is_loopback:
            return ()
        if any(n.version == address.version and address in n for n in self._proxies):
            return ()
        if address.version == 4:
            return (address.packed,)
        return tuple(address.packed[:size] for size in IPV6_PREFIX_BYTES)

    def allows(self, keys: Iterable[bytes]) -> bool:
        """Whether a client may have one more connection."""
        return all(self._by_client[key] < self._max_per_client for key in keys)

    def hold(self, keys: Iterable[bytes]) -> None:
        """Counts a connection of a client."""
        for key in keys:
            self._by_client[key] += 1

    def release(self, keys: Iterable[bytes]) -> None:
        """The opposite of `hold`."""
        for key in keys:
            self._by_client[key] -= 1
            if not self._by_client[key]:
                del self._by_client[key]

    def add(self, connection: LimitedConnection) -> None:
        self.connections.add(connection)
        self.hold(connection.client_keys)

    def remove(self, connection: LimitedConnection) -> None:
        if connection in self.connections:
            self.connections.discard(connection)
            self.release(connection.client_keys)

    def evict_idle(self) -> bool:
        """Closes some idle connections: first those of the clients that have most, of these first
        connections that never had a request, then those idle for longest. False where no
        connection is idle."""
        before = time.monotonic() - EVICT_AFTER_SECONDS
        idle = [c for c in self.connections if c.is_idle and c.idle_since < before]
        count = max(1, min(MAX_EVICTED_AT_ONCE, len(idle) // 8))
        for connection in heapq.nsmallest(count, idle, key=self._eviction_key):
            self.count_closed("room")
            connection.abort()
            self.remove(connection)  # or another is closed before this one is known to be gone
        return bool(idle)

    def _eviction_key(self, connection: LimitedConnection) -> tuple[int, bool, float]:
        held = max((self._by_client[key] for key in connection.client_keys), default=0)
        # Clients with about as many connections are equals, so that the idle time decides.
        return -held.bit_length(), connection.served, connection.idle_since

    def check_deadlines(self, now: float) -> Iterator[None]:
        """Closes the connections whose clients take too long. Yields after each `MAX_LATE_AT_ONCE`
        of these and after each `MAX_CHECKED_AT_ONCE`, for others to have their turn. Called several
        times a second: one pass over all connections costs less than a timer for each."""
        late = 0
        for number, connection in enumerate(list(self.connections), 1):
            is_late = False
            if connection in self.connections:  # it may have closed since the pass began
                is_late = connection.check_deadline(now)
            late += is_late
            if (is_late and late % MAX_LATE_AT_ONCE == 0) or number % MAX_CHECKED_AT_ONCE == 0:
                yield
