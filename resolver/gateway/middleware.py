"""What happens around every request: its id, its log line, its figures, and errors rendered."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web
from multidict import istr

from resolver import logs
from resolver.errors import LoopDetected, MethodNotAllowed, NotFound, ResolverError, TooLarge
from resolver.gateway.app_keys import IN_FLIGHT, METRICS, OUTCOME, REQUEST_ID, SERVICES
from resolver.gateway.problem import problem, render_error
from resolver.glance import HOP

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEADER = istr("X-Openstack-Request-Id")
_WELL_FORMED = re.compile(r"req-[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)

_SECRET = re.compile(
    r"([?&;][^=&;]*(?:token|passw|secret|auth|key|sig|credential)[^=&;]*=)[^&;]*", re.IGNORECASE
)
"""A parameter that by its name may be one. None is taken from a query here, but clients err."""

log = structlog.get_logger("access")


def request_id(headers: Mapping[str, str]) -> str:
    """The client's own id where it sent a well-formed one (oslo.middleware does the same)."""
    sent = headers.get(HEADER)
    return sent if sent and _WELL_FORMED.fullmatch(sent) else new_request_id()


class _Drawn:
    """What the request ids of this process have in common, and their count."""

    def __init__(self) -> None:
        self.draw()
        os.register_at_fork(after_in_child=self.draw)

    def draw(self) -> None:
        digits = f"{random.getrandbits(80):020x}"
        self.head = f"req-{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:]}-"
        self.count = itertools.count(random.getrandbits(47))


_drawn = _Drawn()


def new_request_id() -> str:
    """``req-`` and a UUID: drawn once for a process, then counted, which is a third of the cost of
    drawing each and an eighth of `uuid.uuid4`."""
    return f"{_drawn.head}{next(_drawn.count):012x}"


def route_of(request: web.Request) -> str:
    """The route's pattern, a bounded label for metrics."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "none"


@web.middleware
async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every request passes here once, whatever becomes of it."""
    begun = time.perf_counter()
    request[REQUEST_ID] = rid = request_id(request.headers)
    metrics = request.app[METRICS]
    response: web.StreamResponse | None = None
    with request.app[IN_FLIGHT].one():
        try:
            response = await _answered(request, handler)
            return response
        finally:
            seconds = time.perf_counter() - begun
            route = route_of(request)
            status = response.status if response is not None else 499
            metrics.requests.counts[route, request.method, str(status)] += 1
            metrics.seconds.note(route, seconds)
            level = request.app[SERVICES].settings.access_log
            if level == "all" or (level == "errors" and status >= 400):
                more = {"outcome": request[OUTCOME]} if OUTCOME in request else {}
                path = request.path_qs
                if "?" in path:
                    path = _SECRET.sub(r"\1***", path)
                log_request(rid, request.method, path, status, seconds, request.remote, **more)


def log_request(
    rid: str,
    method: str,
    path: str,
    status: int,
    seconds: float,
    client: str | None,
    **more: object,
) -> None:
    """The line of one request."""
    logs.log_request(
        request_id=rid,
        method=method,
        path=path[:512],
        status=status,
        ms=round(seconds * 1000, 3),
        client=client,
        **more,
    )


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    if HOP in request.headers:
        return render_error(
            LoopDetected(
                "this is a glance-resolver and no Glance server: register the servers behind it"
            )
        )
    try:
        return await handler(request)
    except ResolverError as error:
        response = render_error(error)
        if request.headers.get("User-Agent", "").startswith("python-glanceclient"):
            return for_glanceclient(response)
        return response
    except web.HTTPNotFound:
        return render_error(
            NotFound("nothing is here: /openapi.json lists the paths", headers={"Vary": "Accept"})
        )
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return render_error(
            MethodNotAllowed(
                f"{request.method} is not one of {allowed}", headers={"Allow": allowed}
            )
        )
    except web.HTTPRequestEntityTooLarge:
        return render_error(TooLarge("the body is too large: send fewer ids at once"))
    except web.HTTPException as error:
        return problem(error.status, "http-error", error.reason, error.reason)
    except web.RequestPayloadError:
        response = problem(
            400,
            "malformed-request",
            "Malformed request",
            "the body cannot be read: its chunks are broken",
        )
        response.force_close()
        return response
    except ConnectionError:
        if request.transport is not None and not request.transport.is_closing():
            raise
        return web.Response(status=499, reason="Client Closed Request")  # which nobody reads
    except TimeoutError:
        raise
    except Exception:
        log.exception("request failed", request_id=request[REQUEST_ID])
        return problem(
            500,
            "internal-error",
            "Internal error",
            f"the log has the cause beside {request[REQUEST_ID]}",
        )


async def sign(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer, streamed ones too, carries the request id; the last ones close."""
    response.headers[HEADER] = request.get(REQUEST_ID) or request_id(request.headers)
    if request.app[IN_FLIGHT].stopping:
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp has chosen that header by now


def for_glanceclient(response: web.Response) -> web.Response:
    """The same problem as text. python-glanceclient takes every JSON error for an object of
    objects (``exc.from_response``) and dies of a problem document with an AttributeError; its
    ``Accept`` is ``*/*`` like curl's, so only its name tells it apart.
    """
    body = json.loads(response.body)  # type: ignore[arg-type]
    response.content_type = "text/plain"
    response.text = f"{response.status} {response.reason}: {body['detail']}"
    response.headers["Vary"] = "User-Agent"
    return response
