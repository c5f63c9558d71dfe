"""What Glance clients ask before they ask for an image: version documents."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from resolver.gateway.app_keys import HOST, SERVICES
from resolver.gateway.image_path import check_target, split_region
from resolver.gateway.problem import json_reply
from resolver.gateway.reply import Reply, to_response
from resolver.registry import Table

BASE_MINOR = 2
"""The v2.N named while no location's is known: Icehouse's, which every v2 client can use."""


def version_document(table: Table, base: str) -> dict[str, Any]:
    """Glance's versions document for this gateway at ``base``.

    It names what every location can do: v2 up to the lowest of their minor versions, v1 where one
    still serves it. Links name the gateway.
    """
    minors = [view.minor for view in table.in_service() if view.minor >= 0]
    highest = min(minors, default=BASE_MINOR)
    versions = [("v2", n) for n in range(highest, -1, -1)]
    if any(view.serves is not None and view.serves[0] for view in table.in_service()):
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


def base_url(public_url: str, scheme: str, host: str) -> str:
    """The URL of this gateway, as a client reached it. Empty where neither the setting
    ``public_url`` nor the request names a host: links are then paths, which a client reads as those
    of the server that it asked."""
    return public_url or (f"{scheme}://{host}" if host else "")


def versions_reply(table: Table, base: str, path: str) -> Reply:
    """The root is answered 300 as by Glance, the others 200: clients accept either. ``path`` is
    below ``base``. Browsers get the status page at the root of the gateway."""
    document = version_document(table, base)
    if path == "/":
        return json_reply(document, status=300, headers={"Vary": "Accept"})
    return json_reply(document, status=300 if path == "" else 200)


async def versions(request: web.Request) -> web.StreamResponse:
    """``/``, ``/versions``, ``/v1`` and ``/v2``, also below ``/region/NAME``."""
    services = request.app[SERVICES]
    base = base_url(services.settings.public_url, request.scheme, request[HOST])
    check_target(request.rel_url.raw_path, "")
    prefix, path = split_region(request.rel_url.raw_path)
    table = await services.resolver.reader.usable_table()
    return to_response(versions_reply(table, base + prefix, path))
