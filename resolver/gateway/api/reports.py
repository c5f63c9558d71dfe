"""``/report/…``: lists of images, as streams of JSON lines in constant memory."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Collection, Container, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import NamedTuple
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from resolver.errors import InvalidImageId, InvalidRequest, NotFound, ResolverError
from resolver.gateway.api.admin import admin_only
from resolver.gateway.api.image_listing import missing_header
from resolver.gateway.api.transfer import reset_connection
from resolver.gateway.app_keys import SERVICES
from resolver.gateway.negotiation import AUTH_TOKEN, NDJSON, REGION
from resolver.gateway.reply import NO_STORE
from resolver.index import walk
from resolver.listing import Advice, ListingQuery
from resolver.listing.query import MAX_LIMIT
from resolver.listing.rows import Row
from resolver.models import format_id, parse_stored_id
from resolver.registry import Table
from resolver.resolution.image_reports import Describe, Report, conflict_row, missing_in
from resolver.resolution.ranking import Preferences, owners_of
from resolver.turns import parts_of

ROWS_PER_STEP = 32
"""Images that are looked at before other tasks get a turn: some 3 ms, where each is at many
locations."""

FILTERS = ("tag", "name", "min_age")
"""What chooses the images that a region may lack. Several tags must all be there."""

ADVICE = Advice(
    f"{REGION} (the command: --token-region), or leave {AUTH_TOKEN} (OS_TOKEN) out, and each "
    "location is asked with its own credential"
)

_AGE = re.compile(r"([0-9]{1,9})([smhdw]?)", re.ASCII)
_AGE_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604_800}

Lines = AsyncGenerator[str, None]
"""Parts of a report, each of some whole lines or none."""

log = structlog.get_logger()


@admin_only
async def report_conflicts(request: web.Request) -> web.StreamResponse:
    """GET /report/conflicts."""
    _parameters(request, ())
    table = await request.app[SERVICES].tables.fresh()
    async with aclosing(_lines(request, table, conflict_row)) as lines:
        return await _stream(request, lines, table.uncovered(time.time()))


@admin_only
async def report_missing(request: web.Request) -> web.StreamResponse:
    """GET /report/missing?region=NAME. ``tag``, ``name`` and ``min_age`` choose images: each
    location lists those that match to its own credential, or, with ``X-Auth-Token``, the locations
    of one Keystone list them to its holder."""
    pairs = _parameters(request, ("region", *FILTERS))
    region = dict(pairs).get("region", "")
    if not region:
        raise InvalidRequest("name the region that lacks the images: ?region=NAME")
    wanted = _wanted(pairs, time.time())
    table = await request.app[SERVICES].tables.fresh()
    there = [view for view in table.by_name.values() if view.location.region == region]
    if not there:
        regions = sorted({view.location.region for view in table.by_name.values()} - {""})
        raise NotFound(
            f"no location is in region {region[:80]!r}; there are: {', '.join(regions) or 'none'}",
            code="region-not-found",
        )
    doubtful = table.uncovered(time.time()) & {view.name for view in there}
    doubtful |= table.lost_locations().keys()  # of any region
    describe = missing_in(region, {view.location.domain for view in there})
    lines = _lines(request, table, describe)
    if wanted is not None:
        lines = _lines_of_listed(request, wanted, describe, doubtful)
    async with aclosing(lines):
        return await _stream(request, lines, doubtful)


class Wanted(NamedTuple):
    """Which images a report is about."""

    query: ListingQuery
    """What locations are asked for."""
    name_pattern: str
    """A pattern that names must match too, with the wildcards of a shell; empty for all."""


def _wanted(pairs: Sequence[tuple[str, str]], now: float) -> Wanted | None:
    """The images that the parameters choose; None for all.

    Raises:
        InvalidRequest: an age is malformed.
    """
    chosen = [(name, value) for name, value in pairs if name in FILTERS]
    if not chosen:
        return None
    filters, pattern = [("sort", "id:asc"), ("limit", str(MAX_LIMIT))], ""
    for name, value in chosen:
        if name == "min_age":
            created = datetime.fromtimestamp(max(now - _parse_age(value), 0), UTC)
            filters.append(("created_at", f"lte:{created:%Y-%m-%dT%H:%M:%SZ}"))
        elif name == "name" and any(wildcard in value for wildcard in "*?["):
            pattern = value
        else:
            filters.append((name, value))
    return Wanted(ListingQuery.of(filters), pattern)


def _parse_age(text: str) -> int:
    """Seconds. Raises InvalidRequest."""
    match = _AGE.fullmatch(text)
    if match is None:
        raise InvalidRequest("min_age is a number of seconds, or one with s, m, h, d or w: 30d")
    return int(match[1]) * _AGE_UNITS[match[2]]


def _parameters(request: web.Request, names: Container[str]) -> list[tuple[str, str]]:
    """Raises InvalidRequest for a parameter that is not one of ``names``."""
    sent = parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)
    for name, _ in sent:
        if name not in names:
            raise InvalidRequest(f"unknown parameter {name[:40]!r}")
    return sent


async def _lines(request: web.Request, table: Table, describe: Describe) -> Lines:
    """The lines about all images of the index."""
    report = Report(table, describe)
    async for rows in walk(request.app[SERVICES].index.claims):
        for part in parts_of(rows, ROWS_PER_STEP):
            yield "".join(report.lines(part))


async def _lines_of_listed(
    request: web.Request, wanted: Wanted, describe: Describe, doubtful: set[str]
) -> Lines:
    """The lines about images that locations list to the client's token; without one, each to its
    own credential. The names of locations that are left out go to ``doubtful``.

    Raises:
        ResolverError: of a listing; see `resolver.listing.lister.Lister.page`.
    """
    services, query = request.app[SERVICES], wanted.query
    token = request.headers.get(AUTH_TOKEN) or None
    preferences = Preferences(request.headers.get(REGION, "") if token else "")
    while True:
        page = await services.lister.page(query, token, preferences, ADVICE)
        doubtful.update(page.missing)
        ids = [image_id for row, _ in page.rows if (image_id := _wanted_id(row, wanted))]
        table, claims = await services.resolver.reader.read(ids)
        rows = [
            describe(owners, image_id, format_id(image_id))
            for image_id, some in zip(ids, claims, strict=True)
            if (owners := owners_of(table, some))
        ]
        yield "".join(f"{json.dumps(row)}\n" for row in rows if row)
        if not page.next_marker:
            return
        query = replace(query, marker=page.next_marker)


def _wanted_id(row: Row, wanted: Wanted) -> bytes | None:
    """The id of a listed image; None where it is not wanted, or has an id that is not a UUID."""
    if wanted.name_pattern and not fnmatchcase(row.name or "", wanted.name_pattern):
        return None
    try:
        return parse_stored_id(row.id)[0]
    except InvalidImageId:
        return None


async def _stream(
    request: web.Request, parts: Lines, doubtful: Collection[str]
) -> web.StreamResponse:
    """Streams the lines. ``doubtful``: names of locations about which they may be wrong, once the
    first part is there. If Redis or a location fails meanwhile, the connection is closed before
    the body's end, so that the client sees that it is not complete."""
    part = await anext(parts, None)  # an error before the first byte has a status of its own
    headers = {**NO_STORE, "Content-Type": NDJSON, **missing_header(sorted(doubtful))}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    try:
        while part is not None:
            if part:
                await response.write(part.encode())
            await asyncio.sleep(0)
            part = await anext(parts, None)
    except ResolverError as error:
        log.warning("report stopped", reason=str(error))
        reset_connection(request)
    except ConnectionError:  # the client disconnected
        reset_connection(request)
    return response
