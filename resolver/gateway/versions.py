"""What Glance clients ask before they ask for an image: version documents and schemas."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from resolver.errors import ImageUnknown
from resolver.gateway.images import clean_target, wish_of
from resolver.gateway.keys import SERVICES
from resolver.gateway.problem import NO_STORE, json_response
from resolver.locations import Place, Table, Wish
from resolver.models import Health, State

BASE_MINOR = 2
"""The v2.N named while no location's is known: Icehouse's, which every v2 client can do with."""


def document(table: Table, base: str) -> dict[str, Any]:
    """Glance's versions document for this gateway at ``base``.

    It names what every location can do: v2 up to the lowest of their minor versions, v1 where one
    still serves it. Links name the gateway.
    """
    minors = [place.minor for place in table.in_service() if place.minor >= 0]
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


def _choice(place: Place, wish: Wish, home: str) -> tuple[bool, bool, bool, bool, int, str]:
    location = place.location
    return (
        place.health is Health.DOWN,
        location.state is not State.ACTIVE,
        bool(wish.region) and location.region != wish.region,
        bool(home) and location.region != home,
        location.priority,
        place.name,
    )


async def schemas(request: web.Request) -> web.StreamResponse:
    """307 to a healthy location that serves v2."""
    services = request.app[SERVICES]
    wish = wish_of(request)
    path, query = clean_target(request)
    places = [
        place
        for place in (await services.tables.current(services.settings.index_timeout)).in_service()
        if (place.serves is None or place.serves[1]) and place.name not in wish.exclude
    ]
    if not places:
        raise ImageUnknown(
            "no location in service has schemas", code="no-location", headers={"Retry-After": "5"}
        )
    best = min(places, key=lambda place: _choice(place, wish, services.settings.region))
    where = f"{best.location.url}{path}{query}"
    return web.Response(status=307, headers={**NO_STORE, "Location": where})
