"""The stand-in answers as Glance 33 and 15 were measured to."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.standin import Caller, Image, StandIn

ADMIN, MEMBER = {"X-Auth-Token": "a"}, {"X-Auth-Token": "m"}
TOKENS = {"a": Caller("admin", admin=True), "m": Caller("demo")}
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
BYTES = {"Content-Type": "application/octet-stream"}


class Client:
    """Calls one stand-in and reads complete answers."""

    def __init__(self, session: aiohttp.ClientSession, server: StandIn) -> None:
        self.session, self.server = session, server

    async def __call__(
        self,
        path: str,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        data: Any = None,
    ) -> tuple[int, Any, Any]:
        """Status, parsed body and headers."""
        call = self.session.request(
            method, self.server.url + path, headers=headers, data=data, allow_redirects=False
        )
        async with call as response:
            body = await response.read()
            parsed = json.loads(body) if response.content_type == "application/json" else body
            return response.status, parsed, response.headers

    async def ids(self, query: str = "", headers: dict[str, str] | None = None) -> list[str]:
        """Ids of one page of v2."""
        status, body, _ = await self(f"/v2/images?{query}", headers=headers)
        assert status == 200, body
        return [image["id"] for image in body["images"]]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def call(session: aiohttp.ClientSession) -> AsyncIterator[Client]:
    async with StandIn(tokens=TOKENS) as server:
        yield Client(session, server)


@pytest.fixture
async def pike(session: aiohttp.ClientSession) -> AsyncIterator[Client]:
    async with StandIn(v1=True, old=True, tokens=TOKENS) as server:
        yield Client(session, server)


async def test_versions_need_no_token_and_unknown_paths_get_them_as_300(call: Client) -> None:
    for path, expected in (("/", 300), ("/versions", 200), ("/v1/images/x", 300), ("/v3", 300)):
        status, body, _ = await call(path)
        assert status == expected
        assert [v["id"] for v in body["versions"] if v["status"] == "CURRENT"] == ["v2.17"]
        assert body["versions"][0]["links"][0]["href"] == f"{call.server.url}/v2/"
    status, _, headers = await call("/v2", headers=ADMIN)
    assert (status, headers["Location"]) == (302, f"{call.server.url}/v2/")
    assert (await call("/healthcheck"))[1] == b"OK"
    assert (await call("/v2.9/images", headers=ADMIN))[0] == 200


async def test_a_missing_or_unknown_token_is_401(call: Client) -> None:
    for path in ("/v2", "/v2/images", "/v2/images/x", "/v2/nothing", "/v2/schemas/image"):
        assert (await call(path))[0] == 401
        assert (await call(path, headers={"X-Auth-Token": "?"}))[0] == 401


async def test_without_tokens_everyone_is_admin(session: aiohttp.ClientSession) -> None:
    async with StandIn() as server:
        image = server.add(visibility="private", owner="other")
        assert (await Client(session, server)(f"/v2/images/{image.id}"))[0] == 200


async def test_a_record_has_the_fields_of_glance_33(call: Client) -> None:
    image = call.server.add(name="one", data=b"abc", created=1700000000.75)
    status, body, _ = await call(f"/v2/images/{image.id}", headers=ADMIN)
    assert status == 200
    assert set(body) == {
        *("checksum", "container_format", "created_at", "disk_format", "file", "id", "min_disk"),
        *("min_ram", "name", "os_hash_algo", "os_hash_value", "os_hidden", "owner", "protected"),
        *("schema", "self", "size", "status", "stores", "tags", "updated_at", "virtual_size"),
        "visibility",
    }
    assert body["checksum"] == "900150983cd24fb0d6963f7d28e17f72"
    assert body["updated_at"] == "2023-11-14T22:13:20Z"  # the fraction is not shown


async def test_special_answers_about_one_image(call: Client) -> None:
    image = call.server.add(id=str(uuid.uuid4()).upper())
    status, _, headers = await call(f"/v2/images/{image.id}", "HEAD", ADMIN)
    assert (status, headers["Allow"]) == (405, "GET, PATCH, DELETE")
    assert (await call(f"/v2/images/{image.id}/", headers=ADMIN))[0] == 404
    assert (await call(f"/v2/images/{image.id.lower()}", headers=ADMIN))[0] == 404
    assert (await call(f"/v2/images/{image.id}/members", headers=ADMIN))[0] == 403


async def test_image_data_is_served(call: Client) -> None:
    image, queued = call.server.add(data=b"abcdef"), call.server.add(status="queued")
    status, body, headers = await call(f"/v2/images/{image.id}/file", headers=ADMIN)
    assert (status, body, headers["Content-Type"]) == (200, b"abcdef", "application/octet-stream")
    assert headers["Content-MD5"] == "e80b5017098950fc58aad83c8c14978e"
    assert (await call(f"/v2/images/{queued.id}/file", headers=ADMIN))[0] == 204


async def test_pages_newest_first_and_a_full_last_page_has_next(call: Client) -> None:
    made = [call.server.add(created=1700000000.0 + i).id for i in range(4)]
    status, body, _ = await call("/v2/images?limit=2", headers=ADMIN)
    assert status == 200
    assert [image["id"] for image in body["images"]] == [made[3], made[2]]
    assert (body["first"], body["schema"]) == ("/v2/images?limit=2", "/v2/schemas/images")
    assert body["next"] == f"/v2/images?limit=2&marker={made[2]}"
    _, body, _ = await call(body["next"], headers=ADMIN)
    assert [image["id"] for image in body["images"]] == [made[1], made[0]]
    _, body, _ = await call(body["next"], headers=ADMIN)
    assert (body["images"], "next" in body) == ([], False)
    assert await call.ids("limit=0", ADMIN) == []


async def test_sorting_by_id_in_both_syntaxes(call: Client) -> None:
    made = sorted(call.server.add().id for _ in range(5))
    assert await call.ids("sort=id:asc", ADMIN) == made
    assert await call.ids("sort_key=id&sort_dir=asc", ADMIN) == made
    assert await call.ids("sort=id:desc", ADMIN) == made[::-1]
    assert await call.ids(f"sort=id:asc&marker={made[1]}", ADMIN) == made[2:]


@pytest.mark.parametrize(
    "query",
    [
        *("limit=x", "limit=-1", "marker=x", "visibility=x", "os_hidden=x", "sort=id:up", "sort=x"),
        *("sort=id&sort_key=id", "updated_at=gte:x", "updated_at=about:2024-01-01T00:00:00Z"),
        "changes-since=2024-01-01T00:00:00Z",
    ],
)
async def test_bad_listings_are_400(call: Client, query: str) -> None:
    assert (await call(f"/v2/images?{query}", headers=ADMIN))[0] == 400


async def test_markers_of_deleted_and_invisible_images(call: Client) -> None:
    deleted, private = call.server.add(), call.server.add(visibility="private")
    call.server.delete(deleted.id)
    for image, expected in ((deleted, (200, 400)), (private, (200, 403))):
        found = [
            (await call(f"/v2/images?marker={image.id}", headers=caller))[0]
            for caller in (ADMIN, MEMBER)
        ]
        assert tuple(found) == expected


async def test_image_visibility_depends_on_the_caller(call: Client) -> None:
    add = call.server.add
    public, private = add(), add(visibility="private")
    own = add(visibility="private", owner="demo")
    community = add(visibility="community", owner="other")
    shared, offered = add(visibility="shared", members=("demo",)), add(visibility="shared")
    hidden = add(hidden=True)

    async def seen(query: str, who: dict[str, str]) -> set[str]:
        return set(await call.ids(query, who))

    assert await seen("", MEMBER) == {public.id, own.id, shared.id}
    everything = {public.id, private.id, own.id, shared.id, offered.id}
    assert await seen("", ADMIN) == everything
    assert await seen("visibility=all", ADMIN) == {*everything, community.id}
    assert await seen("visibility=community", MEMBER) == {community.id}
    assert await seen("visibility=private", MEMBER) == {own.id}
    assert await seen("visibility=all&os_hidden=true", ADMIN) == {hidden.id}
    for image, expected in ((private, 404), (community, 200), (shared, 200), (offered, 404)):
        assert (await call(f"/v2/images/{image.id}", headers=MEMBER))[0] == expected
    assert await seen(f"id=in:{public.id},{hidden.id},x", ADMIN) == {public.id}


async def test_listing_filters(call: Client) -> None:
    old = call.server.add(name="a", created=1700000000.5)
    new = call.server.add(name="b", status="queued", owner="demo", properties={"lab": "1"})
    for query, expected in (
        ("updated_at=gte:2023-11-14T22:13:20Z", {old.id, new.id}),
        ("updated_at=lte:2023-11-14T22:13:20Z", set()),  # the half second counts
        ("updated_at=gt:2023-11-14T22:13:21Z", {new.id}),
        ("name=a", {old.id}),
        ("status=queued", {new.id}),
        ("owner=demo", {new.id}),
        ("lab=1", {new.id}),
        ("no-such=1", set()),
    ):
        assert set(await call.ids(query, ADMIN)) == expected, query


async def test_v2_writes(call: Client) -> None:
    body = json.dumps({"id": (image_id := str(uuid.uuid4())), "name": "x", "color": "red"})
    status, record, headers = await call("/v2/images", "POST", ADMIN, body)
    assert (status, record["status"], record["color"]) == (201, "queued", "red")
    assert headers["Location"] == f"{call.server.url}/v2/images/{image_id}"
    assert (await call("/v2/images", "POST", ADMIN, body))[0] == 409
    assert (await call("/v2/images", "POST", ADMIN, '{"id": "x"}'))[0] == 400
    assert (await call("/v2/images", "POST", MEMBER, '{"visibility": "public"}'))[0] == 403
    path = f"/v2/images/{image_id}"
    assert (await call(f"{path}/file", "PUT", ADMIN, b"x"))[0] == 204
    assert (await call(f"{path}/file", "PUT", {**ADMIN, **BYTES}, b"x"))[0] == 409
    assert (await call(f"{path}/file", "PUT", {**ADMIN, "Content-Type": "text/css"}, b"x"))[
        0
    ] == 415
    change = json.dumps([{"op": "replace", "path": "/visibility", "value": "public"}])
    assert (await call(path, "PATCH", {**MEMBER, **PATCH}, change))[0] == 404
    assert (await call(path, "PATCH", {**ADMIN, **PATCH}, change))[1]["visibility"] == "public"
    assert (await call(path, "PATCH", {**MEMBER, **PATCH}, change))[0] == 403
    assert (await call(path, "PATCH", ADMIN, change))[0] == 415
    assert (await call(f"{path}/tags/t", "PUT", ADMIN))[0] == 204
    assert (await call(path, headers=ADMIN))[1]["tags"] == ["t"]
    assert [(await call(f"{path}/tags/t", "DELETE", ADMIN))[0] for _ in range(2)] == [204, 404]
    assert (await call(path, "DELETE", MEMBER))[0] == 403
    assert [(await call(path, "DELETE", ADMIN))[0] for _ in range(2)] == [204, 404]
    assert (await call("/v2/images", "POST", ADMIN, body))[0] == 409  # an id is used up


async def test_deactivated_data_is_served_to_admins_only(call: Client) -> None:
    path = f"/v2/images/{call.server.add(status='deactivated').id}/file"
    assert [(await call(path, headers=who))[0] for who in (ADMIN, MEMBER)] == [200, 403]


async def test_schemas_and_tasks(call: Client) -> None:
    _, schema, _ = await call("/v2/schemas/image", headers=ADMIN)
    assert schema["properties"]["checksum"]["readOnly"] is True
    # glanceclient checks a queued image against this, and fails an upload where null is no size.
    assert schema["properties"]["size"]["type"] == ["null", "integer"]
    for name in ("images", "metadefs/namespace", "metadefs/resource_type"):
        assert (await call(f"/v2/schemas/{name}", headers=ADMIN))[0] == 200
    assert (await call("/v2/schemas/x", headers=ADMIN))[0] == 404
    assert [(await call("/v2/tasks", headers=who))[0] for who in (ADMIN, MEMBER)] == [200, 403]


async def test_pike_has_no_hidden_images_and_no_visibility_all(pike: Client) -> None:
    image = pike.server.add(visibility="community", owner="other")
    assert (await pike("/v2/images?visibility=all", headers=ADMIN))[0] == 400
    assert await pike.ids("os_hidden=false", ADMIN) == []
    assert await pike.ids("visibility=community", ADMIN) == [image.id]
    _, body, _ = await pike("/versions")
    assert [v["id"] for v in body["versions"]][:1] + [v["id"] for v in body["versions"]][-2:] == [
        *("v2.5", "v1.1", "v1.0")
    ]
    _, record, _ = await pike(f"/v2/images/{image.id}", headers=ADMIN)
    assert not {"os_hidden", "os_hash_algo", "stores"} & set(record)


async def test_v1_reads(pike: Client) -> None:
    image = pike.server.add(name="one", data=b"abc", created=1700000000.25)
    private = pike.server.add(visibility="private")
    status, body, headers = await pike(f"/v1/images/{image.id}", "HEAD", ADMIN)
    assert (status, body, headers["X-Image-Meta-Deleted"]) == (200, b"", "False")
    assert headers["X-Image-Meta-Updated_at"] == "2023-11-14T22:13:20.250000"
    status, body, headers = await pike(f"/v1/images/{image.id}", headers=ADMIN)
    assert (status, body, headers["X-Image-Meta-Name"]) == (200, b"abc", "one")
    _, body, _ = await pike("/v1/images", headers=ADMIN)  # public ones unless asked otherwise
    assert [i["id"] for i in body["images"]] == [image.id]
    assert set(body["images"][0]) == {
        *("id", "name", "size", "checksum", "disk_format", "container_format")
    }
    _, body, _ = await pike(
        "/v1/images/detail?is_public=None&sort_key=id&sort_dir=asc&limit=1", "GET", ADMIN
    )
    assert [i["id"] for i in body["images"]] == [min(image.id, private.id)]
    assert "next" not in body
    _, body, _ = await pike(
        f"/v1/images/detail?is_public=none&sort_key=id&sort_dir=asc&marker={body['images'][0]['id']}",
        headers=ADMIN,
    )
    assert [i["id"] for i in body["images"]] == [max(image.id, private.id)]
    for query in (
        "limit=x",
        "marker=x",
        f"marker={uuid.uuid4()}",
        "is_public=x",
        "changes-since=x",
    ):
        assert (await pike(f"/v1/images?{query}", headers=ADMIN))[0] == 400


async def test_v1_shows_deleted_images(pike: Client) -> None:
    live, deleted = pike.server.add(visibility="private"), pike.server.add(visibility="private")
    pike.server.delete(deleted.id)
    _, _, headers = await pike(f"/v1/images/{deleted.id}", "HEAD", ADMIN)
    assert headers["X-Image-Meta-Deleted"] == "True"
    assert (await pike(f"/v1/images/{deleted.id}", headers=ADMIN))[0] == 404
    assert (await pike(f"/v1/images/{deleted.id}", "HEAD", MEMBER))[0] == 404
    since = "/v1/images/detail?changes-since=2023-01-01T00:00:00"
    _, body, _ = await pike(since, headers=ADMIN)  # private: only deleted ones pass is_public
    assert [(i["id"], i["deleted"]) for i in body["images"]] == [(deleted.id, True)]
    _, body, _ = await pike(f"{since}&is_public=none", headers=ADMIN)
    assert {(i["id"], i["deleted"]) for i in body["images"]} == {
        (live.id, False),
        (deleted.id, True),
    }


async def test_v1_writes(pike: Client) -> None:
    meta = {"x-image-meta-name": "n", "x-image-meta-is_public": "True", **ADMIN}
    status, body, _ = await pike("/v1/images", "POST", {**meta, **BYTES}, b"abc")
    assert (status, body["image"]["status"], body["image"]["size"]) == (201, "active", 3)
    path = f"/v1/images/{body['image']['id']}"
    assert (await pike(path, "DELETE", MEMBER))[0] == 403
    assert [(await pike(path, "DELETE", ADMIN))[0] for _ in range(2)] == [200, 404]


async def test_synthetic_images_are_images(session: aiohttp.ClientSession) -> None:
    async with StandIn() as server:
        call = Client(session, server)
        server.fill(3000, seed=1)
        server.fill(10, seed=2, prefix_bytes=b"\xab\xcd")
        special = server.add(id="ABCDEF00-0000-4000-8000-000000000000", name="zebra")
        assert len(server) == 3011
        all_ids = list(server.ids())
        assert all_ids == sorted(all_ids)
        assert sum(image_id.startswith("abcd") for image_id in all_ids) >= 10
        assert {uuid.UUID(image_id).version for image_id in all_ids} == {4}
        for order in ("sort=id:asc", "sort=id:desc", "", "sort=name:asc", "sort=updated_at:asc"):
            walked: list[str] = []
            while page := await call.ids(
                f"limit=1000&{order}" + (f"&marker={walked[-1]}" if walked else "")
            ):
                walked += page
            assert sorted(walked) == all_ids
            assert (walked[0] == special.id) is (order == "")  # newest first
        server.delete(all_ids[7])
        server.update(all_ids[8], hidden=True)
        assert await call.ids("sort=id:asc&limit=8") == [*all_ids[:7], all_ids[9]]
        assert (await call(f"/v2/images/{all_ids[7]}"))[0] == 404
        assert (await call(f"/v2/images/{all_ids[9]}"))[1]["name"] == "synthetic"
        assert await call.ids("updated_at=gte:2024-01-01T00:00:00Z") == [special.id]
        assert await call.ids(f"id=in:{all_ids[9]},{all_ids[10]}&sort=id:asc") == all_ids[9:11]
        assert len(server) == 3010


async def test_the_next_link_lacks_the_path_prefix(session: aiohttp.ClientSession) -> None:
    async with StandIn(prefix="/image") as server:
        server.add()
        call = Client(session, server)
        assert server.url.endswith("/image")
        _, body, _ = await call("/v2/images?limit=1")
        assert body["next"].startswith("/v2/images?limit=1&marker=")
        async with session.get(f"http://127.0.0.1:{server.port}/v2/images") as outside:
            assert outside.status == 404


async def test_middlewares_run_and_requests_are_counted(session: aiohttp.ClientSession) -> None:
    @web.middleware
    async def broken(request: web.Request, handler: Handler) -> web.StreamResponse:
        return web.Response(status=502) if "broken" in request.query else await handler(request)

    async with StandIn(middlewares=[broken]) as server:
        call = Client(session, server)
        assert (await call("/v2/images?broken"))[0] == 502
        assert (await call("/v2/images"))[0] == 200
        await call("/versions")
        assert server.requests == {("GET", "images"): 1, ("GET", "versions"): 1}


async def test_stopping_and_starting_again_keeps_images(session: aiohttp.ClientSession) -> None:
    server = StandIn(page_default=2, page_cap=3)
    for _ in range(4):
        server.add(Image())
    await server.start()
    port = server.port
    await server.stop()
    await server.start(port=port)
    call = Client(session, server)
    assert [len(await call.ids(query)) for query in ("", "limit=9")] == [2, 3]
    await server.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await call("/")
