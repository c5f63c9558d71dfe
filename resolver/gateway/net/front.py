"""The front: answers public reads from plain functions, without aiohttp.

A `FrontConnection` reads requests and gives those that the front answers to `Front.respond`. Known
images are answered in the same turn of the event loop, from a template that is rendered once for
all images with the same owners. Whatever needs Redis or the locations goes through the same
functions as the aiohttp application (`resolver.gateway.api.images`), so there is one definition
of every response.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from functools import partial

import structlog

from resolver.errors import ResolverError
from resolver.gateway.access_log import AccessLog
from resolver.gateway.api.any_location import any_location_label, is_schema_path, redirect_reply
from resolver.gateway.api.image_reads import ImageRead, ReadRequest, parse_image_read
from resolver.gateway.api.images import answer_image_read
from resolver.gateway.api.status import HEALTHY, live_reply
from resolver.gateway.api.version_documents import base_url, versions_reply
from resolver.gateway.browser_guard import HEALTH_PATHS, BrowserGuard
from resolver.gateway.error_form import ErrorForm, error_form
from resolver.gateway.image_path import check_target, region_of, split_region
from resolver.gateway.limits import Limits, RequestCharge
from resolver.gateway.methods import READ_METHODS
from resolver.gateway.metrics.process_metrics import Metrics
from resolver.gateway.middleware import CLIENT_CLOSED_REQUEST, internal_error, loop_error
from resolver.gateway.negotiation import JSON, preferences_from_headers, prefers_html
from resolver.gateway.net.absent_template import AbsentTemplate
from resolver.gateway.net.found_template import END_OF_HEAD, render_found
from resolver.gateway.net.front_routes import is_front_path, is_version_path, route_label
from resolver.gateway.net.in_flight import InFlight
from resolver.gateway.net.known_reads import (
    FrontRequest,
    KnownReads,
    Origin,
    PlainRead,
    ReadKind,
)
from resolver.gateway.net.request_head import Fields
from resolver.gateway.problem import error_reply
from resolver.gateway.reply import SERVER_NAME, Reply, head_text
from resolver.gateway.request_ids import REQUEST_ID_HEADER
from resolver.glance import HOP
from resolver.latency import LatencyRow, observe_seconds
from resolver.registry import Table
from resolver.resolution import (
    AnswerContext,
    LookupResult,
    Preferences,
    TemplateCache,
    VariantTemplates,
)
from resolver.resolution.answer import json_tail
from resolver.resolution.index_reader import Claims
from resolver.services import Services
from resolver.trace_context import within

NO_ORIGIN: Origin = ("", False)

log = structlog.get_logger()

Send = Callable[[bool, bytes], None]
"""Sends a response on the connection that the request came on, and keeps that or closes it."""

Framing = tuple[int, bool]
"""The minor version of a request, and whether it keeps the connection."""


class Front:
    """Answers reads. One for all connections of a process."""

    def __init__(
        self,
        services: Services,
        metrics: Metrics,
        in_flight: InFlight,
        limits: Limits,
        access_log: AccessLog,
        guard: BrowserGuard,
    ) -> None:
        self._services = services
        self._guard = guard
        self._resolver = services.resolver
        self._caller_tokens = services.caller_tokens
        self._caller_images = services.caller_images
        self._reader = services.resolver.reader
        self._metrics = metrics
        self._in_flight = in_flight
        self._limits = limits
        self._access_log = access_log
        self.known_reads = KnownReads()
        self._templates: dict[Preferences, TemplateCache] = {}
        """By what the order of owners depends on, for one table."""
        self._absent_templates: dict[tuple[ErrorForm | None, str], AbsentTemplate] = {}
        """By the form and the ``Vary`` field of the response."""
        self._common_fields: dict[Framing, str] = {}
        self._renew_at = 0.0
        """`time.time` from which `_common_fields` are out of date."""
        self._tasks: set[asyncio.Task[None]] = set()

    def answers(self, method: str, target: str, fields: Fields) -> bool:
        """Whether the front answers such a request by itself, if it has no body."""
        if method not in READ_METHODS:
            return False
        path = target.partition("?")[0]
        if path not in HEALTH_PATHS and not self._guard.allows_host(fields.get("host")):
            return False  # refused
        if path == "/" and prefers_html(fields):
            return False  # the status page
        if self._caller_tokens is not None and any_location_label(path):
            return is_schema_path(path) and "#" not in target  # others need a token
        return is_front_path(path) and "#" not in target

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
            if is_version_path(path):
                return self._respond_versions(request, path, send)
            if label := any_location_label(path):
                return self._respond_of_any(request, label, send)
            read = parse_image_read(ReadRequest(request.method, path, query, request.fields))
        except ResolverError as error:
            reply = error_reply(error, error_form(path, request.fields))
            self._finish(request, route_label(path), reply, send)
            return None
        return self._respond_later(request, read, None, send)

    def respond_from_memory(self, read: PlainRead) -> bytes | None:
        """The response to a plain read, if this process knows it without asking anybody."""
        if not self._is_admitted(read):
            return None
        found = self._reader.certain(read.image_id)
        if found is None:
            stale = self._reader.known_in_outage(read.image_id)
            return None if stale is None else self._found_response(read, *stale[:4])
        claims, age = found
        table = self._services.tables.table
        if claims:
            return self._found_response(read, table, claims, "cache", age)
        return self._absent_response(read, table)

    def respond_to_plain(self, read: PlainRead, send: Send) -> Callable[[], None]:
        """Answers a plain read that needs the index, and perhaps locations or Keystone. Returns
        what cancels it. The request is in flight until it is answered."""
        if not self._is_admitted(read):
            return self._ask_further(read, None, send)
        pending = _PendingRead(self, read, send)
        self._in_flight.acquire()
        self._reader.request(read.image_id, pending.on_result)
        return pending.cancel

    def _is_admitted(self, read: PlainRead) -> bool:
        """Whether the client may read, as far as is known without asking Keystone."""
        if self._caller_tokens is None:
            return True
        kind = read.kind
        if kind.caller is None or kind.caller.until <= read.started:
            kind.caller = self._caller_tokens.remembered(kind.read.token)
        return kind.caller is not None

    def index_answered(
        self, read: PlainRead, found: LookupResult | BaseException, send: Send
    ) -> Callable[[], None] | None:
        """The index has answered a plain read that is in flight."""
        try:
            if isinstance(found, LookupResult) and found.claims:
                table, claims, source, age, _, _ = found
                response = self._found_response(read, table, claims, source, age)
                if response is not None:
                    send(read.kind.keeps_connection, response)
                    return None
            return self._ask_further(read, found, send)
        finally:
            self._in_flight.release()

    def _ask_further(
        self, read: PlainRead, found: LookupResult | BaseException | None, send: Send
    ) -> Callable[[], None]:
        image_read = read.kind.read_of(read.image_id)
        return self._respond_later(read.request(), image_read, found, send)

    def client_left(self, read: PlainRead) -> None:
        """The client of a plain read that is in flight is gone."""
        self._in_flight.release()
        row = self._metrics.requests.row(read.kind.route, read.method, CLIENT_CLOSED_REQUEST)
        self._record(read, row, CLIENT_CLOSED_REQUEST, "")

    def _found_response(
        self, read: PlainRead, table: Table, claims: Claims, source: str, age: float
    ) -> bytes | None:
        """The response about an image with owners; None where no template has it."""
        kind = read.kind
        if self._caller_images is not None:
            claims = self._caller_images.shown_claims(kind.caller, read.image_id, claims)
            if not claims:
                return None
        origin = self._origin(read, table) if table.depends_on_client else NO_ORIGIN
        templates = kind.templates.get(origin)
        if templates is None or templates.table is not table:
            templates = self._templates_of(kind, table, origin)
        try:
            template = templates.get(read.image_id, claims)
        except Exception:  # a bug of ours must not cost the client its answer
            log.exception("template failed", id=read.text)
            return None
        if template is None:
            return None
        head = read.text.join(template.parts)
        status, body = 307, b""
        if kind.read.path is None:
            head, _, text = head.partition(END_OF_HEAD)
            status = 200
            body = (text + json_tail(source, age) if kind.variant == JSON else text).encode()
        row = kind.found_rows.get(source)
        if row is None:
            kind.found_rows[source] = row = self._metrics.requests.row(
                kind.route, kind.method, status, "found", source
            )
        self._record(read, row, status, "found")
        return self._response(kind.framing, head, body, kind.is_head, read.request_id)

    def _absent_response(self, read: PlainRead, table: Table) -> bytes | None:
        """The 404 if the image is known to be absent."""
        kind = read.kind
        if self._caller_images is not None:
            return None  # that is what the gateway's own credentials see
        age = self._resolver.remembered_absence(read.image_id, table)
        if age is None:
            return None
        key = kind.error_form, kind.vary
        template = self._absent_templates.get(key)
        if template is None:
            template = self._absent_templates[key] = AbsentTemplate(*key)
        body = template.render(read.text, age)
        row = self._metrics.requests.row(kind.route, kind.method, 404, "absent", "cache")
        self._record(read, row, 404, "absent")
        return self._response(kind.framing, template.head, body, kind.is_head, read.request_id)

    def _origin(self, read: PlainRead, table: Table) -> Origin:
        clients, fields = self._limits.clients, read.kind.fields
        region = table.network_regions.region_of(clients.address(read.peer, fields))
        https = table.has_mixed_schemes and clients.uses_https(read.peer, read.scheme, fields)
        return region, https

    def _templates_of(self, kind: ReadKind, table: Table, origin: Origin) -> VariantTemplates:
        """The templates for a kind. There are as many caches as there are regions, not clients: a
        region that no location has changes no order."""
        region, (near, https) = kind.read.preferences.region, origin
        preferences = Preferences(
            region if region in table.regions else "",
            https=https,
            network_region=near if near in table.regions else "",
        )
        cache = self._templates.get(preferences)
        if cache is None or cache.context.table is not table:
            if cache is not None:
                self._templates.clear()  # all are of that table, or of earlier ones
            context = AnswerContext(table, preferences, self._services.settings.region)
            render = partial(render_found, preferences)
            cache = self._templates[preferences] = TemplateCache(context, render)
        known = kind.templates
        kind.templates = {o: known[o] for o in known if known[o].table is table}
        kind.templates[origin] = templates = cache.of(kind.variant)
        return templates

    def _respond_of_any(
        self, request: FrontRequest, route: str, send: Send
    ) -> Callable[[], None] | None:
        """What any location can answer."""
        path, _, query = request.target.partition("?")
        check_target(path, query)
        preferences = self._limits.clients.preferences(
            preferences_from_headers(request.fields, region_of(path)),
            request.peer,
            request.scheme,
            request.fields,
        )

        def redirect(table: Table) -> Reply:
            return redirect_reply(self._services, table, preferences, path, query)

        return self._respond_of_table(request, route, redirect, send)

    def _respond_of_table(
        self,
        request: FrontRequest,
        route: str,
        make_reply: Callable[[Table], Reply],
        send: Send,
    ) -> Callable[[], None] | None:
        """A reply that depends on the locations alone: now where they are certain, else as soon as
        they are known.

        Raises:
            ResolverError: of ``make_reply``.
        """
        if (table := self._reader.certain_table()) is not None:
            try:
                known = make_reply(table)
            except ResolverError:
                raise
            except Exception:  # a bug of ours must not cost the client its answer
                known = _failed(request)
            self._finish(request, route, known, send)
            return None

        async def reply() -> Reply:
            return make_reply(await self._reader.usable_table())

        return self._run(request, route, reply, send)

    def _respond_versions(
        self, request: FrontRequest, path: str, send: Send
    ) -> Callable[[], None] | None:
        check_target(path, "")
        host = request.fields.get("host")
        route = route_label(path)
        prefix, path = split_region(path)
        base = base_url(self._services.settings.public_url, request.scheme, host) + prefix
        return self._respond_of_table(
            request, route, lambda table: versions_reply(table, base, path), send
        )

    def _respond_later(
        self,
        request: FrontRequest,
        read: ImageRead,
        prefetched: LookupResult | BaseException | None,
        send: Send,
    ) -> Callable[[], None]:
        """Asks the index or the locations in a task of its own."""
        read = read._replace(
            preferences=self._limits.clients.preferences(
                read.preferences, request.peer, request.scheme, request.fields
            )
        )
        charge = RequestCharge(self._limits, partial(self._client_key, request))
        make_reply = partial(answer_image_read, self._services, read, charge, prefetched)
        return self._run(request, read.route, make_reply, send)

    def _client_key(self, request: FrontRequest) -> bytes:
        return self._limits.client_key(request.peer, request.fields)

    def _run(
        self,
        request: FrontRequest,
        route: str,
        make_reply: Callable[[], Awaitable[Reply]],
        send: Send,
    ) -> Callable[[], None]:
        async def run() -> None:
            try:
                with within(request.trace):
                    reply = await make_reply()
            except ResolverError as error:
                reply = error_reply(error, _form_of(request))
            except Exception:
                reply = _failed(request)
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
            self._record_request(request, route, CLIENT_CLOSED_REQUEST, "")

        return cancel

    def _finish(self, request: FrontRequest, route: str, reply: Reply, send: Send) -> None:
        self._record_request(request, route, reply.status, reply.outcome, reply.source)
        framing = request.minor, request.keeps_connection
        is_head, request_id = request.method == "HEAD", request.request_id
        response = self._response(framing, head_text(reply), reply.body, is_head, request_id)
        send(request.keeps_connection, response)

    def _response(
        self, framing: Framing, head: str, body: bytes, is_head: bool, request_id: str
    ) -> bytes:
        """A response with the fields that every response has, in the order in which aiohttp sends
        them."""
        length = f"Content-Length: {len(body)}\r\n" if body or not is_head else ""
        now = time.time()
        if now >= self._renew_at:
            self._renew_at = int(now) + 1
            self._common_fields.clear()
        if self._in_flight.stopping:
            framing = framing[0], False
        common = self._common_fields.get(framing)
        if common is None:
            common = self._common_fields[framing] = self._make_common_fields(framing)
        if not framing[0]:
            head = f"HTTP/1.0{head[8:]}"
        text = f"{head}{length}{common}{request_id}\r\n\r\n"
        return text.encode() if is_head or not body else text.encode() + body

    def _make_common_fields(self, framing: Framing) -> str:
        """``Date``, ``Server``, ``Connection`` and the name of the request id, for this second."""
        minor, keeps_connection = framing
        connection = ""
        if minor and not keeps_connection:
            connection = "Connection: close\r\n"
        elif keeps_connection and not minor:
            connection = "Connection: keep-alive\r\n"
        date = formatdate(int(time.time()), usegmt=True)
        return f"Date: {date}\r\nServer: {SERVER_NAME}\r\n{connection}{REQUEST_ID_HEADER}: "

    def _record_request(
        self, request: FrontRequest, route: str, status: int, outcome: str, source: str = ""
    ) -> None:
        """Counts and logs a request that has been answered, or whose client is gone."""
        row = self._metrics.requests.row(route, request.method, status, outcome, source)
        self._record(request, row, status, outcome)

    def _record(
        self, request: FrontRequest | PlainRead, row: LatencyRow, status: int, outcome: str
    ) -> None:
        """The same where the row is known."""
        seconds = time.monotonic() - request.started
        observe_seconds(row, seconds)
        if status >= self._access_log.least_status:
            self._access_log.write(
                request.request_id,
                request.method,
                request.target,
                status,
                seconds,
                self._limits.clients.address_text(request.peer, request.fields),
                outcome,
                trace_id=request.trace.trace_id,
            )


def _form_of(request: FrontRequest) -> ErrorForm | None:
    return error_form(request.target.partition("?")[0], request.fields)


def _failed(request: FrontRequest) -> Reply:
    """The reply to a request that met a bug of ours, whose exception is being handled."""
    log.exception("request failed", request_id=request.request_id)
    return internal_error(request.request_id, _form_of(request))


class _PendingRead:
    """A plain read in flight that waits for the index."""

    __slots__ = ("_cancel", "_front", "_read", "_send", "_waiting")

    def __init__(self, front: Front, read: PlainRead, send: Send) -> None:
        self._front, self._read, self._send = front, read, send
        self._waiting = True
        self._cancel: Callable[[], None] | None = None

    def on_result(self, found: LookupResult | BaseException) -> None:
        if self._waiting:
            self._waiting = False
            self._cancel = self._front.index_answered(self._read, found, self._send)

    def cancel(self) -> None:
        """The client is gone."""
        if self._waiting:
            self._waiting = False
            self._front.client_left(self._read)
        elif self._cancel is not None:
            self._cancel()
