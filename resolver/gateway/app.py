"""The aiohttp application: every route on one screen.

It is an ordinary application. The server puts a front before it that answers most reads by itself,
but every route works without one, under `aiohttp.web.AppRunner` and aiohttp's test client.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from resolver.errors import NotFound
from resolver.gateway.access_log import AccessLog
from resolver.gateway.api import (
    any_location,
    image_listing,
    image_lookup,
    images,
    locations,
    proxy_route,
    reports,
    resolve,
    status,
    status_page,
    transfer,
    version_documents,
)
from resolver.gateway.api.admin import REFUSED_CHANGES, REFUSED_LOGINS, Refusals, RefusalsByToken
from resolver.gateway.api.image_listing import LISTING_PATH
from resolver.gateway.app_keys import (
    ACCESS_LOG,
    BROWSER_GUARD,
    IN_FLIGHT,
    METRICS,
    SERVICES,
    TOKENS,
)
from resolver.gateway.bounded_render import BoundedRender
from resolver.gateway.browser_guard import BrowserGuard
from resolver.gateway.clients import Clients
from resolver.gateway.image_path import REGION_ROUTE, ROUTE, V1_LISTING
from resolver.gateway.limits import LIMITS, Limits
from resolver.gateway.metrics.process_metrics import Metrics
from resolver.gateway.metrics.worker_metrics import WorkerMetrics
from resolver.gateway.middleware import observe, sign
from resolver.gateway.net.connection_limiter import ConnectionLimiter
from resolver.gateway.net.in_flight import InFlight
from resolver.gateway.page.snapshot import SnapshotCache
from resolver.gateway.tokens import Tokens
from resolver.services import Services
from resolver.settings import Settings

SHARED: tuple[web.AppKey[Any], ...] = (
    *(SERVICES, IN_FLIGHT, TOKENS, LIMITS, REFUSED_LOGINS, REFUSED_CHANGES),
    *(ACCESS_LOG, METRICS, BROWSER_GUARD),
    *(status.CENSUS_CACHE, status.METRICS_RENDER, status.INDEX_RENDER),
    *(status_page.SNAPSHOTS, status_page.STREAMS),
)
"""What the applications of both ports have."""


def health_routes() -> list[web.RouteDef]:
    """What every port of every process answers."""
    return [
        web.get("/healthcheck", status.healthcheck),
        web.get("/livez", status.livez),
        web.get("/readyz", status.readyz),
    ]


def metrics_routes() -> list[web.RouteDef]:
    """For monitoring."""
    return [web.get("/status", status.show_status), web.get("/metrics", status.metrics)]


def monitoring_routes() -> list[web.RouteDef]:
    """What an indexer answers too."""
    return [*health_routes(), *metrics_routes()]


def glance_routes(prefix: str = "") -> list[web.RouteDef]:
    """The paths that Glance has, below a prefix."""
    return [
        web.get(prefix + V1_LISTING, image_listing.no_listing),
        web.get(prefix + ROUTE, images.read_image),
        web.route("*", prefix + ROUTE, images.write_image),
        web.get(prefix + "/v1/images", image_listing.no_listing),
        web.get(prefix + LISTING_PATH, image_listing.list_images, allow_head=False),
        web.get(prefix + "/versions", version_documents.versions),
        web.get(prefix + "/{api:v[12]}", version_documents.versions),
        web.get(prefix + "/{api:v[12]}/", version_documents.versions),
        *(
            web.get(f"{prefix}/v2/{name}{{rest:(?:/[\\s\\S]*)?}}", any_location.redirect_to_any)
            for name in any_location.ANY_LOCATION_NAMES
        ),
        web.route("*", prefix + "/{api:v[12]}/{path:[\\s\\S]+}", any_location.answer_other_path),
    ]


def gateway_routes() -> list[web.RouteDef]:
    """What only a gateway answers."""
    return [*client_routes(), *page_routes(), *admin_routes()]


def client_routes() -> list[web.RouteDef]:
    """For clients of Glance, and for services that resolve ids. They only read."""
    return [
        *glance_routes(),
        web.get(REGION_ROUTE, version_documents.versions),
        web.get(REGION_ROUTE + "/", version_documents.versions),
        *glance_routes(REGION_ROUTE),
        web.get("/route/{path:[\\s\\S]+}", proxy_route.route_request, allow_head=False),
        web.get("/resolve/{id:[^/]+}", images.read_image),
        web.get("/resolve/{id:[^/]+}/explain", resolve.explain_one),
        web.get("/resolve", image_lookup.look_up_images, allow_head=False),
        web.post("/resolve", resolve.resolve_many),
        web.get("/openapi.json", status.openapi),
    ]


def page_routes() -> list[web.RouteDef]:
    """The status page."""
    return [
        web.get("/", status_page.root),
        web.get("/page/events", status_page.page_events, allow_head=False),
        web.get("/page/{file}", status_page.page_file),
    ]


def admin_routes() -> list[web.RouteDef]:
    """For operators."""
    return [
        web.get("/locations", locations.list_locations),
        web.post("/locations", locations.change_locations),
        web.get("/locations/{name}", locations.show_location),
        web.put("/locations/{name}", locations.put_location),
        web.patch("/locations/{name}", locations.patch_location),
        web.delete("/locations/{name}", locations.delete_location),
        web.post("/locations/{name}/check", locations.check_location),
        web.post("/locations/{name}/sweep", locations.sweep_location),
        web.put("/locations/{name}/images/{id:[^/]+}", locations.claim_image),
        web.delete("/locations/{name}/images/{id:[^/]+}", locations.release_image),
        web.get("/audit", locations.audit_log),
        web.get("/members", locations.list_members),
        web.get("/report/conflicts", reports.report_conflicts, allow_head=False),
        web.get("/report/missing", reports.report_missing, allow_head=False),
        web.get("/index", status.index_totals),
        web.get("/index/export", transfer.export_index, allow_head=False),
        web.post("/index/import", transfer.import_index),
        web.post("/index/rebuild", locations.rebuild_index),
    ]


async def moved(_: web.Request) -> web.StreamResponse:
    """A path that is on the other port."""
    raise NotFound(
        "this path is on the management port of this gateway (RESOLVER_MANAGEMENT_PORT)",
        headers={"Vary": "Accept"},
    )


async def not_moved(request: web.Request) -> web.StreamResponse:
    """A path for clients, at the management port."""
    settings = request.app[SERVICES].settings
    where = settings.public_url or f"RESOLVER_PORT {settings.port}"
    raise NotFound(
        f"this path is on the other port of this gateway, which is for clients ({where}): ask "
        "there (commands: --gateway or RESOLVER_URL)",
        headers={"Vary": "Accept"},
    )


def make_app(
    services: Services,
    *,
    limiter: ConnectionLimiter | None = None,
    worker_metrics: WorkerMetrics | None = None,
) -> web.Application:
    """The application of one process, for its role.

    Args:
        limiter: the connections of the server that serves it, for the metrics.
        worker_metrics: the other workers of that server.
    """
    settings = services.settings
    app = web.Application(middlewares=[observe])
    app[SERVICES] = services
    app[IN_FLIGHT] = in_flight = InFlight()
    app[TOKENS] = tokens = Tokens(settings)
    services.problems.add_source(tokens.problems)
    clients = Clients(settings.trusted_proxies, settings.public_url)
    app[LIMITS] = Limits(settings.client_rate, clients)
    app[REFUSED_LOGINS] = Refusals(services.index.audit, "login refused")
    app[REFUSED_CHANGES] = RefusalsByToken(services.index.audit, "change refused")
    app.on_cleanup.append(_report_refusals)
    app[ACCESS_LOG] = AccessLog(settings.access_log)
    app[BROWSER_GUARD] = BrowserGuard(settings.public_url, settings.hosts)
    app[METRICS] = Metrics(
        services.tables,
        services.indexer.stats,
        in_flight,
        services.prober,
        services.index.client,
        limiter or ConnectionLimiter(settings.max_connections),
        services.problems,
        without_index=lambda: bool(services.resolver.breaker.error or services.bootstrap.fault),
        without_tracking=lambda: bool(services.index.client.tracking_error()),
        redis_may_evict=lambda: services.index.server_watch.may_evict,
        without_indexer=services.indexer_watch.is_gone,
        worker_metrics=worker_metrics,
    )
    app[status.CENSUS_CACHE] = status.CensusCache(services.index)
    app[status.METRICS_RENDER], app[status.INDEX_RENDER] = BoundedRender(), BoundedRender()
    app[status.PATHS_HERE] = status.PathChoice(_moved_paths(settings), only=False)
    app.on_response_prepare.append(sign)
    if settings.role != "indexer":
        largest_body = settings.bulk_limit * resolve.MAX_ITEM_BYTES
        app[status_page.SNAPSHOTS] = SnapshotCache(services)
        app[status_page.STREAMS] = status_page.Streams()
        app[resolve.BODY_BUDGET] = resolve.BodyBudget(largest_body)
    app.add_routes(_routes(settings))
    return app


async def _report_refusals(app: web.Application) -> None:
    await app[REFUSED_LOGINS].close()
    await app[REFUSED_CHANGES].close()


def _routes(settings: Settings) -> list[web.RouteDef]:
    """Those of the one port, or of that for clients if there are two."""
    is_gateway = settings.role != "indexer"
    if settings.management_port is None:
        return [*monitoring_routes(), *(gateway_routes() if is_gateway else ())]
    elsewhere = [*metrics_routes(), *(admin_routes() if is_gateway else ())]
    return [
        *health_routes(),
        *(client_routes() if is_gateway else ()),
        *([web.get("/", version_documents.versions)] if is_gateway else ()),
        *(web.route("*", path, moved) for path in sorted({route.path for route in elsewhere})),
    ]


def make_management_app(app: web.Application) -> web.Application:
    """The application of the management port. ``app``: that of the other port, of which it shares
    everything but the routes."""
    management = web.Application(middlewares=[observe])
    for key in SHARED:
        if key in app:
            management[key] = app[key]
    management.on_response_prepare.append(sign)
    management.add_routes(monitoring_routes())
    settings = app[SERVICES].settings
    if settings.role == "indexer":
        return management
    openapi = web.get("/openapi.json", status.openapi)
    management.add_routes([*page_routes(), *admin_routes(), openapi])
    if settings.public_url:  # so that it is known where clients find the other port
        management.add_routes([web.get("/versions", version_documents.versions)])
    here = frozenset(resource.canonical for resource in management.router.resources())
    management[status.PATHS_HERE] = status.PathChoice(here, only=True)
    elsewhere = {route.path for route in client_routes()} - {openapi.path}
    management.add_routes(web.route("*", path, not_moved) for path in sorted(elsewhere))
    return management


def _moved_paths(settings: Settings) -> frozenset[str]:
    """What the management port has and the port for clients lacks, as in `openapi.yaml`: without
    the patterns of parts of a path."""
    if settings.management_port is None:
        return frozenset()
    router = web.UrlDispatcher()
    router.add_routes([*metrics_routes(), *page_routes(), *admin_routes()])
    return frozenset(resource.canonical for resource in router.resources()) - {"/"}
