"""The application: every route on one screen."""

from __future__ import annotations

from aiohttp import web

from resolver.gateway import admin, dump, images, resolve, status, versions
from resolver.gateway.door import DOOR, Door
from resolver.gateway.keys import METRICS, SERVICES, TOKENS, TRAFFIC
from resolver.gateway.limits import LIMITS, Limits
from resolver.gateway.metrics import Metrics
from resolver.gateway.middleware import sign, watch
from resolver.gateway.tokens import Tokens
from resolver.gateway.traffic import Traffic
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
        web.get("/", versions.versions),
        web.get("/versions", versions.versions),
        web.get("/{api:v[12]}", versions.versions),
        web.get("/{api:v[12]}/", versions.versions),
        web.get("/v2/schemas/{schema:[\\s\\S]+}", versions.schemas),
        web.get("/locations", admin.list_locations),
        web.get("/locations/{name}", admin.show_location),
        web.put("/locations/{name}", admin.put_location),
        web.patch("/locations/{name}", admin.patch_location),
        web.delete("/locations/{name}", admin.delete_location),
        web.post("/locations/{name}/check", admin.check_location),
        web.post("/locations/{name}/sweep", admin.sweep_location),
        web.put("/locations/{name}/images/{id:[^/]+}", admin.claim_image),
        web.delete("/locations/{name}/images/{id:[^/]+}", admin.release_image),
        web.get("/audit", admin.audit_log),
        web.get("/index", status.index_figures),
        web.get("/index/export", dump.export_index, allow_head=False),
        web.post("/index/import", dump.import_index),
        web.post("/index/rebuild", admin.rebuild_index),
        web.get("/openapi.json", status.openapi),
    ]


def make_app(services: Services) -> web.Application:
    """The app of one process, for its role."""
    app = web.Application(middlewares=[watch])
    app[SERVICES] = services
    app[TRAFFIC] = traffic = Traffic()
    app[TOKENS] = Tokens(services.settings)
    app[METRICS] = metrics = Metrics(
        services.tables, services.indexer.stats, traffic, services.asker.counts
    )
    metrics.without_index = lambda: bool(services.resolver.breaker.why or services.upkeep.fault)
    app[status.COUNTER] = status.Counter(services.index)
    app.on_response_prepare.append(sign)
    app.add_routes(watch_routes())
    if services.settings.role != "indexer":
        app.add_routes(gateway_routes())
        settings = services.settings
        app[LIMITS] = Limits(settings.client_rate, settings.trusted_proxies)
        app[resolve.BODIES] = resolve.Bodies(settings.bulk_limit * resolve.MAX_ITEM)
        app[DOOR] = Door(
            services.resolver,
            metrics,
            traffic,
            home=settings.region,
            log=settings.access_log == "all",
        )
    return app
