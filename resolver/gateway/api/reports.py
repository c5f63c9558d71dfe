"""``/report/…``: lists of images, as streams of JSON lines in constant memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container
from urllib.parse import parse_qsl

import structlog
from aiohttp import web

from resolver.errors import InvalidRequest, NotFound, ResolverError
from resolver.gateway.api.admin import admin_only
from resolver.gateway.api.transfer import next_rows, reset_connection
from resolver.gateway.app_keys import SERVICES
from resolver.gateway.reply import NO_STORE
from resolver.index import walk
from resolver.registry import Table
from resolver.resolution.image_reports import Describe, Report, conflict_row, missing_in

NDJSON = "application/x-ndjson"

MISSING = "X-Resolver-Missing"
"""Names the locations that are not covered, so that the report may be wrong about them."""

MAX_NAMES = 30
"""Locations that `MISSING` names. Each takes at most 64 bytes, and nginx accepts 4 KiB of header
fields."""

ROWS_PER_WRITE = 1024
"""Images that are looked at before other tasks get a turn: some 3 ms."""

log = structlog.get_logger()


@admin_only
async def report_conflicts(request: web.Request) -> web.StreamResponse:
    """GET /report/conflicts."""
    _parameters(request, ())
    table = await request.app[SERVICES].tables.fresh()
    return await _stream(request, table, conflict_row, table.coverage_problems(time.time()))


@admin_only
async def report_missing(request: web.Request) -> web.StreamResponse:
    """GET /report/missing?region=NAME."""
    region = _parameters(request, ("region",)).get("region", "")
    if not region:
        raise InvalidRequest("name the region that lacks the images: ?region=NAME")
    table = await request.app[SERVICES].tables.fresh()
    there = {view.name for view in table.by_name.values() if view.location.region == region}
    if not there:
        regions = sorted({view.location.region for view in table.by_name.values()} - {""})
        raise NotFound(
            f"no location is in region {region[:80]!r}; there are: {', '.join(regions) or 'none'}",
            code="region-not-found",
        )
    problems = table.coverage_problems(time.time())
    return await _stream(request, table, missing_in(region), problems.keys() & there)


def _parameters(request: web.Request, names: Container[str]) -> dict[str, str]:
    """Raises InvalidRequest for a parameter that is not one of ``names``."""
    sent = dict(parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True))
    for name in sent:
        if name not in names:
            raise InvalidRequest(f"unknown parameter {name[:40]!r}")
    return sent


async def _stream(
    request: web.Request, table: Table, describe: Describe, not_covered: Container[str]
) -> web.StreamResponse:
    """Streams the lines. If Redis fails meanwhile, the connection is closed before the body's end,
    so that the client sees that it is not complete."""
    report = Report(table, describe)
    batches = walk(request.app[SERVICES].index.claims)
    rows = await next_rows(batches)  # an error before the first byte has a status of its own
    headers = {**NO_STORE, "Content-Type": NDJSON}
    names = [name for name in sorted(table.by_name) if name in not_covered]
    if names:
        headers[MISSING] = ",".join(names[:MAX_NAMES])
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    try:
        while rows:
            for start in range(0, len(rows), ROWS_PER_WRITE):
                text = "".join(report.lines(rows[start : start + ROWS_PER_WRITE]))
                if text:
                    await response.write(text.encode())
                await asyncio.sleep(0)
            rows = await next_rows(batches)
    except ResolverError as error:
        log.warning("report stopped", reason=str(error))
        reset_connection(request)
    except ConnectionError:  # the client disconnected
        reset_connection(request)
    return response
