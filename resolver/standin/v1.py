"""The v1 API, as in Glance 15 (Pike), which was the last to have it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from resolver.standin import filters
from resolver.standin.answers import Fault, fail, html_page, image_data, json_text, json_value
from resolver.standin.call import Call
from resolver.standin.image import Image, is_uuid
from resolver.standin.order import Order
from resolver.standin.route import Route

_BRIEF = ("name", "container_format", "disk_format", "checksum", "id", "size")


def _find(call: Call, image_id: str) -> Image:
    """The image. Admins find deleted ones too."""
    image = call.images.get(image_id)
    if image is None or not call.sees(image) or (image.deleted and not call.caller.admin):
        fail(404, f"Image with identifier {image_id} not found")
    return image


async def _list(call: Call, detail: str | None) -> web.Response:
    limit, order, marker = call.limit(), Order.from_query(call.request.query), _marker(call)
    ids = call.images.walk(order, marker, filters.all_of(_filters(call)))

    def to_record(image: Image) -> dict[str, Any]:
        record = _record(image)
        return record if detail else {name: record[name] for name in _BRIEF}

    return json_text(f'{{"images": [{", ".join(call.images.render(ids, limit, to_record))}]}}')


def _marker(call: Call) -> Image | None:
    if not is_uuid(call.request.query.get("marker", str(uuid.UUID(int=0)))):
        fail(400, "Invalid marker format")
    try:
        return call.marker()
    except Fault:
        fail(400, "Invalid marker. Image could not be found.")


def _filters(call: Call) -> list[filters.Filter]:
    query = call.request.query
    public = query.get("is_public", "true").lower()
    if public not in {"true", "1", "false", "0", "none"}:
        fail(400, f"Bad value passed to filter is_public got {public}")
    conditions: list[filters.Filter] = [call.sees]
    if not call.caller.admin:
        conditions.append(
            lambda image: image.visibility != "community" or image.owner == call.caller.project
        )
    elif public != "none":
        # The default, true, also lists all deleted images, as in Glance 15.
        want_public = public in {"true", "1"}
        conditions.append(
            lambda image: (
                (image.visibility == "public") is want_public or (want_public and image.deleted)
            )
        )
    if since := query.get("changes-since"):
        conditions.append(filters.time_filter("updated_at", f"gte:{since}"))
    else:
        conditions.append(lambda image: not image.deleted)
    plain = [name for name in ("name", "status") if name in query]
    return conditions + [filters.field_filter(name, query[name]) for name in plain]


async def _head(call: Call, image_id: str) -> web.Response:
    return html_page(headers=_headers(_find(call, image_id)))


async def _download(call: Call, image_id: str) -> web.Response:
    image = _find(call, image_id)
    if image.status == "deactivated" and not call.caller.admin:
        fail(403, f"Image {image_id} is deactivated")
    if image.status not in {"active", "deactivated"}:
        fail(404, f"Image {image_id} is not active")
    return image_data(image.data, _headers(image))


async def _create(call: Call, detail: str | None) -> web.Response:
    fields = await _fields(call.request)
    image_id = fields.pop("id", None) or str(uuid.uuid4())
    if not is_uuid(image_id):
        fail(400, f"Invalid image id format: {image_id}")
    if call.images.get(image_id):
        fail(409, f"Image with identifier {image_id} already exists!")
    if fields.get("visibility") == "public" and not call.caller.admin:
        fail(403, "Access was denied to this resource.")
    defaults = {"visibility": "shared", "status": "queued", "data": b""}
    fields = {**defaults, "disk_format": None, "container_format": None, **fields}
    image = call.images.add(id=image_id, **{"owner": call.caller.project, **fields})
    headers = {"Location": call.link(f"/v1/images/{image_id}"), **_etag(image)}
    return json_value({"image": _record(image)}, status=201, **headers)


async def _fields(request: web.Request) -> dict[str, Any]:
    """The image fields in `x-image-meta-*` headers, and the data if the request has any."""
    fields: dict[str, Any] = {}
    properties: dict[str, str] = {}
    for header, value in request.headers.items():
        prefix, _, name = header.lower().replace("-", "_").partition("image_meta_")
        if prefix != "x_":
            continue
        if name in {"id", "name", "owner", "disk_format", "container_format"}:
            fields[name] = value
        elif name == "is_public":
            fields["visibility"] = "public" if value.lower() in {"true", "1"} else "shared"
        elif name.startswith("property_"):
            properties[name.removeprefix("property_")] = value
    if request.content_type == "application/octet-stream" and request.can_read_body:
        fields |= {"data": await request.read(), "status": "active"}
    return {**fields, "properties": properties}


async def _delete(call: Call, image_id: str) -> web.Response:
    image = _find(call, image_id)
    if image.deleted:
        fail(404, f"Image {image_id} not found.")
    if not call.owns(image):
        fail(403, "Forbidden to delete image: Access was denied to this resource.")
    call.images.delete(image_id)
    return html_page()


def _record(image: Image) -> dict[str, Any]:
    return {
        **{name: getattr(image, name) for name in ("id", "name", "status", "size", "checksum")},
        **{name: getattr(image, name) for name in ("owner", "disk_format", "container_format")},
        **{"is_public": image.visibility == "public", "protected": False, "virtual_size": None},
        **{"deleted": image.deleted, "min_ram": 0, "min_disk": 0},
        **{"created_at": _format_time(image.created), "updated_at": _format_time(image.updated)},
        **{"deleted_at": _format_time(image.updated) if image.deleted else None},
        **{"properties": dict(image.properties)},
    }


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()


def _headers(image: Image) -> dict[str, str]:
    record = _record(image)
    properties: dict[str, str] = record.pop("properties")
    record |= {f"property-{name}": value for name, value in properties.items()}
    headers = {
        f"X-Image-Meta-{name.capitalize()}": str(value)
        for name, value in record.items()
        if value is not None
    }
    return {**headers, **_etag(image)}


def _etag(image: Image) -> dict[str, str]:
    return {"ETag": image.checksum} if image.checksum else {}


ROUTES = (
    Route("v1-images", "/v1/(?:images(/detail)?)?", GET=_list, POST=_create),
    Route("v1-image", "/v1/images/([^/]+)", GET=_download, HEAD=_head, DELETE=_delete),
)
