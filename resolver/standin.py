"""A stand-in Glance server: enough of v1 and v2 to be taken for one by clients and the resolver.

`glance-resolver demo` runs two of these, and the tests use them as the owned fake of a location.
Statuses, field names and the odd corners (405 for a v2 `HEAD`, 300 for a version that is off,
`next` without the prefix) were compared with Glance 33.0.0 and 15.0.2. All of it lives in memory.
"""

import hashlib
import heapq
import html
import json
import operator
import random
import re
import time
import uuid
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import islice
from typing import Any, NoReturn, Self
from urllib.parse import urlencode

from aiohttp import web
from aiohttp.typedefs import Middleware

SYNTHETIC_TIME = 1_700_000_000.25
"""When every image of `fill` was made, seconds since 1970: long before what `add` makes."""
MAX_BODY = 64 << 20
"""Largest upload in bytes; it is kept in memory."""

_SLOT = "@id@"  # stands for the id in the text of a synthetic image, so a page is string work only
_MINORS = (15, 13, 12, 11, 10, 9, 8, 17, 7, 6, 5, 4, 3, 2, 1, 0)  # in Glance 33's order
_SORTABLE = (
    *("name", "status", "container_format", "disk_format"),
    *("size", "id", "created_at", "updated_at"),
)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    **{"gt": operator.gt, "gte": operator.ge, "lt": operator.lt},
    **{"lte": operator.le, "eq": operator.eq, "neq": operator.ne},
}
_READ_ONLY = {"id", "status", "checksum", "size", "virtual_size", "created_at", "updated_at"} | {
    *("self", "file", "schema", "direct_url", "stores", "os_hash_algo", "os_hash_value")
}
_PATCH_TYPE = "application/openstack-images-v2.1-json-patch"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token speaks for."""

    project: str
    admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image. Times are seconds since 1970; `updated` is `created` unless given."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    name: str | None = None
    visibility: str = "public"
    hidden: bool = False
    owner: str = "admin"
    status: str = "active"
    data: bytes = b"stand-in"
    created: float = field(default_factory=time.time)
    updated: float = 0.0
    deleted: bool = False
    disk_format: str | None = "raw"
    container_format: str | None = "bare"
    tags: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    """Projects that accepted a `shared` image."""

    def __post_init__(self) -> None:
        if not self.updated:
            object.__setattr__(self, "updated", self.created)

    @property
    def size(self) -> int | None:
        """Bytes of data; None before any was uploaded."""
        return None if self.status == "queued" else len(self.data)

    @property
    def checksum(self) -> str | None:
        """MD5 of the data, as Glance shows it."""
        return None if self.status == "queued" else hashlib.md5(self.data).hexdigest()


class StandIn:
    """A Glance server with images that tests and the demo choose.

    `old` makes it Glance 15 (Pike). `tokens` maps `X-Auth-Token` to its caller; None asks for no
    token and takes everyone for an admin. `prefix` is the path of the base URL: as behind a proxy
    that strips it, links in answers lack it.

    `requests` counts calls by method and kind of route: `images image file members tag action
    schema tasks v1-images v1-image versions healthcheck unknown`. A call that one of
    `middlewares` answers by itself is not counted.
    """

    def __init__(
        self,
        *,
        v1: bool = False,
        v2: bool = True,
        old: bool = False,
        tokens: Mapping[str, Caller] | None = None,
        prefix: str = "",
        page_default: int = 25,
        page_cap: int = 1000,
        middlewares: Sequence[Middleware] = (),
    ) -> None:
        self.v1, self.v2, self.old, self.tokens = v1, v2, old, tokens
        self.prefix, self.middlewares = prefix.rstrip("/"), list(middlewares)
        self.page_default, self.page_cap = page_default, page_cap
        self.requests: Counter[tuple[str, str]] = Counter()
        self.synthetic = Image(id=_SLOT, name="synthetic", created=SYNTHETIC_TIME)
        """What all images of `fill` look like. To change it: `replace(self.synthetic, …)`."""
        self.host, self.port = "127.0.0.1", 0
        self._images: dict[str, Image] = {}
        self._packed = _Packed(b"")
        self._routes = self._build_routes()
        self._runner: web.AppRunner | None = None

    # Running

    @property
    def url(self) -> str:
        """Base URL with the prefix, as an operator would register it."""
        return f"http://{self.host}:{self.port}{self.prefix}"

    def app(self) -> web.Application:
        """A new application over these images, for whoever brings a server of their own."""
        app = web.Application(middlewares=self.middlewares, client_max_size=MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._dispatch)
        return app

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Listen; port 0 takes a free one. May be started again after `stop`."""
        self._runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.host, self.port = host, self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        """Close the socket and every connection. The images stay."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        return self if self._runner else await self.start()

    async def __aexit__(self, *failure: object) -> None:
        await self.stop()

    # Images

    def add(self, image: Image | None = None, **fields: Any) -> Image:
        """Put an image there. Raises ValueError where its id was ever used."""
        image = image or Image(**fields)
        if self.get(image.id):
            raise ValueError(f"image {image.id} exists")
        self._images[image.id] = image
        return image

    def get(self, image_id: str) -> Image | None:
        """The image, a deleted one too."""
        if (image := self._images.get(image_id)) or image_id not in self._packed:
            return image
        return replace(self.synthetic, id=image_id)

    def update(self, image_id: str, **fields: Any) -> Image:
        """Change an image; `updated` is now unless given. Raises KeyError for an unknown id."""
        if (image := self.get(image_id)) is None:
            raise KeyError(image_id)
        self._images[image_id] = replace(image, **{"updated": time.time(), **fields})
        return self._images[image_id]

    def delete(self, image_id: str) -> Image:
        """Delete as Glance does: the row stays, marked. Raises KeyError for an unknown id."""
        return self.update(image_id, deleted=True, status="deleted")

    def fill(self, count: int, *, seed: int | None = None, prefix_bytes: bytes = b"") -> None:
        """Add images with random v4 ids that begin with `prefix_bytes` (12 at most).

        They take 16 bytes each: a million is 16 MB and two seconds. Stand-ins filled with one seed
        have the same images.
        """
        if len(prefix_bytes) > 12:
            raise ValueError("prefix_bytes leaves no room for random ones")
        rng, found = random.Random(seed), set(self._packed.raws())
        target = len(found) + count
        while len(found) < target:
            raw = bytearray(prefix_bytes + rng.randbytes(16 - len(prefix_bytes)))
            raw[6], raw[8] = raw[6] & 0x0F | 0x40, raw[8] & 0x3F | 0x80
            found.add(bytes(raw))
        self._packed = _Packed(b"".join(sorted(found)))

    def ids(self) -> Iterator[str]:
        """Ids of all images that are not deleted, in order."""
        order = _Order((("id", False),))
        return self._walk(order, None, lambda image: not image.deleted, None)

    def __len__(self) -> int:
        changed = sum(image_id in self._packed for image_id in self._images)
        live = sum(not image.deleted for image in self._images.values())
        return len(self._packed) - changed + live

    def __bool__(self) -> bool:
        return True  # an empty server is still a server

    def _walk(
        self,
        order: "_Order",
        after: Image | None,
        wanted: Callable[[Image], bool],
        among: Sequence[str] | None,
    ) -> Iterator[str]:
        """Ids in order: the images that have a record, merged with the block of synthetic ones."""
        known = self._images.values() if among is None else filter(None, map(self.get, among))
        own = sorted((order.key(image), image.id) for image in known if wanted(image))
        block, packed = len(self._packed), self._packed
        if among is not None or not wanted(self.synthetic):
            block = 0

        def at(position: int) -> str:
            return packed.at(block - 1 - position if order.id_descends else position)

        def key_at(position: int) -> tuple[Any, ...]:
            return order.key(self.synthetic, at(position))

        first = start = 0
        if after is not None:
            first = bisect_right(own, order.key(after), key=operator.itemgetter(0))
            start = bisect_right(range(block), order.key(after), key=key_at)
        rest = (
            (key_at(position), image_id)
            for position in range(start, block)
            if (image_id := at(position)) not in self._images
        )
        return (image_id for _, image_id in heapq.merge(own[first:], rest))

    def _render(self, ids: Iterator[str], limit: int, form: Callable[[Image], Any]) -> list[str]:
        """Records as JSON text. Synthetic ones are cut from one text: a page takes milliseconds."""
        template = json.dumps(form(self.synthetic))
        return [
            template.replace(_SLOT, image_id)
            if (image := self._images.get(image_id)) is None
            else json.dumps(form(image))
            for image_id in islice(ids, limit)
        ]

    # Requests

    def _build_routes(self) -> "list[_Route]":
        image = "/v2/images/([^/]+)"
        routes: list[_Route] = []
        if self.v2:
            routes += [
                _Route("images", "/v2/images", GET=self._list, POST=self._create),
                _Route("image", image, GET=self._show, PATCH=self._patch, DELETE=self._remove),
                _Route("file", f"{image}/file", GET=self._download, PUT=self._upload),
                _Route("members", f"{image}/members", GET=self._members),
                _Route("tag", f"{image}/tags/([^/]+)", PUT=self._tag, DELETE=self._tag),
                _Route("action", f"{image}/actions/((?:de|re)activate)", POST=self._act),
                _Route("schema", "/v2/schemas/(.+)", GET=self._schema),
                _Route("tasks", "/v2/tasks", GET=self._tasks),
            ]
        if self.v1:
            routes += [
                _Route(
                    "v1-images",
                    "/v1/(?:images(/detail)?)?",
                    GET=self._list_v1,
                    POST=self._create_v1,
                ),
                _Route(
                    "v1-image",
                    "/v1/images/([^/]+)",
                    GET=self._download_v1,
                    HEAD=self._head_v1,
                    PUT=self._update_v1,
                    DELETE=self._remove_v1,
                ),
            ]
        return routes

    async def _dispatch(self, request: web.Request) -> web.Response:
        try:
            return await self._answer(request)
        except _Fault as fault:
            return fault.response()

    async def _answer(self, request: web.Request) -> web.Response:
        if not request.path.startswith(f"{self.prefix}/") and request.path != self.prefix:
            _fail(404, "Nothing here but Glance, below its prefix.")
        path = request.path.removeprefix(self.prefix) or "/"
        names = [name for name, _ in self._versions()]
        version = re.match(r"/(v(\d+)(?:\.\d+)?)(?=/|$)", path)
        if version is None or version[1] not in {*names, *(name.split(".")[0] for name in names)}:
            return self._unversioned(request, path)
        # Every minor version is served alike, and links in answers say the major one.
        path = f"/v{version[2]}{path[version.end() :]}"
        route, found = next(
            ((r, match) for r in self._routes if (match := r.pattern.fullmatch(path))), (None, None)
        )
        self.requests[request.method, route.kind if route else "unknown"] += 1
        caller = self._caller(request)
        if path.count("/") == 1:
            link = f"{request.scheme}://{request.host}{path}/"
            return web.Response(status=302, headers={"Location": link})
        if route is None or found is None:
            _fail(404, "The resource could not be found.")
        if (handler := route.methods.get(request.method)) is None:
            text = f"The method {request.method} is not allowed for this resource."
            _fail(405, text, Allow=", ".join(route.methods))
        response = await handler(_Ask(request, caller), *found.groups())
        response.headers["X-Openstack-Request-Id"] = f"req-{uuid.uuid4()}"
        return response

    def _unversioned(self, request: web.Request, path: str) -> web.Response:
        """What needs no token; any path of a version not served gets the versions, as 300."""
        kind = {"/": "versions", "/versions": "versions", "/healthcheck": "healthcheck"}.get(path)
        self.requests[request.method, kind or "unknown"] += 1
        if kind == "healthcheck":
            return web.Response(text="OK")
        versions = [
            {"id": name, "status": status, "links": [{"rel": "self", "href": link}]}
            for name, status in self._versions()
            if (link := f"{request.scheme}://{request.host}/{name.split('.')[0]}/")
        ]
        return _json({"versions": versions}, status=200 if path == "/versions" else 300)

    def _versions(self) -> list[tuple[str, str]]:
        minors = [minor for minor in _MINORS if minor <= 5 or not self.old]
        latest = max(minors)
        v2 = [(f"v2.{m}", "CURRENT" if m == latest else "SUPPORTED") for m in minors]
        return v2 * self.v2 + [("v1.1", "DEPRECATED"), ("v1.0", "DEPRECATED")] * self.v1

    def _caller(self, request: web.Request) -> Caller:
        if self.tokens is None:
            return Caller("admin", admin=True)
        if caller := self.tokens.get(request.headers.get("X-Auth-Token", "")):
            return caller
        _fail(401, "This server could not verify that you are authorized to access the document.")

    # What a caller may see

    def _visible(self, image: Image, ask: "_Ask") -> bool:
        member = image.visibility == "shared" and ask.caller.project in image.members
        mine = ask.caller.admin or image.owner == ask.caller.project
        return mine or member or image.visibility in {"public", "community"}

    def _find(self, image_id: str, ask: "_Ask", action: str | None = None) -> Image:
        """The image, 404 where the caller may not know of it, 403 where it may not do `action`."""
        image = self.get(image_id)
        if image is None or image.deleted or not self._visible(image, ask):
            _fail(404, f"No image found with ID {image_id}")
        if action and not ask.caller.admin and image.owner != ask.caller.project:
            _forbid(action)
        return image

    def _marker(self, ask: "_Ask") -> Image | None:
        if (image_id := ask.request.query.get("marker")) is None:
            return None
        image = self.get(image_id)
        if image is None or (image.deleted and not ask.caller.admin):
            _fail(400, f"No image found with ID {image_id}")
        if not self._visible(image, ask):
            _fail(403, f"Forbidding request, image {image_id} not visible")
        return image

    def _limit(self, query: Mapping[str, str]) -> int:
        try:
            limit = int(query.get("limit", self.page_default))
        except ValueError:
            _fail(400, "limit param must be an integer")
        if limit < 0:
            _fail(400, "limit param must be positive")
        return min(limit, self.page_cap)

    # v2

    async def _list(self, ask: "_Ask") -> web.Response:
        query = ask.request.query
        if "changes-since" in query:
            _fail(400, 'The "changes-since" filter is no longer available on v2.')
        limit, order, marker = self._limit(query), _order(query), self._marker(ask)
        tests = [lambda image: not image.deleted, *self._filters(ask)]
        among = None
        if "id" in query:  # looked up one by one: a million images need not be read for these
            among = [*dict.fromkeys(_choices(query["id"]))]
        ids = self._walk(order, marker, lambda image: all(test(image) for test in tests), among)
        records = self._render(ids, limit, self._record)
        params = [(name, value) for name, value in query.items() if name != "marker"]
        tail = {"first": _link(params), "schema": "/v2/schemas/images"}
        if records and len(records) == limit:  # even when nothing follows, as Glance does
            last: str = json.loads(records[-1])["id"]
            tail["next"] = _link([*params, ("marker", last)])
        text = f'{{"images": [{", ".join(records)}], {json.dumps(tail)[1:]}'
        return _json_text(text)

    def _filters(self, ask: "_Ask") -> "Iterator[_Test]":
        yield lambda image: self._visible(image, ask)
        query = ask.request.query
        visibility = query.get("visibility")
        scopes = ["public", "private", "shared", "community", *(() if self.old else ("all",))]
        if visibility is None:
            yield lambda image: image.visibility != "community" or image.owner == ask.caller.project
        elif visibility not in scopes:
            _fail(400, f"Invalid visibility value: {visibility}")
        elif visibility != "all":
            yield lambda image: image.visibility == visibility
        rest = {name: value for name, value in query.items() if name not in _NO_FILTER}
        if not self.old:
            hidden = rest.pop("os_hidden", "false").lower()
            if hidden not in {"true", "false"}:
                _fail(400, f"Invalid value '{hidden}' for 'os_hidden' filter.")
            yield lambda image: image.hidden is (hidden == "true")
        for name, value in rest.items():
            if name in {"created_at", "updated_at"}:
                yield _time_test(name, value)
            else:
                yield _equal_test(name, value)

    def _record(self, image: Image) -> dict[str, Any]:
        sha = hashlib.sha512(image.data).hexdigest() if image.checksum else None
        link = f"/v2/images/{image.id}"
        modern = {
            "os_hidden": image.hidden,
            "os_hash_algo": sha and "sha512",
            "os_hash_value": sha,
            **({"stores": "fs"} if image.checksum else {}),
        }
        return {
            **image.properties,
            **{name: getattr(image, name) for name in ("name", "disk_format", "container_format")},
            **{name: getattr(image, name) for name in ("visibility", "size", "status", "checksum")},
            **{"virtual_size": None if self.old else image.size or None},
            **{"protected": False, "min_ram": 0, "min_disk": 0, "owner": image.owner},
            **({} if self.old else modern),
            **{"id": image.id, "tags": list(image.tags)},
            **{"created_at": _when(image.created), "updated_at": _when(image.updated)},
            **{"self": link, "file": f"{link}/file", "schema": "/v2/schemas/image"},
        }

    async def _create(self, ask: "_Ask") -> web.Response:
        body = await _body(ask.request)
        image_id = str(body.pop("id", None) or uuid.uuid4())
        if not _UUID.fullmatch(image_id):
            _fail(400, f"Provided object does not match schema 'image': '{image_id}'")
        if self.get(image_id):
            _fail(409, f"Image ID {image_id} already exists!")
        defaults = {"visibility": "shared", "disk_format": None, "container_format": None}
        fields = {**defaults, "owner": ask.caller.project, **_fields(body, {}, ask)}
        image = self.add(Image(id=image_id, status="queued", data=b"", **fields))
        link = f"{ask.request.scheme}://{ask.request.host}/v2/images/{image_id}"
        return _json(self._record(image), status=201, Location=link)

    async def _show(self, ask: "_Ask", image_id: str) -> web.Response:
        return _json(self._record(self._find(image_id, ask)))

    async def _patch(self, ask: "_Ask", image_id: str) -> web.Response:
        if ask.request.content_type != _PATCH_TYPE:
            text = f"Image PATCH expects Content-Type one of: {_PATCH_TYPE}"
            _fail(415, text, **{"Accept-Patch": _PATCH_TYPE})
        image = self._find(image_id, ask, "modify_image")
        known, changes = dict(image.properties), {}
        for step in await _body(ask.request, list):
            name, value = str(step.get("path")).lstrip("/"), step.get("value")
            if (action := step.get("op")) not in {"add", "replace", "remove"}:
                _fail(400, "Operations must be one of: add, replace, remove.")
            if action != "add" and name not in {*known, *_SETTABLE, *_READ_ONLY}:
                _fail(409, f"Property {name} does not exist.")
            if action == "remove":
                known.pop(name, None)
            else:
                changes[name] = value
        return _json(self._record(self.update(image_id, **_fields(changes, known, ask))))

    async def _remove(self, ask: "_Ask", image_id: str) -> web.Response:
        self._find(image_id, ask, "delete_image")
        self.delete(image_id)
        return web.Response(status=204)

    async def _download(self, ask: "_Ask", image_id: str) -> web.Response:
        image = self._find(image_id, ask)
        if image.status == "deactivated" and not ask.caller.admin:
            _fail(403, "The requested image has been deactivated.")
        if image.status not in {"active", "deactivated"}:
            return web.Response(status=204)
        headers = {"Content-MD5": image.checksum or ""}
        status = 206 if "Range" in ask.request.headers else 200
        try:
            start, end, _ = ask.request.http_range.indices(len(image.data))
        except ValueError:
            start = end = 0
        if status == 206 and start >= end:
            _fail(416, "The Range requested is not available.")
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(image.data)}"
        return _data(image.data[start:end], status, headers)

    async def _upload(self, ask: "_Ask", image_id: str) -> web.Response:
        if ask.request.content_type != "application/octet-stream":
            _fail(415, f"Invalid content type {ask.request.content_type}")
        image = self._find(image_id, ask, "upload_image")
        if image.status != "queued":
            _fail(409, f"Image status transition from {image.status} to saving is not allowed")
        # An empty upload makes an active image of no bytes: that is what real ones do.
        self.update(image_id, data=await ask.request.read(), status="active")
        return web.Response(status=204)

    async def _act(self, ask: "_Ask", image_id: str, action: str) -> web.Response:
        image = self._find(image_id, ask)
        if not ask.caller.admin:
            _forbid(action)
        if image.status not in {"active", "deactivated"}:
            _fail(403, f"Not allowed to {action} image in status '{image.status}'")
        self.update(image_id, status="active" if action == "reactivate" else "deactivated")
        return web.Response(status=204)

    async def _tag(self, ask: "_Ask", image_id: str, tag: str) -> web.Response:
        tags = self._find(image_id, ask, "modify_image").tags
        kept = tuple(other for other in tags if other != tag)
        if ask.request.method == "PUT":
            self.update(image_id, tags=(*kept, tag))
        elif tag in tags:
            self.update(image_id, tags=kept)
        else:
            _fail(404, "The resource could not be found.")
        return web.Response(status=204)

    async def _members(self, ask: "_Ask", image_id: str) -> web.Response:
        image = self._find(image_id, ask)
        if image.visibility != "shared":
            _fail(403, f"Not allowed to list members for image {image_id}.")
        when = dict.fromkeys(("created_at", "updated_at"), _when(image.updated))
        rest = {"image_id": image_id, "status": "accepted", **when, "schema": "/v2/schemas/member"}
        members = [{"member_id": member, **rest} for member in image.members]
        return _json({"members": members, "schema": "/v2/schemas/members"})

    async def _schema(self, ask: "_Ask", name: str) -> web.Response:
        plain = {"task", "tasks", "member", "members"}
        if name == "images":
            items = {"type": "array", "items": self._image_schema()}
            text = {"type": "string"}
            properties = {"images": items, "first": text, "next": text, "schema": text}
            return _json({"name": name, "properties": properties})
        if name not in {"image", *plain} and not re.fullmatch(r"metadefs/[a-z_]+", name):
            _fail(404, "The resource could not be found.")
        named = {"name": name.rpartition("/")[2], "properties": {}}
        return _json(self._image_schema() if name == "image" else named)

    def _image_schema(self) -> dict[str, Any]:
        """Names, types and read-only marks: what glanceclient makes its options from."""
        types = {bool: "boolean", int: ["null", "integer"], list: "array"}
        properties: dict[str, dict[str, Any]] = {
            name: {"type": types.get(type(value), ["null", "string"])}
            for name, value in self._record(Image()).items()
        }
        for name in _READ_ONLY & set(properties) - {"id"}:
            properties[name]["readOnly"] = True
        properties["tags"]["items"] = {"type": "string", "maxLength": 255}
        extra = {"type": "string"}
        return {"name": "image", "properties": properties, "additionalProperties": extra}

    async def _tasks(self, ask: "_Ask") -> web.Response:
        if not ask.caller.admin and not self.old:
            _forbid("tasks_api_access")
        return _json({"tasks": [], "first": "/v2/tasks", "schema": "/v2/schemas/tasks"})

    # v1

    async def _list_v1(self, ask: "_Ask", detail: str | None) -> web.Response:
        query = ask.request.query
        public = query.get("is_public", "true").lower()
        if public not in {"true", "1", "false", "0", "none"}:
            _fail(400, f"Bad value passed to filter is_public got {public}")
        limit, order, marker = self._limit(query), _order(query), self._marker_v1(ask)
        tests: list[_Test] = [lambda image: self._visible(image, ask)]
        if not ask.caller.admin:
            tests.append(lambda i: i.visibility != "community" or i.owner == ask.caller.project)
        elif public != "none":
            # The default, true, lets deleted images by whatever they were. So has Glance 15.
            only = public in {"true", "1"}
            tests.append(lambda i: (i.visibility == "public") is only or (only and i.deleted))
        if since := query.get("changes-since"):
            tests.append(_time_test("updated_at", f"gte:{since}"))
        else:
            tests.append(lambda image: not image.deleted)
        tests += [_equal_test(n, query[n]) for n in ("name", "status") if n in query]
        ids = self._walk(order, marker, lambda image: all(test(image) for test in tests), None)
        brief = ("name", "container_format", "disk_format", "checksum", "id", "size")

        def form(image: Image) -> dict[str, Any]:
            record = _record_v1(image)
            return record if detail else {name: record[name] for name in brief}

        text = f'{{"images": [{", ".join(self._render(ids, limit, form))}]}}'
        return _json_text(text)

    def _marker_v1(self, ask: "_Ask") -> Image | None:
        if not _UUID.fullmatch(ask.request.query.get("marker", str(uuid.UUID(int=0)))):
            _fail(400, "Invalid marker format")
        try:
            return self._marker(ask)
        except _Fault:
            _fail(400, "Invalid marker. Image could not be found.")

    def _find_v1(self, image_id: str, ask: "_Ask") -> Image:
        """As `_find`, but an admin finds deleted images too."""
        image = self.get(image_id)
        if image is None or not self._visible(image, ask):
            _fail(404, f"Image with identifier {image_id} not found")
        if image.deleted and not ask.caller.admin:
            _fail(404, f"Image with identifier {image_id} not found")
        return image

    async def _head_v1(self, ask: "_Ask", image_id: str) -> web.Response:
        image = self._find_v1(image_id, ask)
        return web.Response(headers=_headers_v1(image), **_HTML)

    async def _download_v1(self, ask: "_Ask", image_id: str) -> web.Response:
        image = self._find_v1(image_id, ask)
        if image.status == "deactivated" and not ask.caller.admin:
            _fail(403, f"Image {image_id} is deactivated")
        if image.status not in {"active", "deactivated"}:
            _fail(404, f"Image {image_id} is not active")
        return _data(image.data, 200, _headers_v1(image))

    async def _create_v1(self, ask: "_Ask", detail: str | None) -> web.Response:
        fields = await _fields_v1(ask.request, {})
        image_id = fields.pop("id", None) or str(uuid.uuid4())
        if not _UUID.fullmatch(image_id):
            _fail(400, f"Invalid image id format: {image_id}")
        if self.get(image_id):
            _fail(409, f"Image with identifier {image_id} already exists!")
        if fields.get("visibility") == "public" and not ask.caller.admin:
            _fail(403, "Access was denied to this resource.")
        defaults = {"visibility": "shared", "status": "queued", "data": b""}
        fields = {**defaults, "disk_format": None, "container_format": None, **fields}
        image = self.add(Image(id=image_id, **{"owner": ask.caller.project, **fields}))
        link = f"{ask.request.scheme}://{ask.request.host}/v1/images/{image_id}"
        headers: Any = {"Location": link, **_etag(image)}
        return _json({"image": _record_v1(image)}, status=201, **headers)

    async def _update_v1(self, ask: "_Ask", image_id: str) -> web.Response:
        image = self._change_v1(image_id, ask, "update")
        fields = await _fields_v1(ask.request, image.properties)
        fields.pop("id", None)
        if "data" in fields and image.status != "queued":
            _fail(409, f"Cannot upload to an unqueued image, {image_id}")
        image = self.update(image_id, **fields)
        headers: Any = _etag(image)
        return _json({"image": _record_v1(image)}, **headers)

    async def _remove_v1(self, ask: "_Ask", image_id: str) -> web.Response:
        self._change_v1(image_id, ask, "delete")
        self.delete(image_id)
        return web.Response(**_HTML)

    def _change_v1(self, image_id: str, ask: "_Ask", action: str) -> Image:
        image = self._find_v1(image_id, ask)
        if image.deleted:
            _fail(404, f"Image {image_id} not found.")
        if not ask.caller.admin and image.owner != ask.caller.project:
            _fail(403, f"Forbidden to {action} image: Access was denied to this resource.")
        return image


_HTML: Any = {"content_type": "text/html", "charset": "utf-8"}
_Test = Callable[[Image], bool]
_NO_FILTER = {"id", "limit", "marker", "sort", "sort_key", "sort_dir"} | {
    *("visibility", "deleted", "member_status")  # filters, but with a rule of their own
}
_SETTABLE = {"name", "visibility", "os_hidden", "owner", "tags", "disk_format"} | {
    *("container_format", "min_disk", "min_ram", "protected")
}


@dataclass(frozen=True, slots=True)
class _Ask:
    """A call with who makes it."""

    request: web.Request
    caller: Caller


class _Route:
    """A kind of path and the handler of each method, in the order that `Allow` names them."""

    def __init__(self, kind: str, path: str, **methods: Callable[..., Awaitable[web.Response]]):
        self.kind, self.pattern, self.methods = kind, re.compile(path), methods


class _Packed:
    """Sorted ids of synthetic images, 16 bytes each."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed) // 16

    def at(self, position: int) -> str:
        """The id at a position, as Glance writes it."""
        text = self._packed[position * 16 : position * 16 + 16].hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def raws(self) -> Iterator[bytes]:
        """All ids as bytes."""
        return (self._packed[at : at + 16] for at in range(0, len(self._packed), 16))

    def __contains__(self, image_id: str) -> bool:
        position = bisect_left(range(len(self)), image_id, key=self.at)
        return position < len(self) and self.at(position) == image_id


class _Descending:
    """Turns a comparison round, so one key can hold both directions."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: "_Descending") -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and bool(self.value == other.value)

    __hash__ = None  # type: ignore[assignment]  # a key to compare by, nothing to keep


class _Order:
    """Fields to sort by. Synthetic images differ in their id only, so they stay one block."""

    def __init__(self, fields: Sequence[tuple[str, bool]]) -> None:
        names = {"created_at": "created", "updated_at": "updated"}
        self._fields = [(names.get(name, name), descends) for name, descends in fields]
        self.id_descends = dict(fields)["id"]

    def key(self, image: Image, image_id: str | None = None) -> tuple[Any, ...]:
        """What to compare by; `image_id` stands in for the image's own."""
        key: list[Any] = []
        for name, descends in self._fields:
            value = getattr(image, name)
            value = (image_id or value) if name == "id" else (value is not None, value)
            key.append(_Descending(value) if descends else value)
        return tuple(key)


def _order(query: Mapping[str, str]) -> _Order:
    """Sorting as asked, in either syntax, made total by creation time and id."""
    if "sort" in query and ("sort_key" in query or "sort_dir" in query):
        _fail(400, "Old and new sorting syntax cannot be combined")
    pairs = [part.strip().partition(":")[::2] for part in query.get("sort", "").split(",")]
    if "sort" not in query:
        keys = query.getall("sort_key", ["created_at"])  # type: ignore[attr-defined]
        dirs = query.getall("sort_dir", ["desc"])  # type: ignore[attr-defined]
        if len(dirs) not in {1, len(keys)}:
            _fail(400, "Number of sort dirs does not match the number of sort keys")
        pairs = list(zip(keys, dirs if len(dirs) > 1 else dirs * len(keys), strict=True))
    for name, direction in pairs:
        if name not in _SORTABLE:
            valid = ", ".join(_SORTABLE)
            _fail(400, f"Invalid sort key: {name}. It must be one of the following: {valid}.")
        if direction not in {"asc", "desc", ""}:
            _fail(400, f"Invalid sort direction: {direction}")
    fields = {name: direction != "asc" for name, direction in pairs}
    rest = next(iter(fields.values())) if len(fields) == 1 else True
    for name in ("created_at", "id"):
        if "id" not in fields:  # nothing after the id decides anything
            fields.setdefault(name, rest)
    return _Order([*fields.items()])


def _choices(value: str) -> list[str]:
    return value[3:].split(",") if value.startswith("in:") else [value]


def _equal_test(name: str, value: str) -> _Test:
    """A plain filter; a name that is no field of an image is one of its properties."""
    if name == "tag":
        return lambda image: value in image.tags
    if name in {"name", "status", "owner", "disk_format", "container_format", "checksum"}:
        return lambda image: getattr(image, name) in _choices(value)
    return lambda image: image.properties.get(name) == value


def _time_test(name: str, value: str) -> _Test:
    """A filter like `gte:2024-01-01T00:00:00Z`, against times with their microseconds."""
    try:
        sign, when = "eq", datetime.fromisoformat(value)
    except ValueError:
        sign, _, value = value.partition(":")
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            text = f'Bad "{name}" query filter format. Use ISO 8601 DateTime notation.'
            _fail(400, text)
    if sign not in _OPERATORS:
        _fail(400, "Unable to filter on a unknown operator.")
    compare = _OPERATORS[sign]
    bound = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    of_image = operator.attrgetter(name.removesuffix("_at"))
    return lambda image: compare(of_image(image), bound)


def _fields(body: Mapping[str, Any], known: dict[str, str], ask: "_Ask") -> dict[str, Any]:
    """Image fields out of a v2 record; what is not one of them joins the `known` properties."""
    fields: dict[str, Any] = {}
    for name, value in body.items():
        if name in _READ_ONLY:
            _fail(403, f"Attribute '{name}' is read-only.")
        if name in {"min_disk", "min_ram", "protected"}:
            continue  # always at their defaults here
        if name in _SETTABLE:
            key = "hidden" if name == "os_hidden" else name
            fields[key] = tuple(value) if name == "tags" else value
        else:
            known[name] = str(value)
    scope = fields.get("visibility", "shared")
    if scope not in {"public", "private", "shared", "community"}:
        _fail(400, f"Provided object does not match schema 'image': '{scope}'")
    if scope == "public" and not ask.caller.admin:
        _forbid("publicize_image")
    return {**fields, "properties": known}


async def _fields_v1(request: web.Request, known: Mapping[str, str]) -> dict[str, Any]:
    """Image fields out of `x-image-meta-*` headers, and the data where the call brings any."""
    fields: dict[str, Any] = {}
    properties = dict(known)
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


def _record_v1(image: Image) -> dict[str, Any]:
    def when(moment: float) -> str:
        return datetime.fromtimestamp(moment, UTC).replace(tzinfo=None).isoformat()

    return {
        **{name: getattr(image, name) for name in ("id", "name", "status", "size", "checksum")},
        **{name: getattr(image, name) for name in ("owner", "disk_format", "container_format")},
        **{"is_public": image.visibility == "public", "protected": False, "virtual_size": None},
        **{"deleted": image.deleted, "min_ram": 0, "min_disk": 0},
        **{"created_at": when(image.created), "updated_at": when(image.updated)},
        **{"deleted_at": when(image.updated) if image.deleted else None},
        **{"properties": dict(image.properties)},
    }


def _headers_v1(image: Image) -> dict[str, str]:
    record = _record_v1(image)
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


def _when(moment: float) -> str:
    """A time as v2 shows it: the fraction is cut off, though filters compare with it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _link(params: Sequence[tuple[str, str]]) -> str:
    return "/v2/images" + ("?" + urlencode(params) if params else "")


def _json(value: Any, *, status: int = 200, **headers: str) -> web.Response:
    return _json_text(json.dumps(value), status, **headers)


def _json_text(text: str, status: int = 200, **headers: str) -> web.Response:
    # Bytes, as `text` would add a charset that Glance does not name.
    kind = "application/json"
    return web.Response(body=text.encode(), status=status, headers=headers, content_type=kind)


def _data(data: bytes, status: int, headers: Mapping[str, str]) -> web.Response:
    kind = "application/octet-stream"
    return web.Response(body=data, status=status, headers=headers, content_type=kind)


async def _body(request: web.Request, kind: type = dict) -> Any:
    try:
        body = await request.json()
    except ValueError:
        _fail(400, "Malformed JSON in request body.")
    if not isinstance(body, kind):
        _fail(400, f"Request body must be a JSON {kind.__name__}.")
    return body


class _Fault(Exception):
    """An answer that is an error, thrown from wherever it is found out."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str]) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers

    def response(self) -> web.Response:
        """The page that webob makes of it."""
        code = f"{self.status} {HTTPStatus(self.status).phrase}"
        text = (
            f"<html>\n <head>\n  <title>{code}</title>\n </head>\n <body>\n  <h1>{code}</h1>\n"
            f"  {html.escape(self.text)}<br /><br />\n\n\n\n </body>\n</html>"
        )
        return web.Response(text=text, status=self.status, headers=self.headers, **_HTML)


def _fail(status: int, text: str, **headers: str) -> NoReturn:
    raise _Fault(status, text, headers)


def _forbid(action: str) -> NoReturn:
    _fail(403, f"You are not authorized to complete {action} action.")
