"""Requests that the front answers: parsed heads, and plain requests that need no parsing.

Clients send the same header fields again and again. A block of fields that has been parsed once,
and asks for nothing special, means the same whenever it comes again byte for byte. So a plain
request is recognised by one regular expression over its request line and one dictionary lookup.
"""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from resolver.errors import ResolverError
from resolver.gateway.api.image_reads import JSON, URI_LIST, ImageRead
from resolver.gateway.image_path import ImagePath
from resolver.gateway.negotiation import EXCLUDE, FRESH, REGION, accepted_type
from resolver.gateway.net.in_flight import InFlight
from resolver.gateway.net.request_head import Fields, RequestHead
from resolver.gateway.request_ids import REQUEST_ID_HEADER, new_request_id, request_id_from
from resolver.glance import HOP
from resolver.resolution.ranking import DEFAULT_PREFERENCES

_UUID = rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PLAIN_LINE = re.compile(
    rb"(GET|HEAD) /(?:(v[12])/images/(%b)((?:/file)?)|resolve/(%b)) HTTP/1\.1\r\n" % (_UUID, _UUID)
)
_REQUEST_ID_FIELD = re.compile(
    rb"^X-Openstack-Request-Id: (req-%b)\r\n" % _UUID, re.MULTILINE | re.IGNORECASE
)

MAX_PLAIN_BYTES = 2048
"""Header fields that are longer are parsed each time."""

MAX_PLAIN_BLOCKS = 1024

SPECIAL_FIELDS = (REGION, EXCLUDE, FRESH, HOP, "Upgrade")
"""Header fields that change the answer to a plain read."""

CREDENTIAL_FIELDS = ("x-auth-token", "authorization", "cookie", "x-service-token")


class FrontRequest(NamedTuple):
    """A read that the front answers."""

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
    """`time.perf_counter` when it was read."""


class PlainFields(NamedTuple):
    """Header fields that ask for nothing special, parsed once for all requests that have them."""

    fields: Fields
    keeps_connection: bool
    media_type: str
    """Of data that the client accepts."""


Remembered = tuple[bytes, PlainFields]
"""A block of header fields as it was sent, and what it means."""


class FrontRequests:
    """Makes the front's requests out of what was received."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self._plain_fields: dict[bytes, PlainFields] = {}
        """Blocks of header fields without credentials, oldest first."""

    def from_head(self, head: RequestHead, peer: str, scheme: str) -> FrontRequest:
        """A parsed head as a request to the front."""
        return FrontRequest(
            head.method,
            head.target,
            head.minor,
            head.fields,
            request_id_from(head.fields.get(REQUEST_ID_HEADER)),
            peer,
            scheme,
            head.keeps_connection and not self._in_flight.stopping,
            time.perf_counter(),
        )

    @property
    def remembered_blocks(self) -> list[bytes]:
        """Blocks of header fields that need no parsing, on any connection."""
        return list(self._plain_fields)

    def match_plain(
        self, data: bytes, remembered: Remembered | None, peer: str, scheme: str
    ) -> tuple[FrontRequest, ImageRead] | None:
        """The request that ``data`` is, where it is one plain read and no more, with header fields
        that have been parsed before, byte for byte. None for everything else.

        ``remembered``: the last header fields of this connection, if they were plain.
        """
        line = _PLAIN_LINE.match(data)
        if line is None:
            return None
        block = data[line.end() :]
        request_id = ""
        plain = self._plain_fields.get(block)  # never one with a request id
        if plain is None:
            if (sent := _REQUEST_ID_FIELD.search(block)) is not None:
                request_id = sent[1].decode()
                block = block[: sent.start()] + block[sent.end() :]
                plain = self._plain_fields.get(block)
            if plain is None:
                if remembered is None or remembered[0] != block:
                    return None
                plain = remembered[1]
        started = time.perf_counter()
        method, api, image, rest, resolve = line.groups()
        text = (image or resolve).decode()
        image_id = bytes.fromhex(text.replace("-", ""))
        head = method == b"HEAD"
        if image is None:
            target = f"/resolve/{text}"
            media_type = plain.media_type
            read = ImageRead(image_id, 0, DEFAULT_PREFERENCES, head, None, media_type, text)
        else:
            version, below = api.decode(), rest.decode()
            target = f"/{version}/images/{text}{below}"
            path = ImagePath(version, image_id, 0, below, "")
            read = ImageRead(image_id, 0, DEFAULT_PREFERENCES, head, path, JSON, text)
        request = FrontRequest(
            "HEAD" if head else "GET",
            target,
            1,
            plain.fields,
            request_id or new_request_id(),
            peer,
            scheme,
            plain.keeps_connection and not self._in_flight.stopping,
            started,
        )
        return request, read

    def remember_fields(self, data: bytes, head: RequestHead) -> Remembered | None:
        """Remembers the header fields of a request that ``data`` is, where they are plain. Returns
        them for the connection to remember; those with credentials are remembered there only."""
        line = _PLAIN_LINE.match(data)
        if line is None or head.size != len(data) or not head.minor:
            return None
        block, fields = data[line.end() :], head.fields
        if len(block) > MAX_PLAIN_BYTES or any(name in fields for name in SPECIAL_FIELDS):
            return None
        if (sent := _REQUEST_ID_FIELD.search(block)) is not None:
            block = block[: sent.start()] + block[sent.end() :]
        elif REQUEST_ID_HEADER in fields:
            return None
        try:
            media_type = accepted_type(fields, JSON, URI_LIST)
        except ResolverError:
            return None
        plain = PlainFields(fields, head.keeps_connection, media_type)
        if not any(name in fields for name in CREDENTIAL_FIELDS):
            if len(self._plain_fields) >= MAX_PLAIN_BLOCKS:
                del self._plain_fields[next(iter(self._plain_fields))]
            self._plain_fields[block] = plain
        return block, plain
