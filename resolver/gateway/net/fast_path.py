"""The door: the usual request is answered before aiohttp makes an object or a task of it.

The usual request is ``GET`` or ``HEAD`` of ``/v1/images/<id>`` or ``/v2/images/<id>``, perhaps with
``/file``, the id in its usual form, no wish in its headers and no body, on a connection that stays
open. aiohttp's parser reads it and nothing more of aiohttp runs: the redirect is the text that the
ordinary handler makes, made once for all images with the same owners, with the id filled in.

Whatever is not usual, or has another answer than a redirect, goes the ordinary way, through
`resolver.gateway.api.images`. tests/gateway/test_fast_path.py holds the two against each other.
"""

from __future__ import annotations

import asyncio
import re
import time
from functools import partial
from typing import Any, NamedTuple, Protocol

import structlog
from aiohttp import EMPTY_PAYLOAD, HttpVersion11, StreamReader, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE, RawRequestMessage
from multidict import istr

from resolver.errors import ResolverError
from resolver.gateway.api.images import Asked, redirect
from resolver.gateway.metrics.process_metrics import Metrics
from resolver.gateway.middleware import HEADER, log_request, new_request_id, request_id
from resolver.gateway.net.in_flight import InFlight
from resolver.glance import HOP
from resolver.models import Outcome, Owner
from resolver.registry import Table
from resolver.resolution import AnswerContext, LookupResult, Preferences, Resolver

PATH = r"/(v[12])/images/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})((?:/file)?)"
USUAL = re.compile(PATH, re.ASCII)
LINE = re.compile(rf"(GET|HEAD) {PATH} HTTP/1\.1\r\n", re.ASCII)
"""The request line of a usual request."""

SPECIAL = tuple(
    istr(name)
    for name in ("X-Resolver-Region", "X-Resolver-Exclude", "X-Resolver-Fresh", HOP, "Expect")
)
"""Headers that make a request unusual."""

ROUTE = "/{api}/images/{id}{rest}"
FOUND = (str(Outcome.FOUND),)

MOST_FIELDS = 4096
"""Bytes of header fields that a connection remembers."""

HANDOVER = 0.05
"""Seconds after which what the door could not answer has begun to be answered the ordinary way."""

MOST_FORMS = 10_000
"""Redirects kept as text. There are as many as sets of owners that images have."""

log = structlog.get_logger()

Told = tuple[bytes, LookupResult | BaseException]
"""An id, and its owners or why the index could not tell."""


class Reply(Protocol):
    """Takes the answer, or None where it must be made the ordinary way; and what the index told,
    so that it is not asked twice."""

    def __call__(self, answer: str | None, told: Told | None = None, /) -> None: ...


class FastRequest(NamedTuple):
    """What a usual request asks."""

    method: str
    api: str
    """``v1`` or ``v2``."""
    text: str
    """The id."""
    rest: str
    """``/file`` or nothing."""
    image_id: bytes
    rid: str
    """The request's id."""
    peer: Any
    begun: float


class TemplateCache:
    """Redirects by one location table as text, cut where the image's id stands."""

    def __init__(self, table: Table, home: str) -> None:
        self.table = table
        self._context = AnswerContext(table, Preferences(), home)
        self._made: dict[tuple[str, str, str, object], tuple[str, ...] | None] = {}

    def fill(self, usual: FastRequest, owners: tuple[Owner, ...]) -> str:
        """The head of the redirect, but for what the moment adds; empty where there is none."""
        order = self._context.order(usual.image_id, owners)
        key = usual.method, usual.api, usual.rest, order
        try:
            form = self._made[key]
        except KeyError:
            form = self._make(usual, owners)
            kept = order is not None and len(self._made) < MOST_FORMS
            if kept and not self._context.id_occurs_in_owners(usual.text, owners):
                self._made[key] = form
        return usual.text.join(form) if form else ""

    def _make(self, usual: FastRequest, owners: tuple[Owner, ...]) -> tuple[str, ...] | None:
        answer = self._context.answer(usual.image_id, owners)
        if answer.outcome is not Outcome.FOUND:
            return None
        asked = Asked(usual.api, usual.image_id, 0, usual.rest, "")
        try:
            response = redirect(answer, asked, head=usual.method == "HEAD")
        except ResolverError:
            return None
        lines = [f"HTTP/1.1 {response.status} {response.reason}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        if usual.method != "HEAD":
            lines.append("Content-Length: 0")
        return tuple("\r\n".join([*lines, ""]).split(usual.text))


class FastPath:
    """Answers usual requests; counts and logs them as the middleware does."""

    def __init__(
        self, resolver: Resolver, metrics: Metrics, in_flight: InFlight, *, home: str, log: bool
    ) -> None:
        self._resolver = resolver
        self._metrics = metrics
        self._in_flight = in_flight
        self._home = home
        self._log = log
        self._forms: TemplateCache | None = None
        self._date = ""
        self._stamp = ""

    def admits(
        self, message: RawRequestMessage, payload: StreamReader, peer: Any
    ) -> FastRequest | None:
        """What a usual request asks; None for any other."""
        if (
            message.method not in ("GET", "HEAD")
            or message.should_close
            or message.upgrade
            or message.version != HttpVersion11
            or payload is not EMPTY_PAYLOAD
            or self._in_flight.stopping
        ):
            return None
        headers = message.headers
        for name in SPECIAL:
            if name in headers:
                return None
        match = USUAL.fullmatch(message.path)
        if match is None:
            return None
        api, text, rest = match.groups()
        image_id = bytes.fromhex(text.replace("-", ""))
        rid = request_id(headers)
        return FastRequest(
            message.method, api, text, rest, image_id, rid, peer, time.perf_counter()
        )

    @staticmethod
    def fields_of(message: RawRequestMessage, data: bytes) -> str:
        """The header fields of a usual request, where ``data`` is that request and no more; else,
        and where they are many or an id of its own is among them, nothing."""
        text = data.decode("latin-1")
        line = LINE.match(text)
        if line is None or text.find("\r\n\r\n") != len(text) - 4 or HEADER in message.headers:
            return ""
        fields = text[line.end() :]
        return fields if len(fields) <= MOST_FIELDS else ""

    def repeated(self, data: bytes, fields: str, peer: Any) -> FastRequest | None:
        """What a request asks whose header fields are, byte for byte, those of a usual one that
        aiohttp's parser has read: they mean the same. None for any other."""
        text = data.decode("latin-1")
        line = LINE.match(text)
        if line is None or text[line.end() :] != fields or self._in_flight.stopping:
            return None
        method, api, image, rest = line.groups()
        image_id = bytes.fromhex(image.replace("-", ""))
        return FastRequest(
            method, api, image, rest, image_id, new_request_id(), peer, time.perf_counter()
        )

    def ask(self, usual: FastRequest, reply: Reply) -> None:
        """Has ``reply`` called with the answer, at once or when the index has told."""
        known = self._resolver.known(usual.image_id)
        if known is not None:
            reply(self._answer(usual, known.table, known.owners))
        else:
            self._in_flight.begin()
            self._resolver.ask(usual.image_id, partial(self._told, usual, reply))

    def _told(self, usual: FastRequest, reply: Reply, found: LookupResult | BaseException) -> None:
        answer = None
        if not (isinstance(found, BaseException) or self._in_flight.stopping):
            answer = self._answer(usual, found.table, found.owners)
        if answer is not None:
            self._in_flight.end()
            reply(answer)
        else:
            # Not before the ordinary way counts it: a server that stops would take it for answered.
            asyncio.get_running_loop().call_later(HANDOVER, self._in_flight.end)
            reply(None, (usual.image_id, found))

    def _answer(self, usual: FastRequest, table: Table, owners: tuple[Owner, ...]) -> str | None:
        if self._forms is None or self._forms.table is not table:
            self._forms = TemplateCache(table, self._home)
        try:
            head = self._forms.fill(usual, owners)
        except Exception:  # a fault of ours must not cost the client its answer
            log.exception("the door failed", id=usual.text)
            return None
        if not head:
            return None
        seconds = time.perf_counter() - usual.begun
        metrics = self._metrics
        metrics.requests.counts[ROUTE, usual.method, "307"] += 1
        metrics.seconds.note(ROUTE, seconds)
        metrics.answers.counts[FOUND] += 1
        if self._log:
            path = f"/{usual.api}/images/{usual.text}{usual.rest}"
            client = str(usual.peer[0]) if isinstance(usual.peer, tuple) else None
            log_request(usual.rid, usual.method, path, 307, seconds, client, outcome=FOUND[0])
        return f"{head}{self._moment()}{usual.rid}\r\n\r\n"

    def _moment(self) -> str:
        """The rest of an answer's head, up to the request's id."""
        date = rfc822_formatted_time()
        if date is not self._date:
            self._date = date
            self._stamp = f"Date: {date}\r\nServer: {SERVER_SOFTWARE}\r\n{HEADER}: "
        return self._stamp


FAST_PATH = web.AppKey("door", FastPath)
