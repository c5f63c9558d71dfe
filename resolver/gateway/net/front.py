"""The front: answers public reads from plain functions, without aiohttp.

A `FrontConnection` reads requests and gives those that the front answers to `Front.respond`. Known
images are answered in the same turn of the event loop, from a template that is rendered once for
all images with the same owners. Whatever needs Redis or the locations goes through the same
functions as the aiohttp application (`resolver.gateway.api.images`), so there is one definition
of every response.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from typing import cast

import structlog
from aiohttp.http import SERVER_SOFTWARE

from resolver.errors import ResolverError
from resolver.gateway.access_log import AccessLog
from resolver.gateway.api.image_reads import (
    JSON,
    RESOLVE_LABEL,
    URI_LIST,
    ImageRead,
    ReadRequest,
    is_image_read,
    parse_image_read,
    render_image_read,
)
from resolver.gateway.api.images import answer_image_read
from resolver.gateway.api.status import HEALTHY, live_reply
from resolver.gateway.api.version_documents import versions_reply
from resolver.gateway.image_path import ROUTE_LABEL, ImagePath
from resolver.gateway.limits import FORWARDED_FOR, ChargeOnce, Limits
from resolver.gateway.metrics.process_metrics import Metrics
from resolver.gateway.middleware import CLIENT_CLOSED_REQUEST, internal_error, loop_error
from resolver.gateway.net.front_requests import FrontRequest, FrontRequests
from resolver.gateway.net.in_flight import InFlight
from resolver.gateway.problem import GLANCECLIENT, error_of, error_reply
from resolver.gateway.reply import NO_STORE, Reply, head_text
from resolver.gateway.request_ids import REQUEST_ID_HEADER
from resolver.glance import HOP
from resolver.models import format_id
from resolver.registry import Table
from resolver.resolution import (
    Answer,
    AnswerContext,
    LookupResult,
    Preferences,
    TemplateCache,
)
from resolver.resolution.answer import json_tail, json_text
from resolver.resolution.ranking import DEFAULT_PREFERENCES
from resolver.services import Services

VERSION_PATHS = frozenset({"/", "/versions", "/v1", "/v1/", "/v2", "/v2/"})
VERSION_ROUTE_LABELS = {"/v1": "/{api}", "/v2": "/{api}", "/v1/": "/{api}/", "/v2/": "/{api}/"}
"""What metrics call the routes of version paths that are not named like their route."""

READ_METHODS = frozenset({"GET", "HEAD"})

JSON_HEAD = head_text(Reply(200, {**NO_STORE, "Vary": "Accept", "Content-Type": JSON}))
URI_LIST_HEAD = head_text(Reply(200, {**NO_STORE, "Vary": "Accept", "Content-Type": URI_LIST}))

SAMPLE_AGE = 86400.123
"""An age in seconds that no remembered answer has."""

log = structlog.get_logger()

Send = Callable[[bytes], None]
"""Sends a response on the connection that the request came on."""


class Front:
    """Answers reads. One for all connections of a process."""

    def __init__(
        self,
        services: Services,
        metrics: Metrics,
        in_flight: InFlight,
        limits: Limits,
        access_log: AccessLog,
    ) -> None:
        self._services = services
        self._resolver = services.resolver
        self._reader = services.resolver.reader
        self._metrics = metrics
        self._in_flight = in_flight
        self._limits = limits
        self._access_log = access_log
        self._templates = self._template_cache(services.tables.table)
        self._absent_templates: dict[str, AbsentTemplate] = {}
        """By the ``Vary`` field of the response."""
        self.requests = FrontRequests(in_flight)
        self._stamp_second = 0
        self._stamp = ""
        self._tasks: set[asyncio.Task[None]] = set()

    @staticmethod
    def answers(method: str, target: str) -> bool:
        """Whether the front answers such a request by itself, if it has no body."""
        if method not in READ_METHODS:
            return False
        path = target.partition("?")[0]
        return (
            is_image_read(path) or path in VERSION_PATHS or path in ("/healthcheck", "/livez")
        ) and "#" not in target

    def respond(self, request: FrontRequest, send: Send) -> Callable[[], None] | None:
        """Sends the response, now or later. Where it is later, returns what cancels it.

        Requests that are answered later are in flight until then.
        """
        path, _, query = request.target.partition("?")
        try:
            if HOP in request.fields:
                raise loop_error()
            if path == "/healthcheck":
                self._finish(request, path, HEALTHY, send)
                return None
            if path == "/livez":
                self._finish(request, path, live_reply(), send)
                return None
            if path in VERSION_PATHS:
                return self._respond_versions(request, path, send)
            read = parse_image_read(ReadRequest(request.method, path, query, request.fields))
        except ResolverError as error:
            reply = error_reply(error, request.fields.get("user-agent"))
            self._finish(request, self._route(path), reply, send)
            return None
        return self.respond_read(request, read, send)

    @staticmethod
    def _route(path: str) -> str:
        if path in VERSION_PATHS or path in ("/healthcheck", "/livez"):
            return VERSION_ROUTE_LABELS.get(path, path)
        return RESOLVE_LABEL if path.startswith("/resolve/") else ROUTE_LABEL

    def respond_read(
        self, request: FrontRequest, read: ImageRead, send: Send
    ) -> Callable[[], None] | None:
        """Like `respond`, for a parsed read about one image."""
        preferences = read.preferences
        if preferences is not DEFAULT_PREFERENCES and preferences != DEFAULT_PREFERENCES:
            return self._respond_later(request, read, None, send)
        cached = self._reader.cached(read.image_id)
        if cached is None:
            pending = _PendingLookup(self, request, read, send)
            self._in_flight.acquire()
            self._reader.request(read.image_id, pending.on_result)
            return pending.cancel
        if self._respond_from_template(request, read, cached, send):
            return None
        if not read.letter_case and self._respond_absent(request, read, cached, send):
            return None
        return self._respond_later(request, read, None, send)

    def lookup_done(
        self,
        request: FrontRequest,
        read: ImageRead,
        found: LookupResult | BaseException,
        send: Send,
    ) -> Callable[[], None] | None:
        """The index has answered a request that is in flight."""
        try:
            if isinstance(found, LookupResult) and self._respond_from_template(
                request, read, found, send
            ):
                return None
            return self._respond_later(request, read, found, send)
        finally:
            self._in_flight.release()

    def lookup_cancelled(self, request: FrontRequest, read: ImageRead) -> None:
        """The client of a request that is in flight is gone."""
        self._in_flight.release()
        self.record(request, read.route, CLIENT_CLOSED_REQUEST, "")

    def _respond_from_template(
        self, request: FrontRequest, read: ImageRead, found: LookupResult, send: Send
    ) -> bool:
        """Sends the response if the image has an owner that can be named; else does nothing."""
        variant = read.template_variant
        if variant is None or not found.claims:
            return False
        templates = self._templates
        if templates.context.table is not found.table:
            self._templates = templates = self._template_cache(found.table)
        text = read.known_text or format_id(read.image_id)
        try:
            template = templates.get(read.image_id, found.claims, variant)
        except Exception:  # a bug of ours must not cost the client its answer
            log.exception("template failed", id=text)
            return False
        if template is None:
            return False
        rendered = template.render(text)
        if read.path is not None:
            self._write(request, ROUTE_LABEL, 307, rendered, b"", "found", send)
            return True
        head, body = URI_LIST_HEAD, rendered
        if read.media_type == JSON:
            head, body = JSON_HEAD, rendered + json_tail(found.source, found.age)
        self._write(request, RESOLVE_LABEL, 200, head, body.encode(), "found", send)
        return True

    def _respond_absent(
        self, request: FrontRequest, read: ImageRead, found: LookupResult, send: Send
    ) -> bool:
        """Sends the 404 if the image is known to be absent; else does nothing."""
        answer = self._resolver.remembered_absence(read.image_id, found)
        agent = request.fields.get("user-agent")
        if answer is None or agent.startswith(GLANCECLIENT):
            return False
        template = self._absent_templates.get(read.vary)
        if template is None:
            template = self._absent_templates[read.vary] = AbsentTemplate(answer, read.vary)
        body = template.render(answer)
        self._write(request, read.route, 404, template.head, body, str(answer.outcome), send)
        return True

    def _template_cache(self, table: Table) -> TemplateCache:
        home_region = self._services.settings.region
        return TemplateCache(AnswerContext(table, DEFAULT_PREFERENCES, home_region), _render)

    def _respond_versions(
        self, request: FrontRequest, path: str, send: Send
    ) -> Callable[[], None] | None:
        services = self._services
        host = request.fields.get("host")
        base = services.settings.public_url or f"{request.scheme}://{host}"

        async def reply() -> Reply:
            table = await services.tables.current(services.settings.index_timeout)
            return versions_reply(table, base, path)

        return self._run(request, self._route(path), reply, send)

    def _respond_later(
        self,
        request: FrontRequest,
        read: ImageRead,
        prefetched: LookupResult | BaseException | None,
        send: Send,
    ) -> Callable[[], None]:
        """Asks the index or the locations in a task of its own."""
        charge = ChargeOnce(self._limits, partial(self._client_key, request))
        make_reply = partial(answer_image_read, self._resolver, read, charge, prefetched)
        return self._run(request, read.route, make_reply, send)

    def _client_key(self, request: FrontRequest) -> bytes:
        return self._limits.client_key(request.peer, request.fields.getall(FORWARDED_FOR))

    def _run(
        self,
        request: FrontRequest,
        route: str,
        make_reply: Callable[[], Awaitable[Reply]],
        send: Send,
    ) -> Callable[[], None]:
        async def run() -> None:
            try:
                reply = await make_reply()
            except ResolverError as error:
                reply = error_reply(error, request.fields.get("user-agent"))
            except Exception:
                log.exception("request failed", request_id=request.request_id)
                reply = internal_error(request.request_id)
            self._finish(request, route, reply, send)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._in_flight.release()

        self._in_flight.acquire()
        task = asyncio.create_task(run(), name="front")
        self._tasks.add(task)
        task.add_done_callback(ended)

        def cancel() -> None:
            task.cancel()
            self.record(request, route, CLIENT_CLOSED_REQUEST, "")

        return cancel

    def _finish(self, request: FrontRequest, route: str, reply: Reply, send: Send) -> None:
        head = head_text(reply)
        self._write(request, route, reply.status, head, reply.body, reply.outcome, send)

    def _write(
        self,
        request: FrontRequest,
        route: str,
        status: int,
        head: str,
        body: bytes,
        outcome: str,
        send: Send,
    ) -> None:
        """Adds the fields that every response has, in the order in which aiohttp sends them."""
        is_head = request.method == "HEAD"
        length = f"Content-Length: {len(body)}\r\n" if body or not is_head else ""
        closing = ""
        if request.minor == 0:
            head = f"HTTP/1.0{head[8:]}"
            closing = "Connection: keep-alive\r\n" if request.keeps_connection else ""
        if self._in_flight.stopping or (request.minor and not request.keeps_connection):
            closing = "Connection: close\r\n"
        text = (
            f"{head}{length}{self._server_fields()}{closing}"
            f"{REQUEST_ID_HEADER}: {request.request_id}\r\n\r\n"
        )
        self.record(request, route, status, outcome)
        send(text.encode() if is_head or not body else text.encode() + body)

    def record(self, request: FrontRequest, route: str, status: int, outcome: str) -> None:
        """Counts and logs a request that has been answered, or whose client is gone."""
        seconds = time.perf_counter() - request.started
        self._metrics.record(route, request.method, status, seconds, outcome)
        self._access_log.write(
            request.request_id,
            request.method,
            request.target,
            status,
            seconds,
            request.peer or None,
            outcome,
        )

    def _server_fields(self) -> str:
        now = int(time.time())
        if now != self._stamp_second:
            self._stamp_second = now
            date = formatdate(now, usegmt=True)
            self._stamp = f"Date: {date}\r\nServer: {SERVER_SOFTWARE}\r\n"
        return self._stamp


class AbsentTemplate:
    """The 404 about an image that every location was asked about, without its id and age. It is
    what the handlers render for an answer whose id and age occur nowhere else."""

    def __init__(self, answer: Answer, vary: str) -> None:
        sample = replace(answer, image_id=secrets.token_bytes(16), age=SAMPLE_AGE)
        error = error_of(sample, vary)
        assert error is not None
        reply = error_reply(error)
        self.head = head_text(reply)
        before, rest = reply.body.decode().split(sample.id)
        middle, after = rest.split(json_tail(sample.source, SAMPLE_AGE)[2:-1])
        self._before, self._middle, self._after = before, middle, after

    def render(self, answer: Answer) -> bytes:
        """The body about an image."""
        source = json_tail(answer.source, answer.age)[2:-1]
        return f"{self._before}{answer.id}{self._middle}{source}{self._after}".encode()


class _PendingLookup:
    """A request in flight that waits for the index."""

    __slots__ = ("_cancel", "_front", "_read", "_request", "_send", "_waiting")

    def __init__(self, front: Front, request: FrontRequest, read: ImageRead, send: Send) -> None:
        self._front, self._request, self._read, self._send = front, request, read, send
        self._waiting = True
        self._cancel: Callable[[], None] | None = None

    def on_result(self, found: LookupResult | BaseException) -> None:
        if self._waiting:
            self._waiting = False
            self._cancel = self._front.lookup_done(self._request, self._read, found, self._send)

    def cancel(self) -> None:
        """The client is gone."""
        if self._waiting:
            self._waiting = False
            self._front.lookup_cancelled(self._request, self._read)
        elif self._cancel is not None:
            self._cancel()


def _render(answer: Answer, text: str, variant: Hashable) -> str | None:
    """The part of a response that is the same for all images with these owners: the head of a
    redirect, or the body of an answer up to its source. None where there is no owner to name."""
    if variant == JSON:
        return json_text(answer, text) if answer.owners else None
    if variant == URI_LIST:
        path, head = None, False
    else:
        api, rest, head = cast("tuple[str, str, bool]", variant)
        path = ImagePath(api, answer.image_id, 0, rest, "")
    media_type = URI_LIST if path is None else JSON
    read = ImageRead(answer.image_id, 0, Preferences(), head, path, media_type)
    try:
        reply = render_image_read(read, answer, text)
    except ResolverError:
        return None
    return reply.body.decode() if path is None else head_text(reply)
