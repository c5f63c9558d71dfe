"""The v2 API."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

from aiohttp import web

from resolver.standin import filters
from resolver.standin.answers import fail, forbid, image_data, json_text, json_value
from resolver.standin.call import Call
from resolver.standin.image import Image, is_uuid
from resolver.standin.order import Order
from resolver.standin.record import READ_ONLY, SETTABLE, format_time, parse_fields, record
from resolver.standin.route import Route
from resolver.standin.schemas import schema

_NO_FILTER = {"id", "tag", "limit", "marker", "sort", "sort_key", "sort_dir"} | {
    *("visibility", "deleted", "member_status")  # filters with rules of their own
}
_PATCH_TYPE = "application/openstack-images-v2.1-json-patch"


def _find(call: Call, image_id: str, action: str | None = None) -> Image:
    """The image. 404 if the caller may not see it, 403 if they may not do `action`."""
    image = call.images.get(image_id)
    if image is None or image.deleted or not call.sees(image):
        fail(404, f"No image found with ID {image_id}")
    if action and not call.owns(image):
        forbid(action)
    return image


async def _list(call: Call) -> web.Response:
    query = call.request.query
    if "changes-since" in query:
        fail(400, 'The "changes-since" filter is no longer available on v2.')
    limit, order, marker = call.limit(), Order.from_query(query), call.marker()
    among = None
    if "id" in query:  # looked up directly: no need to read a million images
        among = [*dict.fromkeys(filters.split_choices(query["id"]))]
    ids = call.images.walk(order, marker, filters.all_of([*_filters(call)]), among)
    records = call.images.render(ids, limit, lambda image: record(image, old=call.old))
    params = [(name, value) for name, value in query.items() if name != "marker"]
    tail = {"first": _page(params), "schema": "/v2/schemas/images"}
    if records and len(records) == limit:  # also if nothing follows, like Glance
        last: str = json.loads(records[-1])["id"]
        tail["next"] = _page([*params, ("marker", last)])
    return json_text(f'{{"images": [{", ".join(records)}], {json.dumps(tail)[1:]}')


def _page(params: Sequence[tuple[str, str]]) -> str:
    return "/v2/images" + ("?" + urlencode(params) if params else "")


def _filters(call: Call) -> Iterator[filters.Filter]:
    yield lambda image: not image.deleted
    yield call.sees
    query = call.request.query
    visibility = query.get("visibility")
    scopes = ["public", "private", "shared", "community", *(() if call.old else ("all",))]
    if visibility is None:
        yield lambda image: image.visibility != "community" or image.owner == call.caller.project
    elif visibility not in scopes:
        fail(400, f"Invalid visibility value: {visibility}")
    elif visibility != "all":
        yield lambda image: image.visibility == visibility
    yield lambda image: {*query.getall("tag", ())} <= {*image.tags}
    rest = {name: value for name, value in query.items() if name not in _NO_FILTER}
    if not call.old:
        hidden = rest.pop("os_hidden", "false").lower()
        if hidden not in {"true", "false"}:
            fail(400, f"Invalid value '{hidden}' for 'os_hidden' filter.")
        yield lambda image: image.hidden is (hidden == "true")
    for name, value in rest.items():
        if name in {"created_at", "updated_at"}:
            yield filters.time_filter(name, value)
        else:
            yield filters.field_filter(name, value)


async def _create(call: Call) -> web.Response:
    body = await call.body()
    image_id = str(body.pop("id", None) or uuid.uuid4())
    if not is_uuid(image_id):
        fail(400, f"Provided object does not match schema 'image': '{image_id}'")
    if call.images.get(image_id):
        fail(409, f"Image ID {image_id} already exists!")
    defaults = {"visibility": "shared", "disk_format": None, "container_format": None}
    given = {**defaults, "owner": call.caller.project, **parse_fields(body, {}, call)}
    image = call.images.add(id=image_id, status="queued", data=b"", **given)
    location = call.link(f"/v2/images/{image_id}")
    return json_value(record(image, old=call.old), status=201, Location=location)


async def _show(call: Call, image_id: str) -> web.Response:
    return json_value(record(_find(call, image_id), old=call.old))


async def _update(call: Call, image_id: str) -> web.Response:
    if call.request.content_type != _PATCH_TYPE:
        text = f"Image PATCH expects Content-Type one of: {_PATCH_TYPE}"
        fail(415, text, **{"Accept-Patch": _PATCH_TYPE})
    image = _find(call, image_id, "modify_image")
    known, changes = dict(image.properties), {}
    for step in await call.body(list):
        name, value = str(step.get("path")).lstrip("/"), step.get("value")
        if (action := step.get("op")) not in {"add", "replace", "remove"}:
            fail(400, "Operations must be one of: add, replace, remove.")
        if action != "add" and name not in {*known, *SETTABLE, *READ_ONLY}:
            fail(409, f"Property {name} does not exist.")
        if action == "remove":
            known.pop(name, None)
        else:
            changes[name] = value
    image = call.images.update(image_id, **parse_fields(changes, known, call))
    return json_value(record(image, old=call.old))


async def _delete(call: Call, image_id: str) -> web.Response:
    _find(call, image_id, "delete_image")
    call.images.delete(image_id)
    return web.Response(status=204)


async def _download(call: Call, image_id: str) -> web.Response:
    image = _find(call, image_id)
    if image.status == "deactivated" and not call.caller.admin:
        fail(403, "The requested image has been deactivated.")
    if image.status not in {"active", "deactivated"}:
        return web.Response(status=204)
    return image_data(image.data, {"Content-MD5": image.checksum or ""})


async def _upload(call: Call, image_id: str) -> web.Response:
    if call.request.content_type != "application/octet-stream":
        fail(415, f"Invalid content type {call.request.content_type}")
    image = _find(call, image_id, "upload_image")
    if image.status != "queued":
        fail(409, f"Image status transition from {image.status} to saving is not allowed")
    # Like Glance: an empty upload makes an active image of 0 bytes.
    call.images.update(image_id, data=await call.request.read(), status="active")
    return web.Response(status=204)


async def _tag(call: Call, image_id: str, tag: str) -> web.Response:
    tags = _find(call, image_id, "modify_image").tags
    others = tuple(other for other in tags if other != tag)
    if call.request.method == "PUT":
        call.images.update(image_id, tags=(*others, tag))
    elif tag in tags:
        call.images.update(image_id, tags=others)
    else:
        fail(404, "The resource could not be found.")
    return web.Response(status=204)


async def _members(call: Call, image_id: str) -> web.Response:
    image = _find(call, image_id)
    if image.visibility != "shared":
        fail(403, f"Not allowed to list members for image {image_id}.")
    times = dict.fromkeys(("created_at", "updated_at"), format_time(image.updated))
    rest = {"image_id": image_id, "status": "accepted", **times, "schema": "/v2/schemas/member"}
    members = [{"member_id": member, **rest} for member in image.members]
    return json_value({"members": members, "schema": "/v2/schemas/members"})


async def _schema(call: Call, name: str) -> web.Response:
    if (found := schema(name, old=call.old)) is None:
        fail(404, "The resource could not be found.")
    return json_value(found)


async def _tasks(call: Call) -> web.Response:
    if not call.caller.admin and not call.old:
        forbid("tasks_api_access")
    return json_value({"tasks": [], "first": "/v2/tasks", "schema": "/v2/schemas/tasks"})


async def _task(call: Call, task_id: str) -> web.Response:
    if not call.caller.admin and not call.old:
        forbid("tasks_api_access")
    fail(
        404, f"No task found with ID {task_id}", **{"X-Openstack-Request-Id": f"req-{uuid.uuid4()}"}
    )


_IMAGE = "/v2/images/([^/]+)"
ROUTES = (
    Route("images", "/v2/images", GET=_list, POST=_create),
    Route("image", _IMAGE, GET=_show, PATCH=_update, DELETE=_delete),
    Route("file", f"{_IMAGE}/file", GET=_download, PUT=_upload),
    Route("members", f"{_IMAGE}/members", GET=_members),
    Route("tag", f"{_IMAGE}/tags/([^/]+)", PUT=_tag, DELETE=_tag),
    Route("schema", "/v2/schemas/(.+)", GET=_schema),
    Route("tasks", "/v2/tasks", GET=_tasks),
    Route("task", "/v2/tasks/([^/]+)", GET=_task),
)
