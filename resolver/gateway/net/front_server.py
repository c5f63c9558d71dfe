"""What all connections of a port share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from resolver.gateway.access_log import AccessLog
from resolver.gateway.error_form import ErrorForm
from resolver.gateway.metrics.process_metrics import Metrics
from resolver.gateway.net.bridge import Bridge
from resolver.gateway.net.connection_limiter import ConnectionLimiter
from resolver.gateway.net.front import Front
from resolver.gateway.net.in_flight import InFlight
from resolver.gateway.net.known_reads import PlainRead, RememberedKind
from resolver.gateway.net.request_pacer import RequestPacer
from resolver.gateway.net.write_coalescer import WriteCoalescer
from resolver.gateway.problem import malformed
from resolver.gateway.reply import head_text
from resolver.gateway.request_ids import REQUEST_ID_HEADER, new_request_id
from resolver.latency import observe_seconds

MAX_KEPT_BRIDGES = 128
"""Bridges that are kept for a further request of their connections. Each has some 10 kB."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FrontServer:
    """What all connections of a process share."""

    front: Front | None
    """None for an indexer, where aiohttp answers everything."""
    make_protocol: Callable[[], asyncio.Protocol]
    """Makes aiohttp's protocol for one request."""
    limiter: ConnectionLimiter
    in_flight: InFlight
    metrics: Metrics
    access_log: AccessLog
    coalescer: WriteCoalescer
    client_timeout: float
    """Seconds that a client has for a request's head, for each part of its body, and to take what
    it is sent."""
    keepalive_timeout: float
    """Seconds that an idle connection stays open."""
    pacer: RequestPacer = field(default_factory=RequestPacer)
    """How many requests are parsed in a turn of the event loop."""
    kept_bridges: set[Bridge] = field(default_factory=set)
    """Those between two requests."""

    def recognize(
        self, data: bytes, remembered: RememberedKind | None, peer: str, scheme: str
    ) -> PlainRead | None:
        """The request that ``data`` is, if the front answers it and it needs no parsing. See
        `KnownReads.recognize`."""
        if self.front is None:
            return None
        return self.front.known_reads.recognize(data, remembered, peer, scheme)

    def keeps(self, bridge: Bridge) -> bool:
        """Whether a bridge whose response is sent is kept. If not, it must be closed."""
        is_kept = bridge.may_be_kept and len(self.kept_bridges) < MAX_KEPT_BRIDGES
        if is_kept:
            self.kept_bridges.add(bridge)
        return is_kept

    def refusal(
        self,
        status: int,
        reason: str,
        closing: str,
        peer: str,
        form: ErrorForm | None,
        *,
        counted_by_app: bool = False,
    ) -> bytes:
        """The response to what cannot be read. It is counted and logged, unless the application
        does that."""
        reply = malformed(status, reason, form)
        request_id = new_request_id()
        if not counted_by_app:
            observe_seconds(self.metrics.requests.row("none", "none", status), 0.0)
        if self.access_log.is_on and not counted_by_app:
            log.info(
                "malformed request",
                request_id=request_id,
                status=status,
                reason=reason,
                client=peer or None,
            )
        head = (
            f"{head_text(reply)}Content-Length: {len(reply.body)}\r\n"
            f"{closing}{REQUEST_ID_HEADER}: {request_id}\r\n\r\n"
        )
        return head.encode() + reply.body
