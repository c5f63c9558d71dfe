"""Asking a Glance server about one image."""

from __future__ import annotations

from resolver.errors import InvalidImageId, LocationUnavailable
from resolver.glance.glance_server import Reply, Server
from resolver.models import Api, api_versions, parse_id

GLANCE_SIGN = "X-Openstack-Request-Id"
"""What every answer of Glance's own has (its context middleware), and a proxy's has not."""

MOST = 4 * 1024 * 1024
"""Bytes of an image's record; one with a thousand long properties has less."""


def use_v2(api: Api, versions: tuple[str, ...]) -> bool:
    """Which API to read with: v2 wherever it is served, whatever clients are redirected to, since
    v1 never lists other projects' community images."""
    v1, v2 = api_versions(versions)
    return v2 or (not v1 and api is not Api.V1)


async def has_image(server: Server, versions: tuple[str, ...], text: str) -> bool:
    """Whether the server shows the image of this id, spelt so.

    v2 answers ``GET`` with the record, v1 ``HEAD`` with headers, which also tell an admin of
    deleted images. False is a 404: that the image is not there, or not for this credential.

    Raises:
        LocationUnavailable: it gave no clear answer, such as a 300 for want of that API, or a 404
            that is not Glance's.
    """
    v2 = use_v2(server.location.api, versions)
    if v2:
        reply = await server.ask(f"/v2/images/{text}", most=MOST)
        there = reply.status == 200 and _same(_id_of(reply), text)
        v2 = bool(versions) or reply.status != 300  # not looked at yet, and it has no v2
    if not v2:
        reply = await server.ask(f"/v1/images/{text}", method="HEAD")
        there = reply.status == 200 and _same(reply.headers.get("X-Image-Meta-Id"), text)
        if there and reply.headers.get("X-Image-Meta-Deleted", "").lower() == "true":
            return False
    if reply.status == 404 and GLANCE_SIGN not in reply.headers:
        await server.versions()  # a proxy that lost its Glance says 404 of everything
    if there or reply.status == 404:
        return there
    raise LocationUnavailable(
        f"asked for image {text}, it answered {reply.status}"
        + (" with something else" if reply.status == 200 else ""),
        code="no-clear-answer",
    )


def _id_of(reply: Reply) -> object:
    record = reply.json()
    return record.get("id") if isinstance(record, dict) else None


def _same(told: object, text: str) -> bool:
    try:
        return isinstance(told, str) and parse_id(told) == parse_id(text)
    except InvalidImageId:
        return False
