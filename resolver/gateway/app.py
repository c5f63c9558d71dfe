"""The application: every route on one screen."""

from __future__ import annotations

from aiohttp import web

from resolver.gateway.api import images, locations, resolve, status, transfer, version_documents
from resolver.gateway.app_keys import IN_FLIGHT, METRICS, SERVICES, TOKENS
from resolver.gateway.limits import LIMITS, Limits
from resolver.gateway.metrics.process_metrics import Metrics
from resolver.gateway.middleware import sign, watch
from resolver.gateway.net.fast_path import FAST_PATH, FastPath
from resolver.gateway.net.in_flight import InFlight
from resolver.gateway.tokens import Tokens
from resolver.services import Services


def watch_routes() -> list[web.RouteDef]:
    """What an indexer answers too."""
    return [
        web.get("/healthcheck", status.healthcheck),
        web.get("/livez", status.livez),
        web.get("/readyz", status.readyz),
        web.get("/metrics", status.metrics),
    ]


def gateway_routes() -> list[web.RouteDef]:
    image = "/{api:v[12]}/images/{id:[^/]+}{rest:(?:/[\\s\\S]*)?}"
    return [
        web.get(image, images.read_image),
        web.route("*", image, images.write_image),
        web.get("/{api:v[12]}/images", images.no_listing),
        web.get("/v1/images/detail", images.no_listing),
        web.get("/resolve/{id:[^/]+}", resolve.resolve_one),
        web.get("/resolve/{id:[^/]+}/explain", resolve.explain),
        web.post("/resolve", resolve.resolve_many),
        web.get("/", version_documents.versions),
        web.get("/versions", version_documents.versions),
        web.get("/{api:v[12]}", version_documents.versions),
        web.get("/{api:v[12]}/", version_documents.versions),
        web.get("/v2/schemas/{schema:[\\s\\S]+}", version_documents.schemas),
        web.get("/locations", locations.list_locations),
        web.get("/locations/{name}", locations.show_location),
        web.put("/locations/{name}", locations.put_location),
        web.patch("/locations/{name}", locations.patch_location),
        web.delete("/locations/{name}", locations.delete_location),
        web.post("/locations/{name}/check", locations.check_location),
        web.post("/locations/{name}/sweep", locations.sweep_location),
        web.put("/locations/{name}/images/{id:[^/]+}", locations.claim_image),
        web.delete("/locations/{name}/images/{id:[^/]+}", locations.release_image),
        web.get("/audit", locations.audit_log),
        web.get("/index", status.index_figures),
        web.get("/index/export", transfer.export_index, allow_head=False),
        web.post("/index/import", transfer.import_index),
        web.post("/index/rebuild", locations.rebuild_index),
        web.get("/openapi.json", status.openapi),
    ]


def make_app(services: Services) -> web.Application:
    """The app of one process, for its role."""
    app = web.Application(middlewares=[watch])
    app[SERVICES] = services
    app[IN_FLIGHT] = in_flight = InFlight()
    app[TOKENS] = Tokens(services.settings)
    app[METRICS] = metrics = Metrics(
        services.tables, services.indexer.stats, in_flight, services.prober.counts
    )
    metrics.without_index = lambda: bool(services.resolver.breaker.why or services.bootstrap.fault)
    app[status.COUNTER] = status.Counter(services.index)
    app.on_response_prepare.append(sign)
    app.add_routes(watch_routes())
    if services.settings.role != "indexer":
        app.add_routes(gateway_routes())
        settings = services.settings
        app[LIMITS] = Limits(settings.client_rate, settings.trusted_proxies)
        app[resolve.BODY_BUDGET] = resolve.BodyBudget(settings.bulk_limit * resolve.MAX_ITEM)
        app[FAST_PATH] = FastPath(
            services.resolver,
            metrics,
            in_flight,
            home=settings.region,
            log=settings.access_log == "all",
        )
    return app
