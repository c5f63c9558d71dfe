"""A write whose reply is lost is sent again, and must report the result of its first run.

The proxy drops the first reply to a write and cuts the connection, as a restart of a load balancer
or a failing network does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from resolver.index import Index, open_index
from resolver.models import Location, format_id
from tests.contract.caching import BITS
from tests.gateway.conftest import ADMIN, Start, start
from tests.support.ids import make_id, make_ids
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer

__all__ = ["start"]

pytestmark = pytest.mark.redis
ONE = Location(name="one", url="http://one.example")


class DroppingProxy(Proxy):
    """Drops the next reply that begins with one of `drop`, and cuts all connections with it."""

    drop: tuple[bytes, ...] = ()
    dropped = 0

    def changed(self, data: bytes) -> bytes:
        if not self.drop or not data.startswith(self.drop):
            return data
        self.drop = ()
        self.dropped += 1
        self.cut()
        return b""

    def drop_next_new(self) -> None:
        """The next reply that something is new."""
        self.drop = (b":1",)

    def drop_next_known(self) -> None:
        """The next reply that nothing is new."""
        self.drop = (b":0",)

    def drop_next_result(self) -> None:
        """The result of the next script that writes: a number."""
        self.drop = (b":",)


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[DroppingProxy]:
    redis_server.flush()
    async with DroppingProxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def index(proxy: DroppingProxy) -> AsyncIterator[Index]:
    async with open_index(proxy.url, bits=BITS) as index:
        yield index


async def logged(index: Index) -> list[tuple[str, str]]:
    return [(entry.what, entry.location) for entry in await index.audit.last(100)]


async def test_a_location_is_added_once_when_the_reply_is_lost(
    index: Index, proxy: DroppingProxy
) -> None:
    proxy.drop_next_result()
    put = await index.records.put(ONE, None, "ann")
    assert proxy.dropped == 1
    assert (await index.records.load()).records["one"].location == put
    assert await logged(index) == [("add", "one")]
    assert await index.records.retired() == []


async def test_a_url_is_changed_once_when_the_reply_is_lost(
    index: Index, proxy: DroppingProxy
) -> None:
    """It gets one new number, not two, and no conflict with itself."""
    first = await index.records.put(ONE, None)
    before = (await index.records.load()).records["one"]
    proxy.drop_next_result()
    moved = await index.records.put(Location(name="one", url="http://else.example"), before)
    assert proxy.dropped == 1
    assert moved.number == first.number + 1
    assert (await index.records.load()).records["one"].location == moved
    assert await logged(index) == [("change", "one"), ("add", "one")]


async def test_a_removal_is_reported_as_done_when_the_reply_is_lost(
    index: Index, proxy: DroppingProxy
) -> None:
    await index.records.put(ONE, None)
    proxy.drop_next_result()
    assert await index.records.remove("one", "ann")
    assert proxy.dropped == 1
    assert not (await index.records.load()).records
    assert await logged(index) == [("remove", "one"), ("add", "one")]
    assert not await index.records.remove("one"), "another removal is another operation"


async def test_removing_a_missing_location_is_reported_after_a_lost_reply(
    index: Index, proxy: DroppingProxy
) -> None:
    await index.records.put(ONE, None)
    proxy.drop_next_result()
    assert not await index.records.remove("two")
    assert proxy.dropped == 1


async def test_an_audit_entry_is_recorded_once_when_the_reply_is_lost(
    index: Index, proxy: DroppingProxy
) -> None:
    proxy.drop_next_result()
    await index.audit.record("ann", "rebuild")
    assert proxy.dropped == 1
    assert await logged(index) == [("rebuild", "")]


async def test_claims_and_releases_are_counted_once_when_replies_are_lost(
    index: Index, proxy: DroppingProxy
) -> None:
    ids = make_ids(3)
    for write in (index.claims.claim, index.claims.release):
        proxy.drop_next_result()
        count = await write(1, ids, exactly=True)
        assert (count, count.is_exact) == (3, True)
        count = await write(1, ids, exactly=True)
        assert (count, count.is_exact) == (0, True), "another call is another operation"
    assert proxy.dropped == 2


async def test_a_count_is_inexact_when_a_reply_is_lost(index: Index, proxy: DroppingProxy) -> None:
    ids = make_ids(3)
    for write in (index.claims.claim, index.claims.release):
        proxy.drop_next_result()
        count = await write(1, ids)
        assert count <= 3
        assert not count.is_exact
        count = await write(1, ids)
        assert (count, count.is_exact) == (0, True)
    assert proxy.dropped == 2
    assert (await index.claims.lookup(ids)).owners == [()] * 3


async def test_results_of_claims_are_kept_for_a_minute_at_most(
    index: Index, redis_server: RedisServer
) -> None:
    await index.claims.claim(1, make_ids(3), exactly=True)
    with redis_server.client() as client:
        keys = list(client.scan_iter("glr:result:*"))
        assert keys
        assert all(0 < client.ttl(key) <= 60 for key in keys)


async def test_a_lease_acquired_with_a_lost_reply_is_held(
    index: Index, proxy: DroppingProxy
) -> None:
    lease = index.lease("x", seconds=60)
    proxy.drop = (b"+OK",)
    assert await lease.acquire()
    assert proxy.dropped == 1
    assert await lease.renew()
    assert not await index.lease("x", seconds=60).acquire()


async def test_operators_get_the_right_status_when_replies_are_lost(
    start: Start, proxy: DroppingProxy
) -> None:
    gateway = await start(redis_url=proxy.url)
    proxy.drop_next_result()
    response, _ = await gateway.call(
        "PUT", "/locations/one", headers=ADMIN, json={"url": "http://127.0.0.1:9"}
    )
    assert (response.status, proxy.dropped) == (201, 1)
    proxy.drop_next_result()
    response, _ = await gateway.call("DELETE", "/locations/one", headers=ADMIN)
    assert (response.status, proxy.dropped) == (204, 2)
    assert await logged(gateway.services.index) == [("remove", "one"), ("add", "one")]
    response, _ = await gateway.call("DELETE", "/locations/one", headers=ADMIN)
    assert response.status == 404


async def test_a_manual_claim_has_the_right_status_when_replies_are_lost(
    start: Start, proxy: DroppingProxy
) -> None:
    gateway = await start(redis_url=proxy.url)
    await gateway.location("one")
    image_id = make_id(1)
    await gateway.services.index.records.pin_claim(1, image_id)  # else its reply would be lost
    proxy.drop_next_new()
    path = f"/locations/one/images/{format_id(image_id)}"
    response, _ = await gateway.call("PUT", path, headers=ADMIN)
    assert (response.status, proxy.dropped) == (201, 1)
    response, _ = await gateway.call("PUT", path, headers=ADMIN)
    assert response.status == 204


async def test_an_import_reports_an_unknown_number_of_new_claims_when_a_reply_is_lost(
    start: Start, proxy: DroppingProxy
) -> None:
    gateway = await start(redis_url=proxy.url)
    await gateway.location("one")
    await gateway.claim("one", *map(format_id, make_ids(20)))
    async with gateway.http.get("/index/export", headers=ADMIN) as response:
        text = await response.read()
    for is_lost in (True, False):
        if is_lost:
            proxy.drop_next_known()
        response, body = await gateway.call("POST", "/index/import", headers=ADMIN, data=text)
        assert (response.status, body["claims"]) == (200, 20)
        assert body["new"] == (None if is_lost else 0)
