"""Reads that need no parsing, because they have been parsed before but for the id of the image.

Clients send the same request for image after image: the same line but for the id, the same header
fields byte for byte. What such a request says is kept as a `ReadKind`, under the bytes of the
request without the id. So a request is recognized by one regular expression, which finds the id,
and one dictionary lookup.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import NamedTuple

from resolver.callers import Caller
from resolver.errors import ResolverError
from resolver.gateway.api.image_reads import ImageRead, ReadRequest, parse_image_read
from resolver.gateway.error_form import error_form
from resolver.gateway.negotiation import EXCLUDE, FRESH, REGION
from resolver.gateway.net.request_head import Fields, RequestHead
from resolver.gateway.request_ids import REQUEST_ID_HEADER, new_request_id, request_id_from
from resolver.glance import HOP
from resolver.latency import LatencyRow
from resolver.resolution import VariantTemplates
from resolver.trace_context import NO_TRACE, TRACEPARENT, TRACESTATE, TraceContext, parse_trace

# A repeated group would take half as long again.
_UUID = b"-".join(rb"[0-9a-f]{%d}" % digits for digits in (8, 4, 4, 4, 12))
_LINE = re.compile(
    rb"(?:GET|HEAD) (?:/v[12]/images|/resolve|/region/[!-.0-~]+/v[12]/images)/(%b)(?:/file)? "
    rb"HTTP/1\.[01]\r\n" % _UUID
)
_TRACE_FIELD = re.compile(
    rb"^(traceparent|tracestate):([^\r\n]*)\r\n", re.MULTILINE | re.IGNORECASE
)
_TRACE_START = b"\r\ntrace"
_REQUEST_ID_START = b"\r\nx-openstack-request-id: "
_REQUEST_ID = re.compile(rb"(req-%b)\r\n" % _UUID.replace(b"a-f", b"a-fA-F"))

MAX_BYTES = 2048
"""Longer requests, without the fields that each has of its own, are parsed each time."""

MAX_REQUEST_BYTES = 4096
"""The same with these fields. What is longer may also be many requests."""

MAX_KINDS = 1024

SPECIAL_FIELDS = (REGION, EXCLUDE, FRESH, HOP, "Upgrade")
"""Header fields that change the answer to a plain read."""

CREDENTIAL_FIELDS = ("x-auth-token", "authorization", "cookie", "x-service-token")


Origin = tuple[str, bool]
"""What of a client changes the order of owners: the region near it, and whether it uses https."""


class FrontRequest(NamedTuple):
    """A request that the front answers."""

    method: str
    target: str
    minor: int
    """1 for HTTP/1.1, 0 for HTTP/1.0."""
    fields: Fields
    request_id: str
    peer: str
    """The client's address."""
    scheme: str
    keeps_connection: bool
    started: float
    """`time.monotonic` when it was read."""
    trace: TraceContext = NO_TRACE

    @classmethod
    def from_head(cls, head: RequestHead, peer: str, scheme: str) -> FrontRequest:
        """A parsed head as a request to the front."""
        return cls(
            head.method,
            head.target,
            head.minor,
            head.fields,
            request_id_from(head.fields.get(REQUEST_ID_HEADER)),
            peer,
            scheme,
            head.keeps_connection,
            time.monotonic(),
            trace_of(head.fields),
        )


def trace_of(fields: Fields) -> TraceContext:
    """The trace that a request belongs to."""
    traceparents = fields.getall(TRACEPARENT)
    return parse_trace(traceparents, fields.getall(TRACESTATE)) if traceparents else NO_TRACE


class ReadKind:
    """What a read says but for the id of its image, and what the front keeps for such reads."""

    __slots__ = (
        *("after", "before", "error_form", "fields", "found_rows", "framing", "is_head"),
        *("caller", "keeps_connection", "method", "minor", "read", "route", "templates"),
        *("variant", "vary"),
    )

    def __init__(self, request: FrontRequest, read: ImageRead, text: str) -> None:
        """Args:
        request: one such request.
        read: what that request asks; a read with a template variant.
        text: the id of its image, dashed and in lower case, as it stands in the target.
        """
        self.method = request.method
        self.before, self.after = request.target.split(text)
        self.minor = request.minor
        self.fields = request.fields
        self.keeps_connection = request.keeps_connection
        self.framing = request.minor, request.keeps_connection
        self.is_head = read.is_head
        self.read = read
        self.route = read.route
        self.vary = read.vary
        self.variant = read.template_variant
        self.error_form = error_form(request.target, request.fields)
        self.caller: Caller | None = None
        """Who sends it, where clients must say that and Keystone was asked."""
        self.templates: dict[Origin, VariantTemplates] = {}
        """The templates of this variant by the clients' origin, from when they were used last."""
        self.found_rows: dict[str, LatencyRow] = {}
        """Where metrics count such requests that were answered with an owner, by the answer's
        source."""

    def read_of(self, image_id: bytes) -> ImageRead:
        """What the request for an image asks."""
        path = self.read.path
        path = path and path._replace(image_id=image_id)
        return self.read._replace(image_id=image_id, path=path)


@dataclass(slots=True)
class PlainRead:
    """A read of a known kind. (A tuple would take twice as long to make.)"""

    kind: ReadKind
    text: str
    """The image's id, dashed and in lower case."""
    image_id: bytes
    request_id: str
    peer: str
    scheme: str
    started: float
    trace: TraceContext = NO_TRACE

    @property
    def method(self) -> str:
        return self.kind.method

    @property
    def fields(self) -> Fields:
        return self.kind.fields

    @property
    def target(self) -> str:
        return f"{self.kind.before}{self.text}{self.kind.after}"

    def request(self) -> FrontRequest:
        """The same as any request that the front answers."""
        kind = self.kind
        return FrontRequest(
            self.method,
            self.target,
            kind.minor,
            kind.fields,
            self.request_id,
            self.peer,
            self.scheme,
            kind.keeps_connection,
            self.started,
            self.trace,
        )


def _without_own_fields(key: bytes) -> tuple[bytes, str, TraceContext]:
    """A request without the fields that each has of its own: those, and the rest.

    Where a field may begin is found in the lower-case text: a search with an expression that
    ignores letter case would try each byte.
    """
    request_id = ""
    lower = key.lower()
    at = lower.find(_REQUEST_ID_START)
    if at >= 0 and (sent := _REQUEST_ID.match(key, at + len(_REQUEST_ID_START))) is not None:
        request_id = sent[1].decode()
        key = key[: at + 2] + key[sent.end() :]
    if _TRACE_START not in lower:
        return key, request_id, NO_TRACE
    at = key.lower().find(_TRACE_START) + 2
    before, rest = key[:at], key[at:]
    values: dict[bytes, list[str]] = {b"traceparent": [], b"tracestate": []}
    for name, value in _TRACE_FIELD.findall(rest):
        values[name.lower()].append(value.decode("latin-1"))
    if not any(values.values()):
        return key, request_id, NO_TRACE
    trace = parse_trace(values[b"traceparent"], values[b"tracestate"])
    return before + _TRACE_FIELD.sub(b"", rest), request_id, trace


RememberedKind = tuple[bytes, ReadKind]
"""A request without the ids of its image and of itself, and what it says."""


class KnownReads:
    """The kinds of reads that any connection may send."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, ReadKind] = {}
        """By the bytes of the request without ids, oldest first. None has credentials."""

    @property
    def remembered(self) -> list[bytes]:
        """The requests without ids that are recognized on any connection."""
        return list(self._kinds)

    def recognize(
        self, data: bytes, remembered: RememberedKind | None, peer: str, scheme: str
    ) -> PlainRead | None:
        """The one read that ``data`` is; None for a request that must be parsed.

        ``remembered``: the last kind of this connection, if it has credentials.
        """
        line = _LINE.match(data)
        if line is None or len(data) > MAX_REQUEST_BYTES:
            return None
        start, end = line.span(1)
        key = data[:start] + data[end:]
        kind = self._kinds.get(key)
        request_id, trace = "", NO_TRACE
        if kind is None:
            key, request_id, trace = _without_own_fields(key)
            kind = self._kinds.get(key)
            if kind is None:
                if remembered is None or remembered[0] != key:
                    return None
                kind = remembered[1]
        text = data[start:end].decode()
        image_id = bytes.fromhex(text.replace("-", ""))
        request_id = request_id or new_request_id()
        return PlainRead(kind, text, image_id, request_id, peer, scheme, time.monotonic(), trace)

    def learn(
        self, data: bytes, request: FrontRequest
    ) -> tuple[PlainRead, RememberedKind | None] | None:
        """A request that has been parsed as a read of a kind, and what its connection must
        remember; None for a request that asks for anything special.

        A kind without credentials is recognized on every connection from now on.
        """
        fields = request.fields
        line = _LINE.match(data)
        if line is None or any(name in fields for name in SPECIAL_FIELDS):
            return None
        try:
            read = parse_image_read(ReadRequest(request.method, request.target, "", fields))
        except ResolverError:
            return None
        text = line[1].decode()
        if read.template_variant is None or request.target.count(text) != 1:
            return None
        kind = ReadKind(request, read, text)
        plain = PlainRead(
            kind,
            text,
            read.image_id,
            request.request_id,
            request.peer,
            request.scheme,
            request.started,
            request.trace,
        )
        key, sent_id, _ = _without_own_fields(data[: line.start(1)] + data[line.end(1) :])
        if len(fields.getall(REQUEST_ID_HEADER)) > bool(sent_id) or len(key) > MAX_BYTES:
            return plain, None  # two request ids, or one that is not well formed
        if any(name in fields for name in CREDENTIAL_FIELDS):
            return plain, (key, kind)
        if len(self._kinds) >= MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        self._kinds[key] = kind
        return plain, None
