"""What Glance clients ask before they ask for an image: version documents and schemas."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from resolver.errors import ImageUnknown
from resolver.gateway.api.images import clean_target, preferences_of
from resolver.gateway.app_keys import SERVICES
from resolver.gateway.problem import NO_STORE, json_response
from resolver.models import Health, State
from resolver.registry import LocationView, Table
from resolver.resolution import Preferences

BASE_MINOR = 2
"""The v2.N named while no location's is known: Icehouse's, which every v2 client can do with."""


def document(table: Table, base: str) -> dict[str, Any]:
    """Glance's versions document for this gateway at ``base``.

    It names what every location can do: v2 up to the lowest of their minor versions, v1 where one
    still serves it. Links name the gateway.
    """
    minors = [view.minor for view in table.in_service() if view.minor >= 0]
    highest = min(minors, default=BASE_MINOR)
    versions = [("v2", n) for n in range(highest, -1, -1)]
    if any(p.serves is not None and p.serves[0] for p in table.in_service()):
        versions += [("v1", 1), ("v1", 0)]
    return {
        "versions": [
            {
                "id": f"{api}.{minor}",
                "status": "CURRENT" if i == 0 else "DEPRECATED" if api == "v1" else "SUPPORTED",
                "links": [{"rel": "self", "href": f"{base}/{api}/"}],
            }
            for i, (api, minor) in enumerate(versions)
        ]
    }


async def versions(request: web.Request) -> web.StreamResponse:
    """``/`` answers 300 as Glance does, the others 200: clients take either."""
    services = request.app[SERVICES]
    base = services.settings.public_url or f"{request.scheme}://{request.host}"
    table = await services.tables.current(services.settings.index_timeout)
    return json_response(document(table, base), status=300 if request.path == "/" else 200)


def _choice(
    view: LocationView, preferences: Preferences, home: str
) -> tuple[bool, bool, bool, bool, int, str]:
    location = view.location
    return (
        view.health is Health.DOWN,
        location.state is not State.ACTIVE,
        bool(preferences.region) and location.region != preferences.region,
        bool(home) and location.region != home,
        location.priority,
        view.name,
    )


async def schemas(request: web.Request) -> web.StreamResponse:
    """307 to a healthy location that serves v2."""
    services = request.app[SERVICES]
    preferences = preferences_of(request)
    path, query = clean_target(request)
    views = [
        view
        for view in (await services.tables.current(services.settings.index_timeout)).in_service()
        if (view.serves is None or view.serves[1]) and view.name not in preferences.exclude
    ]
    if not views:
        raise ImageUnknown(
            "no location in service has schemas", code="no-location", headers={"Retry-After": "5"}
        )
    best = min(views, key=lambda view: _choice(view, preferences, services.settings.region))
    where = f"{best.location.url}{path}{query}"
    return web.Response(status=307, headers={**NO_STORE, "Location": where})
