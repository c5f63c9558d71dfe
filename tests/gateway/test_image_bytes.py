"""Requests for an image's bytes lead to an owner that has them, or say why there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from resolver.image_facts import STATUSES, Content, HashKind, ImageFacts, ImageStatus
from resolver.models import format_id, parse_id
from tests.gateway.conftest import Gateway, Start
from tests.support.clouds import Cloud, Hold, cloud_of
from tests.support.contents import ONE, OTHER
from tests.support.faults import status
from tests.support.ids import make_ids
from tests.support.wait import wait_until

ID, *MORE = [format_id(image_id) for image_id in make_ids(40)]
ACTIVE, PENDING, DEACTIVATED, DEAD = ImageStatus
PATHS = (f"/v2/images/{ID}/file", f"/v1/images/{ID}")
METADATA = (("GET", f"/v2/images/{ID}"), ("HEAD", f"/v1/images/{ID}"))


async def order_of(gateway: Gateway) -> list[list[str]]:
    """The owners' names as single and bulk answers have them."""
    _, one = await gateway.get(f"/resolve/{ID}")
    _, (many,) = await gateway.call("POST", "/resolve", json=[ID])
    return [[owner["location"] for owner in body["owners"]] for body in (one, many)]


@pytest.fixture
async def pair(gateway: Gateway) -> Gateway:
    """A gateway with two locations, the first of which is preferred. It asks neither."""
    for rank, name in enumerate(("preferred", "other")):
        await gateway.location(name, priority=rank, versions=("v1.1", "v2.15"))
    await gateway.services.tables.current()
    return gateway


@pytest.mark.parametrize("status", [s for s in STATUSES if s != "active"])
async def test_an_owner_without_bytes_comes_after_one_with(pair: Gateway, status: str) -> None:
    await pair.claim_with_facts("preferred", ID, ImageFacts.of({"status": status}).status)
    await pair.claim_with_facts("other", ID, ACTIVE)
    assert await order_of(pair) == [["other", "preferred"]] * 2
    for method, path in (*METADATA, *(("GET", path) for path in PATHS)):
        response, _ = await pair.call(method, path)
        assert response.status == 307
        assert response.headers["Location"].startswith("https://other.example"), path
        assert "Link" not in response.headers


@pytest.mark.parametrize(
    ("preferred", "other", "status", "code", "first"),
    [
        (PENDING, PENDING, 503, "image-pending", "preferred"),
        (DEAD, PENDING, 503, "image-pending", "other"),
        (DEACTIVATED, PENDING, 503, "image-pending", "other"),
        (DEAD, DEAD, 410, "image-dead", "preferred"),
    ],
)
async def test_a_read_of_bytes_that_no_owner_has_is_not_redirected(
    pair: Gateway, preferred: ImageStatus, other: ImageStatus, status: int, code: str, first: str
) -> None:
    """Glance would answer 204, and clients would take that for an empty image."""
    await pair.claim_with_facts("preferred", ID, preferred)
    await pair.claim_with_facts("other", ID, other)
    for _ in range(2):  # the second time from the cache
        for path in PATHS:
            response, body = await pair.get(path)
            assert (response.status, body["code"], body["outcome"]) == (status, code, "found")
            assert str(preferred) in body["detail"]
            assert f"{other} at other" in body["detail"]
            assert ("Retry-After" in response.headers) == (status == 503)
            assert body["owners"][0]["location"] == first
    for method, path in METADATA:
        response, _ = await pair.call(method, path)
        assert response.status == 307
        assert response.headers["Location"].startswith(f"https://{first}.example")
    response, _ = await pair.get(PATHS[0], headers={"User-Agent": "python-glanceclient"})
    assert response.status == status


@pytest.mark.parametrize("worst", [DEACTIVATED, DEAD])
async def test_a_deactivated_image_is_left_to_its_owner(pair: Gateway, worst: ImageStatus) -> None:
    """Glance refuses it to users and hands it out to admins."""
    await pair.claim_with_facts("preferred", ID, worst)
    await pair.claim_with_facts("other", ID, DEACTIVATED)
    first = "preferred" if worst is DEACTIVATED else "other"
    for path in PATHS:
        response, _ = await pair.get(path)
        assert response.status == 307
        assert response.headers["Location"].startswith(f"https://{first}.example")
    for method, path in METADATA:
        response, _ = await pair.call(method, path)
        assert response.headers["Location"].startswith(f"https://{first}.example")


async def test_a_link_names_eight_duplicates_at_most(gateway: Gateway) -> None:
    names = [f"l{n:02}" for n in range(60)]
    for rank, name in enumerate(names):
        await gateway.location(name, priority=rank)
    await gateway.services.tables.current()
    contents = [None, OTHER, *(ONE for _ in names[2:])]
    for _ in range(2):
        for name, content in zip(names[1:], contents[1:], strict=True):
            await gateway.claim_with_facts(name, ID, ACTIVE, content)
        await gateway.claim_with_facts(names[0], ID, ACTIVE, ONE)
        await gateway.claim_with_facts(names[1], ID, ACTIVE, OTHER)
    number = gateway.services.tables.table.by_name[names[2]].location.number
    await gateway.services.index.claims.release(number, [parse_id(ID)])
    await gateway.services.index.claims.claim(number, [parse_id(ID)])  # nothing is known of it
    for path in (f"/v2/images/{ID}", PATHS[0]):
        response, _ = await gateway.get(path)
        links = response.headers["Link"].split(", ")
        assert [link.partition(".example")[0] for link in links] == [
            f"<https://{name}" for name in names[3:11]
        ], "neither of other bytes, nor where they are not known"
        assert sum(map(len, response.headers.values())) < 3000


async def test_show_and_file_of_other_bytes_are_at_the_same_owner(gateway: Gateway) -> None:
    """v1 has no JSON metadata, so that `show` must be at the second owner: so is `file`, unless its
    bytes are known to be the same."""
    await gateway.location("old", priority=1, versions=("v1.1",))
    await gateway.location("new", priority=2)
    await gateway.services.tables.current()
    one, other = (Content(HashKind.CHECKSUM, digest, 7) for digest in (b"12345678", b"another!"))
    sha = Content(HashKind.OS_HASH, b"12345678")  # it cannot be compared with a checksum
    for second, at in ((one, "old"), (other, "new"), (sha, "new")):
        for _ in range(2):
            await gateway.claim_with_facts("old", ID, ACTIVE, one)
            await gateway.claim_with_facts("new", ID, ACTIVE, second)
        for path, expected in (
            (f"/v2/images/{ID}", "new"),
            (f"/v2/images/{ID}/file", at),
            (f"/v1/images/{ID}", "old"),
        ):
            response, _ = await gateway.get(path)
            assert response.headers["Location"].startswith(f"https://{expected}."), (path, second)
            assert ("Link" in response.headers) == (second is one and path != f"/v2/images/{ID}")
        response, _ = await gateway.call("HEAD", f"/v1/images/{ID}")
        assert response.headers["Location"].startswith("https://old.")


@pytest.fixture
async def cloud(start: Start) -> AsyncIterator[tuple[Gateway, Cloud]]:
    gateway = await start(probe=True, probe_timeout=5, index_timeout=5)
    async with cloud_of(gateway.services) as cloud:
        yield gateway, cloud


async def test_owners_are_asked_before_bytes_are_refused(cloud: tuple[Gateway, Cloud]) -> None:
    """An import may have ended since the last poll."""
    gateway, servers = cloud
    one, two = await servers.add("one"), await servers.add("two")
    for server in (one, two):
        server.add(id=ID, status="importing", data=b"")
    for name in ("one", "two"):
        await gateway.claim_with_facts(name, ID, PENDING)
    response, body = await gateway.get(PATHS[0])
    assert (response.status, body["code"]) == (503, "image-pending")
    assert servers.image_requests("one") == servers.image_requests("two") == 1
    await wait_until(lambda: not gateway.services.prober.in_flight)
    two.update(ID, status="active", data=b"bytes")
    response, _ = await gateway.get(PATHS[0])
    assert (response.status, response.headers["Location"]) == (307, f"{two.url}{PATHS[0]}")
    await wait_until(lambda: not gateway.services.prober.in_flight)
    asked = servers.image_requests("two")
    response, _ = await gateway.get(f"/v2/images/{ID}")
    assert response.headers["Location"].startswith(two.url)
    assert servers.image_requests("two") == asked, "the index knows it now"


async def test_other_locations_are_asked_before_bytes_are_refused(
    cloud: tuple[Gateway, Cloud],
) -> None:
    """The index knows nothing of the copy that can be downloaded."""
    gateway, servers = cloud
    one, two = await servers.add("one"), await servers.add("two")
    one.add(id=ID, status="queued", data=b"")
    two.add(id=ID)
    await gateway.claim_with_facts("one", ID, PENDING)
    response, _ = await gateway.get(PATHS[0])
    assert (response.status, response.headers["Location"]) == (307, f"{two.url}{PATHS[0]}")


REFUSED_BYTES = [("killed", DEAD, 410), ("deactivated", DEACTIVATED, 307)]
"""Glance's status, ours, and the answer when no other location has the image."""


@pytest.mark.parametrize(("glance_status", "known", "final"), REFUSED_BYTES)
async def test_bytes_are_not_refused_while_a_location_may_have_them(
    cloud: tuple[Gateway, Cloud], glance_status: str, known: ImageStatus, final: int
) -> None:
    gateway, servers = cloud
    (await servers.add("one")).add(id=ID, status=glance_status, data=b"")
    await servers.add("two")
    await gateway.claim_with_facts("one", ID, known)
    servers.set_fault("two", status(500))
    for path in PATHS:
        response, body = await gateway.get(path)
        assert (response.status, body["code"], body["missing"]) == (503, "image-unknown", ["two"])
        assert f"{known} at one" in body["detail"]
        assert "two: it gave no usable answer" in body["detail"]
        assert response.headers["Retry-After"]
    servers.set_fault("two", None)
    for path in PATHS:
        response, _ = await gateway.get(path)
        assert response.status == final


async def test_a_copy_that_the_index_does_not_know_comes_before_a_deactivated_one(
    cloud: tuple[Gateway, Cloud],
) -> None:
    gateway, servers = cloud
    (await servers.add("one")).add(id=ID, status="deactivated")
    two = await servers.add("two")
    two.add(id=ID)
    await gateway.claim_with_facts("one", ID, DEACTIVATED)
    response, _ = await gateway.get(PATHS[0])
    assert response.headers["Location"] == f"{two.url}{PATHS[0]}"


@pytest.mark.parametrize("known", [DEAD, DEACTIVATED])
@pytest.mark.parametrize("why", ["excluded by the request", "in maintenance"])
async def test_bytes_are_not_refused_while_an_owner_that_has_them_may_not_be_offered(
    pair: Gateway, known: ImageStatus, why: str
) -> None:
    await pair.claim_with_facts("preferred", ID, known)
    await pair.claim_with_facts("other", ID, ACTIVE)
    headers = {}
    if why == "in maintenance":
        await pair.services.registry.patch("other", {"state": "maintenance"})
    else:
        headers = {"X-Resolver-Exclude": "other"}
    for path in PATHS:
        response, body = await pair.get(path, headers=headers)
        assert (response.status, body["missing"]) == (503, ["other"])
        assert f"other: it is {why}" in body["detail"]


@pytest.mark.parametrize("known", [DEAD, DEACTIVATED])
async def test_without_probes_coverage_decides_whether_bytes_are_refused(
    pair: Gateway, known: ImageStatus
) -> None:
    await pair.location("third", covered=False)
    await pair.claim_with_facts("preferred", ID, known)
    response, body = await pair.get(PATHS[0])
    assert (response.status, body["code"], body["missing"]) == (503, "image-unknown", ["third"])
    await pair.location("third")
    response, _ = await pair.get(PATHS[0])
    assert response.status == (410 if known is DEAD else 307)


async def test_the_text_about_bytes_that_no_owner_has_is_short(gateway: Gateway) -> None:
    for n in range(20):
        await gateway.location(f"location-{n}")
        await gateway.claim_with_facts(f"location-{n}", ID, PENDING)
    response, body = await gateway.get(PATHS[0])
    assert (response.status, body["code"]) == (503, "image-pending")
    assert "and 16 more" in body["detail"]
    assert len(body["detail"]) < 300


async def test_a_probe_waits_for_an_owner_with_bytes(cloud: tuple[Gateway, Cloud]) -> None:
    gateway, servers = cloud
    (await servers.add("quick")).add(id=ID, status="queued", data=b"")
    (await servers.add("slow")).add(id=ID)
    hold = Hold()
    servers.set_fault("slow", hold)
    asking = asyncio.create_task(gateway.get(PATHS[0]))
    await wait_until(lambda: hold.waiting and servers.image_requests("quick"))
    hold.open.set()
    response, _ = await asking
    assert response.status == 307
    assert response.headers["Location"].startswith(servers.servers["slow"].url)
