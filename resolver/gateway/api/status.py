"""Health, readiness and metrics for machines, and the size of the index."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from functools import cache, partial
from importlib import resources
from typing import Any, NamedTuple

from aiohttp import web

from resolver import __version__
from resolver.errors import IndexUnavailable
from resolver.gateway.app_keys import IN_FLIGHT, METRICS, SERVICES
from resolver.gateway.bounded_render import BoundedRender
from resolver.gateway.problem import json_reply, json_response, problem
from resolver.gateway.reply import NO_STORE, Reply, to_response
from resolver.index import Census, Index
from resolver.registry import Table
from resolver.registry.presentation import location_counts, rfc3339
from resolver.resolution.answer import join_briefly
from resolver.services import Services

READY_TIMEOUT_SECONDS = 1.0
"""How long Redis may take to answer before this process counts as not ready."""

INDEXER_STALLED_SECONDS = 60.0
"""How long after its last tick the indexer counts as stalled."""

CENSUS_SHARE = 20
"""A census is reused for this many times the time that it took, so that counting takes at most a
twentieth of Redis."""


class CensusCache:
    """The last census of the index, taken again when it is old enough; one at a time."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._lock = asyncio.Lock()
        self._last: Census | None = None

    async def census(self) -> Census:
        """The current counts, or recent ones where counting takes long."""
        async with self._lock:
            last = self._last
            if last is None or abs(time.time() - last.at) > CENSUS_SHARE * last.seconds:
                self._last = last = await self._index.census()
            return last


CENSUS_CACHE = web.AppKey("census_cache", CensusCache)


METRICS_RENDER = web.AppKey("metrics_render", BoundedRender[bytes])
INDEX_RENDER = web.AppKey("index_render", BoundedRender[Reply])


HEALTHY = Reply(200, {**NO_STORE, "Content-Type": "text/plain; charset=utf-8"}, b"OK")
"""As Glance's own ``/healthcheck`` answers."""


@cache
def live_reply() -> Reply:
    """What ``/livez`` answers."""
    return json_reply({"live": True, "version": __version__})


async def healthcheck(_: web.Request) -> web.StreamResponse:
    """``OK`` while the process answers."""
    return to_response(HEALTHY)


async def livez(_: web.Request) -> web.StreamResponse:
    return to_response(live_reply())


async def readyz(request: web.Request) -> web.StreamResponse:
    """503 while this process cannot answer clients, and from SIGTERM on; the body says why. A
    gateway answers from memory, too: an outage of Redis must not make a load balancer drop all."""
    services = request.app[SERVICES]
    can_answer = services.settings.role != "indexer" and _answers_from_memory(services)
    faults = {} if can_answer else await _faults(services)
    if request.app[IN_FLIGHT].draining:
        faults["stopping"] = "this process is about to stop"
    if faults:
        return to_response(
            problem(
                503,
                "not-ready",
                "Not ready",
                "; ".join(faults.values()),
                extra={"ready": False, "faults": faults},
                headers={"Retry-After": "2"},
            )
        )
    return json_response({"ready": True, "role": services.settings.role})


def _answers_from_memory(services: Services) -> bool:
    """Whether this process knows locations by which it can answer without Redis."""
    return services.tables.recent(services.settings.stale_for) is not None


async def _faults(services: Services) -> dict[str, str]:
    faults = {}
    try:
        async with asyncio.timeout(READY_TIMEOUT_SECONDS):
            await services.index.ping()
    except IndexUnavailable as error:
        faults["index"] = error.detail
    except TimeoutError:
        faults["index"] = f"Redis did not answer within {READY_TIMEOUT_SECONDS:g} s"
    if services.bootstrap.fault:
        faults.setdefault("index", services.bootstrap.fault)
    last = services.indexer.stats.last_tick
    is_indexer = services.settings.role == "indexer"
    if is_indexer and last and time.time() - last > INDEXER_STALLED_SECONDS:
        faults["indexer"] = f"its last tick was {time.time() - last:.0f} s ago"
    return faults


async def show_status(request: web.Request) -> web.StreamResponse:
    """GET /status: 200 whatever is wrong. It waits for Redis no longer than any request."""
    services = request.app[SERVICES]
    # An idle gateway has read no table since the last request.
    with contextlib.suppress(IndexUnavailable):
        await services.tables.current(services.settings.index_timeout)
    return json_response(
        {
            "version": __version__,
            "role": services.settings.role,
            "locations": location_counts(services.tables.table, time.time()),
            "problems": [
                {
                    "code": found.code,
                    "since": rfc3339(found.since),
                    "text": found.text,
                    "action": found.action,
                    "location": found.location or None,
                    "includes": found.includes,
                }
                for found in services.problems.current()
            ],
        }
    )


async def _render_metrics(request: web.Request) -> bytes:
    # The metrics of locations come from the table, which an idle gateway must refresh.
    with contextlib.suppress(IndexUnavailable):
        await request.app[SERVICES].tables.current(READY_TIMEOUT_SECONDS)
    return await request.app[METRICS].render()


async def metrics(request: web.Request) -> web.StreamResponse:
    """GET /metrics, rendered at most once a second in the long run."""
    return web.Response(
        body=await request.app[METRICS_RENDER].get(partial(_render_metrics, request)),
        headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8", **NO_STORE},
    )


async def index_totals(request: web.Request) -> web.StreamResponse:
    """GET /index, counted at most once a second in the long run."""
    return to_response(await request.app[INDEX_RENDER].get(partial(_index_reply, request)))


async def _index_reply(request: web.Request) -> Reply:
    services = request.app[SERVICES]
    census = await request.app[CENSUS_CACHE].census()
    table = await services.tables.fresh()
    rebuild = await services.index.rebuild.progress()
    now = time.time()
    locations: dict[str, Any] = {}
    for view in table.by_name.values():
        coverage = view.coverage(now)
        locations[view.name] = {
            "claims": census.claims.get(view.location.number, 0),
            "listed": view.status.sweep.images,
            "swept": rfc3339(view.status.sweep.ended),
            "covered": coverage.pop("covered"),
            "coverage": coverage.pop("why"),
            **coverage,
        }
    doubts = table.coverage_problems(now)
    return json_reply(
        {
            "at": rfc3339(census.at),
            "images": census.images,
            "claims": sum(row["claims"] for row in locations.values()),
            "conflicts": census.conflicts,
            "bytes": census.bytes,
            "bits": services.index.bits,
            "spread": services.index.spreads,
            "rebuild": None if rebuild is None else {"bits": rebuild[0], "done": rebuild[1]},
            "buckets": {
                "all": services.index.buckets,
                "used": census.buckets,
                "fullest": census.fullest,
            },
            "uncollected": sum(
                count for number, count in census.claims.items() if number not in table.by_number
            ),
            "covered": bool(table.vouching()) and not doubts,
            "missing": sorted(doubts),
            "why": _why_uncovered(table, doubts),
            "locations": locations,
        }
    )


def _why_uncovered(table: Table, doubts: Mapping[str, str]) -> str:
    """Why the index proves of no image that it is absent; empty where it does."""
    if doubts:
        return join_briefly(f"{name}: {doubts[name]}" for name in sorted(doubts))
    if not table.in_service():
        return "no location is registered and in service"
    return "" if table.vouching() else "no location vouches for what it lacks"


@cache
def openapi_document() -> Any:
    """The description of the HTTP interface, from `openapi.yaml`."""
    import yaml  # noqa: PLC0415 - few ask for this, and every start would wait for it

    text = (resources.files("resolver.gateway.api") / "openapi.yaml").read_text("utf-8")
    # Meanwhile other requests wait: 20 ms with libyaml, 150 without it.
    document = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    document["info"]["version"] = __version__
    return document


class PathChoice(NamedTuple):
    """Which paths of `openapi.yaml` a port has."""

    paths: frozenset[str]
    only: bool
    """Whether it has these only, or all but these."""


PATHS_HERE = web.AppKey("paths_here", PathChoice)


@cache
def openapi_reply(server_url: str, here: PathChoice) -> Reply:
    """What ``/openapi.json`` answers. ``server_url``: where clients find this gateway; empty for
    where they find the document. ``here``: what this port has."""
    document = openapi_document()
    paths = document["paths"].items()
    is_here = {path: item for path, item in paths if (path in here.paths) == here.only}
    document = {**document, "paths": is_here}
    if server_url:
        document = {**document, "servers": [{**document["servers"][0], "url": server_url}]}
    return json_reply(document)


async def openapi(request: web.Request) -> web.StreamResponse:
    """GET /openapi.json. The public URL is that of the port for clients."""
    here = request.app[PATHS_HERE]
    public_url = "" if here.only else request.app[SERVICES].settings.public_url
    if not openapi_document.cache_info().currsize:
        await asyncio.to_thread(openapi_reply, public_url, here)  # 50 ms, once
    return to_response(openapi_reply(public_url, here))
