"""Faults of Redis, and indexes and URLs that are refused."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from resolver.errors import IndexLost, IndexUnavailable, ResolverError, SettingsError
from resolver.index import UNREADABLE, Index, open_index
from resolver.index.bucket_layout import DEFAULT_BITS, FORMAT
from resolver.index.redis.client import Command
from resolver.models import Location, Owner
from tests.contract.conftest import Real
from tests.support.cluster import RedisCluster
from tests.support.ids import make_ids
from tests.support.instrumented_client import InstrumentedClient
from tests.support.process import free_port
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis
IDS = make_ids(50)
ONE = Location(name="one", url="http://one.example")


async def test_the_default_number_of_buckets(real: Real) -> None:
    async with open_index("memory:") as index:
        assert (index.bits, index.embedded) == (DEFAULT_BITS, True)
    async with open_index(real.url) as index:
        assert (index.bits, index.embedded) == (DEFAULT_BITS, False)


async def test_an_index_keeps_the_bits_it_was_created_with(real: Real) -> None:
    async with open_index(real.url, bits=11) as index:
        await index.claims.claim(1, IDS)
    for configured in (None, 11):
        async with open_index(real.url, bits=configured) as index:
            assert index.bits == 11
            assert (await index.claims.lookup(IDS)).owners == [(Owner(1),)] * len(IDS)


async def test_processes_that_create_an_index_concurrently_share_it(
    real: Real,
) -> None:
    async def bits(configured: int) -> int:
        async with open_index(real.url, bits=configured) as index:
            return index.bits

    found = await asyncio.gather(*(bits(configured) for configured in (10, 11, 12, 10, 11, 12)))
    assert len(set(found)) == 1


@pytest.mark.parametrize("may_scan", [True, False])
async def test_buckets_of_an_index_whose_registry_was_lost_are_dropped(
    own_redis: RedisServer, *, may_scan: bool
) -> None:
    """Also where there are too many to drop each by its name; and nothing else is dropped."""
    url = own_redis.url
    if not may_scan:
        own_redis.ask("ACL SETUSER", "plain", "on", ">word", "~*", "&*", "+@all", "-scan")
        url = f"redis://plain:word@127.0.0.1:{own_redis.port}/0"
    others = ["glr:x", "glr:O:", "glr:O:s", "glr:o:1234", "glr:M:1234", "other:O:12345"]
    async with open_index(url, bits=18) as index:
        await index.claims.claim(1, IDS)
    for key in others:
        own_redis.ask("SET", key, "1")
    for key in own_redis.ask("KEYS", "glr:{reg}:*"):
        own_redis.ask("DEL", key)
    async with open_index(url, bits=18) as index:
        assert (await index.claims.lookup(IDS)).owners == [()] * len(IDS)
        assert (await index.census()).images == 0
    assert own_redis.ask("EXISTS", *others) == len(others)


async def test_claims_for_an_index_that_was_lost_are_refused(real: Real) -> None:
    """In the new index the number may be that of another location."""
    async with open_index(real.url, bits=8) as index, open_index(real.url) as other:
        await index.claims.claim(1, IDS)
        real.flush()
        await other.create_if_missing()
        with pytest.raises(IndexLost):
            await index.claims.claim(1, IDS)


class LosingClient(InstrumentedClient):
    """Its index is replaced by another one right after an image was claimed."""

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        replies = await super().send(commands, foreground=foreground)
        if any(command[0] == "HSETNX" for command in commands):
            replaced = ("HSET", "glr:{reg}:meta", "identity", "another")
            await super().send([replaced], foreground=foreground)
        return replies


async def test_a_claim_is_not_reported_as_made_where_the_index_was_lost_meanwhile() -> None:
    index = LosingClient().index()
    await index.create_if_missing()
    with pytest.raises(IndexLost):
        await index.claims.claim(1, IDS[:1])


async def test_an_index_with_other_bits_than_the_setting_is_used_with_a_warning(
    real: Real, caplog: pytest.LogCaptureFixture
) -> None:
    """Else nothing could start after a rebuild until the setting is changed everywhere."""
    async with open_index(real.url, bits=11) as index:
        await index.claims.claim(1, IDS)
    assert "RESOLVER_INDEX_BITS" not in caplog.text
    async with open_index(real.url, bits=12) as index:
        await index.identity()
        assert index.bits == 11
        assert (await index.claims.lookup(IDS)).owners == [(Owner(1),)] * len(IDS)
    (warning,) = [r.getMessage() for r in caplog.records if "RESOLVER_INDEX_BITS" in r.getMessage()]
    assert "12" in warning
    assert "11" in warning
    assert "index rebuild" in warning, "it says what to do"


async def test_another_format_is_refused(real: Real) -> None:
    async with open_index(real.url):
        pass
    with real.client() as client:
        client.hset("glr:{reg}:meta", "format", FORMAT + 1)
    with pytest.raises(SettingsError, match=f"format {FORMAT + 1} and this version reads {FORMAT}"):
        async with open_index(real.url):
            pytest.fail("it opened")


async def test_prefixes_keep_two_indexes_apart(real: Real) -> None:
    async with open_index(real.url, prefix="a:") as a, open_index(real.url, prefix="b:") as b:
        await a.claims.claim(1, IDS)
        await a.records.put(ONE, None)
        assert await a.lease("x", seconds=60).acquire()
        assert (await b.claims.lookup(IDS)).owners == [()] * len(IDS)
        assert not (await b.records.load()).records
        assert await b.lease("x", seconds=60).acquire()
    with real.client() as client:
        assert {key[:2] for key in client.scan_iter()} == {b"a:", b"b:"}


async def test_only_leases_and_results_have_a_time_to_live(real: Real) -> None:
    async with open_index(real.url) as index:
        one = await index.records.put(ONE, None)
        await index.claims.claim(one.number, IDS)
        await index.records.request_sweep(one.number)
        await index.lease("x", seconds=60).acquire()
    with real.client() as client:
        seconds = {key: client.ttl(key) for key in client.scan_iter()}
    expiring = {key for key, ttl in seconds.items() if ttl != -1}
    results = {key for key in expiring if key.startswith(b"glr:{reg}:result:")}
    assert expiring == results | {b"glr:lease:x"}
    assert len(results) == 1, "that of the put"
    assert len(seconds) - len(expiring) > 3
    assert all(0 < seconds[key] <= 60 for key in expiring)


async def test_scripts_are_loaded_again_after_a_flush(real: Real) -> None:
    async with open_index(real.url, bits=8) as index:
        lease = index.lease("x", seconds=60)
        for number in (1, 2):
            with real.client() as client:
                client.script_flush()
            assert await index.claims.claim(number, IDS) == len(IDS)
            await index.records.put(Location(name=f"l{number}", url="http://l.example"), None)
            assert await lease.acquire() is (number == 1)
            assert await lease.renew()
        with real.client() as client:
            client.script_flush()
        assert await index.claims.release(1, IDS) == len(IDS)
        with real.client() as client:
            client.script_flush()
        assert await index.claims.purge([2]) == len(IDS)


async def answers(index: Index) -> bool:
    try:
        await index.ping()
    except IndexUnavailable:
        return False
    return True


async def test_an_open_index_survives_a_restart_of_redis(own_real: Real) -> None:
    async with open_index(own_real.url, bits=8) as index:
        await index.claims.claim(1, IDS)
        before = await index.identity()
        own_real.kill()
        with pytest.raises(IndexUnavailable):
            await index.claims.lookup(IDS)
        own_real.start()
        # Redis had kept nothing on disk, so callers get an error. A new index works again.
        await wait_until(lambda: answers(index), message="the index answers again")
        for call in (index.claims.lookup(IDS), index.claims.claim(2, IDS), index.identity()):
            with pytest.raises(IndexLost):
                await call
        assert (await index.records.load()).identity == ""
        await index.create_if_missing()
        assert await index.identity() != before
        assert (await index.claims.lookup(IDS)).owners == [()] * len(IDS)
        assert await index.claims.claim(2, IDS) == len(IDS)
        assert (await index.claims.lookup(IDS)).owners == [(Owner(2),)] * len(IDS)


async def test_every_call_fails_as_unavailable_without_redis(own_real: Real) -> None:
    async with open_index(own_real.url, bits=8) as index:
        one = await index.records.put(ONE, None)
        lease = index.lease("x", seconds=60)
        own_real.kill()
        calls = [
            index.ping(),
            index.claims.lookup(IDS),
            index.claims.claim(1, IDS),
            index.claims.release(1, IDS),
            index.claims.purge([1]),
            index.census(),
            index.records.load(),
            index.records.put(one, None),
            index.records.remove("one"),
            index.records.progress(),
            index.records.request_sweep(1),
            index.records.retired(),
            lease.acquire(),
            lease.renew(),
            lease.release(),
        ]
        async with asyncio.timeout(10):
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, IndexUnavailable)
                assert (error.status, error.headers.get("Retry-After")) == (503, "2")


@pytest.mark.parametrize(
    "url", ["redis://{0}", "redis+cluster://{0},{1}", "redis+sentinel://{0},{1}/x"]
)
async def test_opening_an_index_without_redis_fails_soon(url: str) -> None:
    nowhere = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    async with asyncio.timeout(5):
        with pytest.raises(IndexUnavailable, match="Redis did not answer"):
            async with open_index(url.format(*nowhere)):
                pytest.fail("it opened")


def command_all(real: Real, *command: str) -> None:
    """Sends a command to each server that accepts writes."""
    for server in real.masters() if isinstance(real, RedisCluster) else [real]:
        with server.client() as client:
            client.execute_command(*command)


async def test_an_abandoned_call_does_not_answer_the_next_one(real: Real) -> None:
    """A reply that nobody awaits must not be read as the reply to another call."""
    async with open_index(real.url, bits=8) as index:
        await index.claims.claim(1, IDS[:1])
        for image_id in IDS[1:4]:
            command_all(real, "CLIENT", "PAUSE", "60000", "WRITE")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.03):
                    await index.claims.claim(2, [image_id])
            command_all(real, "CLIENT", "UNPAUSE")
            assert (await index.claims.lookup(IDS[:1])).owners == [(Owner(1),)]


async def test_a_bucket_of_another_type_is_not_written_and_its_images_are_unreadable(
    real: Real,
) -> None:
    async with open_index(real.url, bits=8) as index:
        key = index.claims.buckets.key(index.claims.buckets.number(IDS[0]))
        with real.client() as client:
            client.set(key, "not a hash")
        with pytest.raises(IndexUnavailable, match="WRONGTYPE"):
            await index.claims.claim(1, IDS[:1])
        assert (await index.claims.lookup(IDS[:1])).owners == [UNREADABLE]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "http://localhost",
        "redis://localhost:port",
        "redis+sentinel://localhost",
        "redis+sentinel:///service",
        "redis+cluster://",
        "memory:/x",
    ],
)
async def test_a_redis_url_of_an_unknown_form_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="RESOLVER_REDIS_URL"):
        async with open_index(url):
            pytest.fail("it opened")


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:s3cret@localhost:port",
        "redis+sentinel://me:s3cret@localhost",
        "redis+cluster://me:s3cret@",
        "http://me:s3cret@localhost",
        "redis://me:s3cret/x@localhost",
    ],
)
async def test_a_bad_url_does_not_show_its_password(url: str) -> None:
    with pytest.raises(ResolverError) as caught:
        async with open_index(url):
            pytest.fail("it opened")
    assert "s3cret" not in caught.value.detail


async def test_the_embedded_index_without_fakeredis_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "fakeredis", None)
    with pytest.raises(SettingsError, match=r"pip install '\.\[memory\]'"):
        async with open_index("memory:"):
            pytest.fail("it opened")
