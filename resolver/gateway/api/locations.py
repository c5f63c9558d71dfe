"""``/locations``, ``/members``, ``/audit`` and ``/index/rebuild``: for operators, with a token."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from aiohttp import web

from resolver import __version__
from resolver.admin_tokens import Role
from resolver.errors import Conflict, InvalidRequest, UnsupportedMediaType
from resolver.gateway.api.admin import AUDITED, admin_only, allow, audit, role_error
from resolver.gateway.api.batch_body import (
    MAX_BATCH_BYTES,
    object_without_duplicates,
    read_batch,
)
from resolver.gateway.app_keys import ADMIN, HOST, ROLE, SERVICES
from resolver.gateway.problem import json_response
from resolver.gateway.request_body import read_body, read_json
from resolver.glance import GlanceServer, is_resolver
from resolver.glance.diagnosis import FIXES, Step, diagnose, failed_step
from resolver.index import AUDIT_MAX_ENTRIES
from resolver.models import MAX_BITS, MIN_BITS, Poll, format_id, letter_case_of, parse_id
from resolver.registry import BatchRequest, LocationView
from resolver.registry.presentation import rfc3339

MAX_BODY_BYTES = 65_536
"""Longest body that an admin path accepts, but for an import."""

STATE_FIELDS = frozenset({"state", "reason"})
"""What the role ``state`` may change of a location."""


async def read_object(
    request: web.Request,
    *,
    required: bool = True,
    limit: int = MAX_BODY_BYTES,
    read: Callable[[str], Awaitable[Any]] | None = None,
) -> dict[str, Any]:
    """The JSON object in a request's body; an empty one if there is no body and none is
    ``required``. ``read``: reads it where it may be long.

    Raises:
        InvalidRequest: the body is not a JSON object.
        RequestTimeout: the client sent it too slowly.
        UnsupportedMediaType: its ``Content-Type`` is not JSON.
        TooLarge: it is longer than ``limit`` bytes.
    """
    body = await read_body(request, limit)
    if not body and not required:
        return {}
    media = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media not in ("", "application/json", "application/merge-patch+json"):
        # curl -d sends x-www-form-urlencoded. A request that changes something is not guessed at.
        raise UnsupportedMediaType("send JSON with `Content-Type: application/json`")
    try:
        if read is not None:
            value = await read(body.decode("utf-8-sig"))
        else:
            value = read_json(body, object_pairs_hook=object_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest('the body is not JSON: send {"url": "https://…"}') from error
    if not isinstance(value, dict):
        raise InvalidRequest('the body is not a JSON object: send {"url": "https://…"}')
    return value


@admin_only
async def list_locations(request: web.Request) -> web.StreamResponse:
    """GET /locations."""
    return json_response({"locations": await request.app[SERVICES].registry.list()})


@admin_only
async def change_locations(request: web.Request) -> web.StreamResponse:
    """POST /locations: puts and removes many locations, all or none of them if one is wrong;
    with ``dry_run`` none, and it answers what would be changed."""
    services = request.app[SERVICES]
    body = await read_object(request, limit=MAX_BATCH_BYTES, read=read_batch)
    put, remove = body.pop("put", {}), body.pop("remove", [])
    flags = {name: body.pop(name, False) for name in ("keep_other_fields", "dry_run")}
    if (
        body
        or not all(isinstance(flag, bool) for flag in flags.values())
        or not isinstance(put, dict)
        or not all(isinstance(fields, dict) for fields in put.values())
        or not isinstance(remove, list)
        or not all(isinstance(name, str) for name in remove)
        or set(put) & set(remove)
    ):
        raise InvalidRequest(
            'send {"put": {NAME: FIELDS, …}, "remove": [NAME, …]}, each name once, perhaps with '
            '"keep_other_fields": true and "dry_run": true'
        )
    result = await services.registry.apply(
        BatchRequest(
            put=put,
            remove=remove,
            **flags,
            by=request[ADMIN],
            request_host=request[HOST],
        ),
        is_resolver=partial(is_resolver, services.session),
    )
    return json_response(asdict(result))


@admin_only
async def show_location(request: web.Request) -> web.StreamResponse:
    """GET /locations/{name}."""
    registry = request.app[SERVICES].registry
    return json_response(await registry.show(request.match_info["name"]))


@admin_only
async def put_location(request: web.Request) -> web.StreamResponse:
    """PUT /locations/{name}. With ``If-None-Match: *`` (RFC 9110, 13.1.2) it replaces none."""
    name, services = request.match_info["name"], request.app[SERVICES]
    written = await services.registry.put(
        name,
        await read_object(request),
        request_host=request[HOST],
        by=request[ADMIN],
        is_resolver=partial(is_resolver, services.session),
        only_new=request.headers.get("If-None-Match", "").strip() == "*",
    )
    return json_response(
        await services.registry.describe(written.location),
        status=201 if written.is_new else 200,
        headers={"Location": f"/locations/{name}"} if written.is_new else None,
    )


@allow(Role.STATE)
async def patch_location(request: web.Request) -> web.StreamResponse:
    """PATCH /locations/{name}. The role ``state`` may change the state and its reason only."""
    services = request.app[SERVICES]
    fields = await read_object(request)
    if request[ROLE] is Role.STATE and fields.keys() - STATE_FIELDS:
        raise await role_error(request)
    location = await services.registry.patch(
        request.match_info["name"],
        fields,
        request_host=request[HOST],
        by=request[ADMIN],
        is_resolver=partial(is_resolver, services.session),
    )
    return json_response(await services.registry.describe(location))


@admin_only
async def delete_location(request: web.Request) -> web.StreamResponse:
    """DELETE /locations/{name}."""
    await request.app[SERVICES].registry.remove(request.match_info["name"], request[ADMIN])
    return web.Response(status=204)


@allow(Role.CLAIMS, Role.STATE)
async def sweep_location(request: web.Request) -> web.StreamResponse:
    """POST /locations/{name}/sweep."""
    name = request.match_info["name"]
    options = await read_object(request, required=False)
    confirm = options.pop("confirm_shrink", False)
    if options or not isinstance(confirm, bool):
        raise InvalidRequest('a sweep takes nothing, or {"confirm_shrink": true}')
    if confirm and request[ROLE] is not Role.ADMIN:
        raise await role_error(request)
    registry = request.app[SERVICES].registry
    await registry.sweep(name, confirm_shrink=confirm, by=request[ADMIN])
    if confirm:
        request[AUDITED] = {"what": "confirm-shrink"}
    follow = f"/locations/{name}"
    return json_response(
        {"location": name, "follow": follow, "see": "its `sweep`"},
        status=202,
        headers={"Location": follow},
    )


def _age(at: float | None) -> str:
    """How long ago a Unix time was."""
    return f"{max(0.0, time.time() - at):.0f} s ago" if at else "some time ago"


REPAIRABLE_CODES = frozenset({"no-credential", "unauthorized", "unreachable", "bad-tls"})
"""Failures of sweeps and polls that count as repaired once a check succeeds."""


def _past_steps(view: LocationView, poll_interval: float, *, works_now: bool) -> Iterator[Step]:
    """How the last sweep and the last poll of a location ended. ``works_now``: a check with its
    credential has just succeeded, so that what may have been repaired since is not a fault."""
    location, sweep, poll = view.location, view.status.sweep, view.status.poll
    is_repaired = {
        code: works_now and code in REPAIRABLE_CODES for code in (sweep.error_code, poll.error_code)
    }
    repaired = "It works from here now. If it fails again: the indexer lacks what this process has"
    if sweep.error:
        message = f"the last one, {_age(sweep.failed)}, failed: {sweep.error}"
        again = f"`locations sweep {location.name} --wait` begins another"
        failed = failed_step("sweep", location, sweep.error_code, message)
        if is_repaired[sweep.error_code]:
            failed = replace(failed, ok=True, fix=f"{again}. {repaired}")
        elif sweep.error_code not in FIXES:
            failed = replace(failed, fix=again)
        yield failed
    else:
        later = Poll() if is_repaired[poll.error_code] else poll
        now = replace(view, status=replace(view.status, poll=later))
        problem = now.coverage_problem(time.time())
        found = f"{sweep.images} images, its last sweep is complete and fresh"
        if problem and problem == sweep.listing_gap:
            yield failed_step("sweep", location, "listing-gap", problem)
        else:
            yield Step("sweep", not problem, problem or found)
    if poll.error:
        message = f"the last one, {_age(poll.failed)}, failed: {poll.error}"
        failed = failed_step("polls", location, poll.error_code, message)
        if is_repaired[poll.error_code]:
            fix = f"the next one comes within {poll_interval:.0f} s. {repaired}"
            failed = replace(failed, ok=True, fix=fix)
        yield failed


@allow(Role.CLAIMS, Role.STATE)
async def check_location(request: web.Request) -> web.StreamResponse:
    """POST /locations/{name}/check: diagnoses a location, from this process and with its
    credentials."""
    services, name = request.app[SERVICES], request.match_info["name"]
    view = await services.registry.view(name)
    await audit(request, "check", name)  # it sends the location's credential
    services.cloud_credentials.forget_failure(view.location)
    server = GlanceServer(
        services.session, view.location, services.cloud_credentials, services.rate_limits
    )
    steps = await diagnose(server, services.session, was_proven=view.status.sweep.sees_all_proven)
    view = await services.registry.view(name)
    works_now = all(step.ok for step in steps)
    steps += _past_steps(view, services.settings.poll_interval, works_now=works_now)
    sweep = view.status.sweep
    if sweep.skipped:
        rows = f"{sweep.skipped} rows of the listing name no image: {sweep.skipped_examples}"
        steps.append(Step("skipped rows", True, rows))
    return json_response(
        {
            "location": name,
            "ok": all(step.ok for step in steps),
            "steps": [
                {"step": step.name, "ok": step.ok, "said": step.message, "fix": step.fix or None}
                for step in steps
            ],
        }
    )


@admin_only
async def rebuild_index(request: web.Request) -> web.StreamResponse:
    """POST /index/rebuild."""
    body = await read_object(request)
    bits = body.get("bits")
    if set(body) != {"bits"} or type(bits) is not int or not MIN_BITS <= bits <= MAX_BITS:
        raise InvalidRequest(
            f'the number of bits must be from {MIN_BITS} to {MAX_BITS}: {{"bits": N}}'
        )
    index = request.app[SERVICES].index
    if not index.spreads:  # it gets a format then that older versions cannot use
        others = {process.version for process in await index.processes.list()} - {__version__}
        if others:
            raise Conflict(
                f"processes of version {', '.join(sorted(others))} could not use the index after "
                f"the rebuild: replace all by {__version__} first (`glance-resolver members` lists "
                "them)"
            )
    await audit(request, "rebuild", detail=f"to {bits} bits")
    await index.rebuild.request(bits)
    return json_response(
        {"bits": bits, "follow": "/index", "see": "its `rebuild`"},
        status=202,
        headers={"Location": "/index"},
    )


@allow(Role.CLAIMS)
async def claim_image(request: web.Request) -> web.StreamResponse:
    """PUT /locations/{name}/images/{id}."""
    name, text = request.match_info["name"], request.match_info["id"]
    image_id, letter_case = parse_id(text), letter_case_of(text)
    registry = request.app[SERVICES].registry
    await registry.view(name)  # the audit log has no claim of a location that there is not
    await audit(request, "claim", name, format_id(image_id, letter_case))
    new = await registry.claim(name, image_id, letter_case)
    return web.Response(status=201 if new else 204)


@allow(Role.CLAIMS)
async def release_image(request: web.Request) -> web.StreamResponse:
    """DELETE /locations/{name}/images/{id}."""
    name, image_id = request.match_info["name"], parse_id(request.match_info["id"])
    registry = request.app[SERVICES].registry
    await registry.view(name)
    await audit(request, "release", name, format_id(image_id))
    await registry.release(name, image_id)
    return web.Response(status=204)


@admin_only
async def list_members(request: web.Request) -> web.StreamResponse:
    """GET /members: the processes that use the index."""
    processes = await request.app[SERVICES].index.processes.list()
    members = [{**asdict(process), "since": rfc3339(process.since)} for process in processes]
    return json_response({"members": members})


@admin_only
async def audit_log(request: web.Request) -> web.StreamResponse:
    """GET /audit: the last changes, newest first."""
    query = request.query
    if unknown := set(query) - {"location", "limit"}:
        raise InvalidRequest(f"unknown parameter {min(unknown)[:40]!r}: use location or limit")
    limit = query.get("limit", "100")
    if not re.fullmatch(r"[0-9]{1,5}", limit, re.ASCII) or not 1 <= int(limit) <= AUDIT_MAX_ENTRIES:
        raise InvalidRequest(f"limit must be a number from 1 to {AUDIT_MAX_ENTRIES}")
    entries = await request.app[SERVICES].registry.log(int(limit), query.get("location", ""))
    return json_response({"changes": entries})
