"""What the aiohttp application does around every request: id, log line, metrics, errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import HttpVersion11, web

from resolver.errors import LoopDetected, MethodNotAllowed, NotFound, ResolverError
from resolver.gateway.app_keys import (
    ACCESS_LOG,
    ADMIN,
    BROWSER_GUARD,
    HOST,
    IN_FLIGHT,
    METRICS,
    OUTCOME,
    REQUEST_ID,
    SERVICES,
    SOURCE,
)
from resolver.gateway.error_form import ErrorForm, error_form
from resolver.gateway.limits import LIMITS
from resolver.gateway.net.in_flight import REFUSED_STATUS, TRACKED
from resolver.gateway.problem import error_reply, malformed, problem
from resolver.gateway.reply import SERVER_NAME, Reply, to_response
from resolver.gateway.request_host import InvalidTargetError, parse_destination
from resolver.gateway.request_ids import REQUEST_ID_HEADER, request_id_from
from resolver.glance import HOP
from resolver.latency import observe_seconds
from resolver.trace_context import TRACEPARENT, TRACESTATE, parse_trace, within

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CLIENT_CLOSED_REQUEST = 499
"""Counted for a client that closed its connection before it was answered, as nginx does."""

KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
"""Methods that have a metric label of their own. Any token may arrive as a method."""

log = structlog.get_logger("access")


def route_label(request: web.Request) -> str:
    """The route's pattern: there are as many labels as routes."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"


def method_label(method: str) -> str:
    """The method, or ``other`` for one that no route has."""
    return method if method in KNOWN_METHODS else "other"


def loop_error() -> LoopDetected:
    """The error for a request that another resolver sent, or this one."""
    return LoopDetected(
        "this is a glance-resolver and no Glance server: register the servers behind it"
    )


def internal_error(request_id: str, form: ErrorForm | None) -> Reply:
    """The reply to a request that met a bug of ours."""
    detail = f"the log has the cause: {request_id}"
    return problem(500, "internal-error", "Internal error", detail, form=form)


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tracks, counts and logs a request, whatever becomes of it."""
    started = time.monotonic()
    request[REQUEST_ID] = request_id_from(request.headers.get(REQUEST_ID_HEADER))
    headers = request.headers
    trace = parse_trace(headers.getall(TRACEPARENT, ()), headers.getall(TRACESTATE, ()))
    app, transport = request.app, request.transport
    response: web.StreamResponse | None = None
    with app[IN_FLIGHT].track(already=bool(request.get_extra_info(TRACKED))):
        try:
            with within(trace):
                response = await _respond(request, handler, transport)
            return response
        finally:
            seconds = time.monotonic() - started
            status = response.status if response is not None else CLIENT_CLOSED_REQUEST
            outcome = request.get(OUTCOME, "")
            method = method_label(request.method)
            of_one = outcome if isinstance(outcome, str) else ""  # bulk answers count each id
            row = app[METRICS].requests.row(
                route_label(request), method, status, of_one, request.get(SOURCE, "")
            )
            observe_seconds(row, seconds)
            app[ACCESS_LOG].write(
                request[REQUEST_ID],
                request.method,
                request.path_qs,
                status,
                seconds,
                app[LIMITS].client_address(request),
                outcome,
                request.get(ADMIN, ""),
                trace.trace_id,
            )


async def _respond(
    request: web.Request, handler: Handler, transport: asyncio.Transport | None
) -> web.StreamResponse:
    """The handler's response, or that to the error that it raised."""
    if HOP in request.headers:
        return to_response(error_reply(loop_error(), _form_of(request)))
    try:
        request[HOST] = host = _host_of(request)
        request.app[BROWSER_GUARD].check(request.method, request.path, host, request.headers)
        return await handler(request)
    except InvalidTargetError as error:
        response = to_response(malformed(400, str(error), _form_of(request)))
        response.force_close()
        return response
    except ResolverError as error:
        reply = error_reply(error, _form_of(request))
        if reply.outcome:
            request[OUTCOME] = reply.outcome
            request[SOURCE] = reply.source
        response = to_response(reply)
        if error.closes_connection:
            response.force_close()
        return response
    except web.HTTPException as error:
        return to_response(_router_error(request, error, _form_of(request)))
    except web.RequestPayloadError:
        reason = "the body cannot be read: its chunks are broken"
        response = to_response(malformed(400, reason, _form_of(request)))
        response.force_close()
        return response
    except TimeoutError:
        raise
    except Exception as error:
        # Reading a body of a client that is gone raises either of these.
        if isinstance(error, ConnectionError | RuntimeError) and _is_disconnected(request):
            status = CLIENT_CLOSED_REQUEST
            if transport is not None:
                status = transport.get_extra_info(REFUSED_STATUS, status)
            return web.Response(status=status, reason="Client Closed Request")
        if isinstance(error, ConnectionError):
            raise
        log.exception("request failed", request_id=request[REQUEST_ID])
        return to_response(internal_error(request[REQUEST_ID], _form_of(request)))


def _host_of(request: web.Request) -> str:
    """The host that a request is for; `web.Request.host` makes one up where there is none.

    Raises:
        InvalidTargetError: its target or its ``Host`` is missing or malformed.
    """
    host, needs_host = request.headers.get("Host"), request.version >= HttpVersion11
    return parse_destination(request.raw_path, host, needs_host=needs_host).host


def _form_of(request: web.Request) -> ErrorForm | None:
    return error_form(request.rel_url.raw_path, request.headers)


def _is_disconnected(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _router_error(request: web.Request, error: web.HTTPException, form: ErrorForm | None) -> Reply:
    """What aiohttp's router refuses, in the form of other errors."""
    if isinstance(error, web.HTTPNotFound):
        is_indexer = request.app[SERVICES].settings.role == "indexer"
        detail = (
            "this is an indexer, which answers /healthcheck, /livez, /readyz, /status and /metrics "
            "only: ask a gateway"
            if is_indexer
            else "nothing is here: /openapi.json lists the paths"
        )
        return error_reply(NotFound(detail, headers={"Vary": "Accept"}), form)
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.method} is not one of {allowed}"
        return error_reply(MethodNotAllowed(detail, headers={"Allow": allowed}), form)
    return problem(error.status, "http-error", error.reason, error.reason, form=form)


async def sign(request: web.Request, response: web.StreamResponse) -> None:
    """Every response carries the request id, and no version. During a shutdown it closes its
    connection.

    aiohttp has chosen the field ``Connection`` by now, so `force_close` alone says nothing to the
    client.
    """
    request_id = request.get(REQUEST_ID)
    if request_id is None:
        request_id = request_id_from(request.headers.get(REQUEST_ID_HEADER))
    response.headers[REQUEST_ID_HEADER] = request_id
    response.headers["Server"] = SERVER_NAME
    if request.app[IN_FLIGHT].stopping:
        response.force_close()
        response.headers["Connection"] = "close"
