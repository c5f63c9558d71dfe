"""The registry over HTTP, behind admin tokens."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import structlog
from aiohttp import web

from resolver.errors import (
    Forbidden,
    InvalidLocation,
    InvalidRequest,
    Unauthorized,
    UnsupportedMediaType,
)
from resolver.gateway.app_keys import ADMIN, REQUEST_ID, SERVICES, TOKENS
from resolver.gateway.methods import READ_METHODS
from resolver.gateway.problem import json_response
from resolver.gateway.request_body import read_body, read_json
from resolver.glance import GlanceServer, is_resolver
from resolver.glance.diagnosis import Step, diagnose
from resolver.index import AUDIT_MAX_ENTRIES
from resolver.models import MAX_BITS, MIN_BITS, letter_case_of, parse_id
from resolver.registry.validation import check_url

MAX_BODY = 65_536
"""Bytes of a location's description."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger("audit")


def authorize(request: web.Request) -> str:
    """The name of the admin whose token the request bears.

    Raises:
        Forbidden: no token is set at all, or this one may only read.
        Unauthorized: none, or none of those set.
    """
    scheme, _, sent = request.headers.get("Authorization", "").partition(" ")
    given = sent.strip().encode("utf-8", "surrogateescape")
    admin = request.app[TOKENS].find(given)
    if admin is None or scheme.lower() != "bearer":
        raise Unauthorized(
            "send `Authorization: Bearer <token>` with one of RESOLVER_ADMIN_TOKENS",
            headers={"WWW-Authenticate": 'Bearer realm="glance-resolver"'},
        )
    if admin.read_only and request.method not in READ_METHODS:
        raise Forbidden(f"the token {admin.name!r} may only read", code="read-only-token")
    return admin.name


def admin_only(handler: Handler) -> Handler:
    """Lets a handler be reached with an admin token only, and logs each change that it makes."""

    @wraps(handler)
    async def guarded(request: web.Request) -> web.StreamResponse:
        request[ADMIN] = admin = authorize(request)
        response = await handler(request)
        if request.method not in READ_METHODS:
            log.info(
                "admin",
                admin=admin,
                method=request.method,
                path=request.path[:256],
                status=response.status,
                request_id=request[REQUEST_ID],
            )
        return response

    return guarded


async def read_object(request: web.Request, *, required: bool = True) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises:
        InvalidRequest: there is none.
        UnsupportedMediaType: it is said to be no JSON.
        TooLarge: it is longer than `MAX_BODY`.
    """
    body = await read_body(request, MAX_BODY)
    if not body and not required:
        return {}
    media = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media not in ("", "application/json", "application/merge-patch+json"):
        # curl -d says x-www-form-urlencoded: tell it rather than guess, since this changes things
        raise UnsupportedMediaType("send JSON with `Content-Type: application/json`")
    try:
        value = read_json(body, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest('the body is not JSON: send {"url": "https://…"}') from error
    if not isinstance(value, dict):
        raise InvalidRequest('the body is not a JSON object: send {"url": "https://…"}')
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless a name stands in it twice, where parsers differ on which one counts."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise InvalidRequest("the JSON has a name twice in one object")
    return value


@admin_only
async def list_locations(request: web.Request) -> web.StreamResponse:
    return json_response({"locations": await request.app[SERVICES].registry.list()})


@admin_only
async def show_location(request: web.Request) -> web.StreamResponse:
    registry = request.app[SERVICES].registry
    return json_response(await registry.show(request.match_info["name"]))


@admin_only
async def put_location(request: web.Request) -> web.StreamResponse:
    name, registry = request.match_info["name"], request.app[SERVICES].registry
    fields = await read_object(request)
    await _refuse_resolver(request, fields)
    _, new = await registry.put(name, fields, host=request.host, by=request[ADMIN])
    headers = {"Location": f"/locations/{name}"} if new else None
    return json_response(await registry.show(name), status=201 if new else 200, headers=headers)


@admin_only
async def patch_location(request: web.Request) -> web.StreamResponse:
    name, registry = request.match_info["name"], request.app[SERVICES].registry
    fields = await read_object(request)
    await _refuse_resolver(request, fields)
    await registry.patch(name, fields, host=request.host, by=request[ADMIN])
    return json_response(await registry.show(name))


async def _refuse_resolver(request: web.Request, fields: dict[str, Any]) -> None:
    """Raises InvalidLocation for the URL of a resolver: this one by whatever way round, another
    that may point back here. One that does not answer now is found out when it is looked at."""
    if isinstance(url := fields.get("url"), str):
        services = request.app[SERVICES]
        url = check_url(url)
        await services.registry.check_target(url, request.host)
        if await is_resolver(services.session, url):
            raise InvalidLocation(
                "`url` is a glance-resolver, this one or another: register the Glance servers "
                "behind it"
            )


@admin_only
async def delete_location(request: web.Request) -> web.StreamResponse:
    await request.app[SERVICES].registry.remove(request.match_info["name"], request[ADMIN])
    return web.Response(status=204)


@admin_only
async def sweep_location(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    options = await read_object(request, required=False)
    confirm = options.pop("confirm_shrink", False)
    if options or not isinstance(confirm, bool):
        raise InvalidRequest('a sweep takes nothing, or {"confirm_shrink": true}')
    registry = request.app[SERVICES].registry
    await registry.sweep(name, confirm_shrink=confirm, by=request[ADMIN])
    follow = f"/locations/{name}"
    return json_response(
        {"location": name, "follow": follow, "see": "its `sweep`"},
        status=202,
        headers={"Location": follow},
    )


@admin_only
async def check_location(request: web.Request) -> web.StreamResponse:
    """Tries a location from end to end, from here and with the credentials of this process."""
    services, name = request.app[SERVICES], request.match_info["name"]
    location = (await services.registry.view(name)).location
    steps = await diagnose(GlanceServer(services.session, location, services.cloud_credentials))
    shown = await services.registry.show(name)
    sweep, coverage = shown["sweep"], shown["coverage"]
    fault = sweep["error"] or ("" if coverage["covered"] else coverage["why"])
    steps.append(Step("sweep", not fault, fault or f"{sweep['images']} images, {coverage['why']}"))
    return json_response(
        {
            "location": name,
            "ok": all(step.ok for step in steps),
            "steps": [
                {"step": s.name, "ok": s.ok, "said": s.message, "fix": s.fix or None} for s in steps
            ],
        }
    )


@admin_only
async def rebuild_index(request: web.Request) -> web.StreamResponse:
    body = await read_object(request)
    bits = body.get("bits")
    if set(body) != {"bits"} or type(bits) is not int or not MIN_BITS <= bits <= MAX_BITS:
        raise InvalidRequest(f'send {{"bits": N}} with N from {MIN_BITS} to {MAX_BITS}')
    index = request.app[SERVICES].index
    await index.rebuild.request(bits)
    await index.audit.record(request[ADMIN], "rebuild")
    return json_response(
        {"bits": bits, "follow": "/index", "see": "its `rebuild`"},
        status=202,
        headers={"Location": "/index"},
    )


@admin_only
async def claim_image(request: web.Request) -> web.StreamResponse:
    name, text = request.match_info["name"], request.match_info["id"]
    image_id = parse_id(text)
    new = await request.app[SERVICES].registry.claim(name, image_id, letter_case_of(text))
    return web.Response(status=201 if new else 204)


@admin_only
async def release_image(request: web.Request) -> web.StreamResponse:
    name, image_id = request.match_info["name"], parse_id(request.match_info["id"])
    await request.app[SERVICES].registry.release(name, image_id)
    return web.Response(status=204)


@admin_only
async def audit_log(request: web.Request) -> web.StreamResponse:
    """GET /audit: the last changes, the newest first."""
    query = request.query
    if unknown := set(query) - {"location", "limit"}:
        raise InvalidRequest(
            f"unknown parameter {min(unknown)[:40]!r}: there are location and limit"
        )
    limit = query.get("limit", "100")
    if not re.fullmatch(r"[0-9]{1,5}", limit, re.ASCII) or not 1 <= int(limit) <= AUDIT_MAX_ENTRIES:
        raise InvalidRequest(f"limit must be a number from 1 to {AUDIT_MAX_ENTRIES}")
    entries = await request.app[SERVICES].registry.log(int(limit), query.get("location", ""))
    return json_response({"changes": entries})
