"""Redis loses keys without a word: nothing wrong is answered, and what is lost comes back."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.exceptions import ResponseError

from resolver.errors import IndexUnavailable
from resolver.gateway.server import serving
from resolver.index import Index, open_index
from resolver.models import Location, Outcome, Owner, format_id
from resolver.resolution import Preferences
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from resolver.sync import IndexerTimings
from tests.support.ids import make_ids
from tests.support.metric_names import metrics_text
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

IDS = make_ids(3000)
NOWHERE = make_ids(50, seed=2)
ANY = Preferences()
BITS = 8
ROUNDS = 12
SETTINGS: dict[str, Any] = {
    "port": 0,
    "probe": False,
    "index_timeout": 5,
    "index_bits": BITS,
    "poll_interval": 0,
    "health_interval": 3600,
    # Sweeps run when something was lost, and when a test asks for one.
    "sweep_interval": 20,
}


@asynccontextmanager
async def world(redis_url: str) -> AsyncIterator[Services]:
    """One process with an indexer, and a location whose images are all in the index."""
    async with StandIn() as server:
        for image_id in IDS:
            server.add(id=format_id(image_id))
        settings = Settings(redis_url=redis_url, **SETTINGS)
        timings = IndexerTimings(tick=0.05, sweep_retry=0.2)
        locations = {"one": {"url": server.url, "sees_all": True}}
        async with (
            open_services(settings, locations, timings=timings) as services,
            serving(services),
        ):
            await wait_until(lambda: is_whole(services), message="the first sweep is complete")
            yield services


async def outcomes(services: Services, ids: list[bytes]) -> Counter[Outcome]:
    """Of all ids at once and of some one by one."""
    found: Counter[Outcome] = Counter()
    for answer in await services.bulk_resolver.resolve_many(ids, ANY):
        found[answer.outcome] += 1
    for image_id in ids[::100]:
        found[(await services.resolver.resolve(image_id, ANY)).outcome] += 1
    return found


async def first_outcomes(services: Services, ids: list[bytes]) -> Counter[Outcome]:
    """The first that the index answers with. It answers nothing while the registry is lost."""

    async def answered() -> Counter[Outcome] | None:
        with suppress(IndexUnavailable):
            return await outcomes(services, ids)
        return None

    found: Counter[Outcome] = await wait_until(answered, message="the index answers")
    return found


async def is_whole(services: Services) -> bool:
    """Whether every image is found, and absence is proved again."""
    try:
        known = await outcomes(services, IDS)
        unknown = await outcomes(services, NOWHERE)
    except IndexUnavailable:
        return False
    return set(known) == {Outcome.FOUND} and set(unknown) == {Outcome.ABSENT}


def evict(redis: RedisServer, policy: str, kilobytes: int) -> int:
    """Makes Redis drop keys of its choice. Returns how many it has dropped since its start."""
    redis.ask("CONFIG SET", "maxmemory-policy", policy)
    used = int(redis.ask("INFO", "memory").split(b"used_memory:")[1].split()[0])
    redis.ask("CONFIG SET", "maxmemory", used - 1024 * kilobytes)
    with suppress(ResponseError):  # it has nothing left to drop
        redis.ask("SET", "somebody-elses", "key")
    redis.ask("CONFIG SET", "maxmemory", 0)
    redis.ask("CONFIG SET", "maxmemory-policy", "noeviction")
    return int(redis.ask("INFO", "stats").split(b"evicted_keys:")[1].split()[0])


@pytest.mark.parametrize("policy", ["allkeys-random", "allkeys-lru", "volatile-ttl"])
async def test_no_image_is_absent_because_its_bucket_was_evicted(
    own_redis: RedisServer, policy: str
) -> None:
    """Nobody is asked about an image here, so only the index proves absence."""
    async with world(own_redis.url) as services:
        evicted = 0
        for _ in range(ROUNDS):
            evicted = evict(own_redis, policy, kilobytes=10)
            assert Outcome.ABSENT not in await first_outcomes(services, IDS)
        assert evicted or policy == "volatile-ttl", "Redis was to drop keys"
        await wait_until(lambda: is_whole(services), message="the index is whole again")


@pytest.mark.parametrize("lost", ["meta", "meta version", "meta locations", "meta numbers"])
async def test_no_image_is_absent_because_the_registry_was_evicted(
    own_redis: RedisServer, lost: str
) -> None:
    """The index that is created again does not trust what is left of the old one."""
    async with world(own_redis.url) as services:
        own_redis.ask("DEL", *(f"glr:{{reg}}:{key}" for key in lost.split()))
        await wait_until(lambda: own_redis.ask("EXISTS", "glr:{reg}:meta"), message="a new index")
        assert Outcome.ABSENT not in await first_outcomes(services, IDS)
        await wait_until(lambda: is_whole(services), message="the index is whole again")


async def test_an_eviction_that_nobody_has_noticed_yet(own_redis: RedisServer) -> None:
    """The answer itself finds out."""
    async with world(own_redis.url) as services:
        evicted = checks = 0
        for _ in range(40):
            with suppress(IndexUnavailable):  # Redis may have lost the registry too
                before = await outcomes(services, IDS)
                evicted = evict(own_redis, "allkeys-random", kilobytes=1)
                after = await outcomes(services, IDS)
                assert Outcome.ABSENT not in before + after
                checks += 1
        assert evicted, "Redis was to drop keys"
        assert checks, "the index was to answer at least once"


async def test_an_id_in_upper_case_is_not_absent_because_its_bucket_was_evicted(
    own_redis: RedisServer,
) -> None:
    """The location is asked, and answers 404 to the spelling in lower case."""
    (image_id,) = make_ids(1, seed=5)
    async with StandIn() as server:
        server.add(id=format_id(image_id).upper())
        settings = Settings(redis_url=own_redis.url, **SETTINGS | {"probe": True})
        timings = IndexerTimings(tick=0.05, sweep_retry=0.2)
        locations = {"one": {"url": server.url, "sees_all": True}}
        async with (
            open_services(settings, locations, timings=timings) as services,
            serving(services),
        ):

            async def is_found() -> bool:
                found, nowhere = [
                    (await services.resolver.resolve(asked, ANY)).outcome
                    for asked in (image_id, NOWHERE[0])
                ]
                return (found, nowhere) == (Outcome.FOUND, Outcome.ABSENT)

            seen = []

            async def is_lost() -> bool:
                seen.append(await services.resolver.resolve(image_id, ANY))
                return seen[-1].outcome is not Outcome.FOUND

            await wait_until(is_found, message="the first sweep is complete")
            evicted = 0
            for _ in range(3):
                own_redis.ask("SET", "short-lived", "x" * 100_000, "EX", 1000)
                bucket, _ = services.index.claims.buckets.locate(image_id)
                own_redis.ask("DEL", services.index.claims.buckets.key(bucket))
                before, evicted = evicted, evict(own_redis, "volatile-ttl", kilobytes=50)
                assert evicted > before
                await wait_until(is_lost, message="the eviction is known to the cache")
                assert seen[-1].outcome is Outcome.UNKNOWN, seen[-1].detail
                assert "ids in upper case" in seen[-1].detail
                (bulk,) = await services.bulk_resolver.resolve_many([image_id], ANY)
                assert bulk.outcome is not Outcome.ABSENT
                await wait_until(is_found, message="the location is swept again")


async def test_a_restart_that_loses_the_last_claims(own_redis: RedisServer) -> None:
    """Redis comes back with all but what it had not written to its disk yet."""
    async with world(own_redis.url) as services:
        own_redis.ask("SAVE")
        (late,) = make_ids(1, seed=3)
        await services.registry.claim("one", late, 0)
        assert set(await outcomes(services, [late])) == {Outcome.FOUND}
        own_redis.kill()
        own_redis.start()
        seen = set()

        async def answered() -> bool:
            with suppress(IndexUnavailable):  # not connected again yet
                answer = await services.resolver.resolve(late, ANY)
                seen.add((answer.outcome, answer.source))
            return (Outcome.UNKNOWN, "index") in seen

        await wait_until(answered, message="Redis is asked again")
        assert Outcome.ABSENT not in {outcome for outcome, _ in seen}
        await wait_until(lambda: is_whole(services), message="the location is swept again")
        assert set(await outcomes(services, [late])) == {Outcome.ABSENT}, "its listing lacks it"


async def test_nothing_is_absent_without_permission_for_info(own_redis: RedisServer) -> None:
    own_redis.ask("ACL SETUSER", "blind", "on", ">pw", "~*", "+@all", "-info")
    async with StandIn() as server:
        settings = Settings(redis_url=f"redis://blind:pw@{own_redis.address}", **SETTINGS)
        locations = {"one": {"url": server.url, "sees_all": True}}
        async with open_services(settings, locations) as services, serving(services):

            async def doubted() -> bool:
                answer = await services.resolver.resolve(IDS[0], ANY)
                assert answer.outcome is Outcome.UNKNOWN
                return "Redis does not say whether it has lost anything" in answer.detail

            await wait_until(doubted)
            codes = {problem.code for problem in services.problems.current()}
            assert "redis-optional-rights" in codes


REGISTRY_KEYS = ("numbers", "version", "locations", "status", "retired", "removed", "progress")


@pytest.mark.parametrize("seed", range(8))
async def test_location_numbers_are_not_reused_after_a_loss(
    own_redis: RedisServer, seed: int
) -> None:
    """Whatever part of the registry is lost, while the index itself is there."""
    rng = random.Random(seed)
    given: list[int] = []
    async with open_index(own_redis.url, bits=BITS) as index:
        for n in range(30):
            lost = rng.sample(REGISTRY_KEYS, rng.randrange(len(REGISTRY_KEYS) + 1))
            for key in lost:
                own_redis.ask("DEL", f"glr:{{reg}}:{key}")
            name = f"l{rng.randrange(12)}"
            before = (await index.records.load()).records.get(name)
            if before is not None and rng.random() < 0.5:
                await index.records.remove(name)
                continue
            location = Location(name=name, url=f"http://{n}.example")
            given.append((await index.records.put(location, before)).number)
    assert len(given) == len(set(given))


async def test_numbers_continue_after_a_program_of_format_1(own_redis: RedisServer) -> None:
    """Programs of format 1 increment the counter, and know nothing of the index's meta."""
    async with open_index(own_redis.url, bits=BITS) as index:
        first = await index.records.put(Location(name="one", url="http://one.example"), None)
        own_redis.ask("INCRBY", "glr:{reg}:numbers", 5)
        second = await index.records.put(Location(name="two", url="http://two.example"), None)
        assert second.number == first.number + 6


async def put(index: Index, *names: str) -> None:
    for name in names:
        await index.records.put(Location(name=name, url=f"http://{name}.example"), None)


async def test_a_lost_registry_version_is_replaced_by_a_later_one(own_redis: RedisServer) -> None:
    """Without one, two states of the registry would look the same."""
    async with open_services(Settings(redis_url=own_redis.url, index_bits=BITS)) as services:
        seen = []
        for name in ("one", "two", "three"):
            await put(services.index, name)
            own_redis.ask("DEL", "glr:{reg}:version")
            table = await services.tables.current()
            assert name in table.by_name
            seen.append(table.version)
        assert seen == sorted(set(seen))
        assert min(seen) > 0


async def test_lost_records_are_noticed_by_running_and_new_processes(
    own_redis: RedisServer,
) -> None:
    settings = Settings(redis_url=own_redis.url, **SETTINGS)
    startup = {"one": {"url": "http://one.example"}}
    async with open_services(settings, startup) as old:
        await put(old.index, "two", "three")
        await old.index.records.remove("three")
        own_redis.ask("DEL", "glr:{reg}:locations")
        async with open_services(settings, startup) as new, serving(new):
            table = await new.tables.current()
            assert (set(table.by_name), table.lost) == ({"one"}, {"two"})
            assert "two" in table.coverage_problems(0)
            (problem,) = [p for p in new.problems.current() if p.code == "location-lost"]
            assert problem.location == "two"
            # The old one finds it out by itself, and has the first again as it was.
            await old.tables.current()
            await old.tables.refresh_if_lost()
            assert old.tables.table.lost == {"two"}
            await new.registry.remove("two")
            assert (await new.tables.current()).lost == set()


async def test_a_lost_location_that_is_registered_again_gets_another_number(
    own_redis: RedisServer,
) -> None:
    """Its claims are collected: it may be another server now."""
    async with open_index(own_redis.url, bits=BITS) as index:
        first = await index.records.put(Location(name="one", url="http://one.example"), None)
        own_redis.ask("DEL", "glr:{reg}:locations")
        again = await index.records.put(Location(name="one", url="http://one.example"), None)
        assert again.number != first.number
        assert await index.records.retired() == [first.number]
        assert (await index.records.load()).lost == set()


async def test_lost_records_of_format_1_are_noticed_too(own_redis: RedisServer) -> None:
    """A program of format 1 has registered them."""
    async with open_services(Settings(redis_url=own_redis.url, index_bits=BITS)) as services:
        await put(services.index, "one")
        own_redis.ask("HDEL", "glr:{reg}:meta", "location:one", "number")
        await services.tables.fresh()
        own_redis.ask("DEL", "glr:{reg}:locations")
        assert (await services.index.records.load()).lost == {"one"}


async def test_claims_of_a_lost_registry_give_no_location_images(own_redis: RedisServer) -> None:
    """All processes start again, with locations in another order: numbers mean other locations."""
    ids = IDS[:300]
    async with open_index(own_redis.url, bits=BITS) as index:
        await put(index, "one", "two")
        for number in (1, 2):
            await index.claims.claim(number, ids)
    for key in own_redis.ask("KEYS", "glr:{reg}:*"):
        own_redis.ask("DEL", key)
    async with (
        open_index(own_redis.url, bits=BITS, create=False) as first,
        open_index(own_redis.url, bits=BITS, create=False) as second,
    ):
        await put(first, "two", "one")
        await asyncio.gather(first.create_if_missing(), second.create_if_missing())
        assert first.identity_seen == second.identity_seen
        assert set((await second.claims.lookup(ids)).owners) == {()}
        await first.claims.claim(1, ids)
        assert set((await second.claims.lookup(ids)).owners) == {(Owner(1),)}


async def test_many_processes_make_one_index(own_redis: RedisServer) -> None:
    """None of them drops what another has claimed already."""

    async def start(number: int) -> str:
        async with open_index(own_redis.url, bits=BITS) as index:
            await index.claims.claim(number, IDS[:50])
            return index.identity_seen

    identities = await asyncio.gather(*(start(number) for number in range(1, 13)))
    assert len(set(identities)) == 1
    async with open_index(own_redis.url) as index:
        for owners in (await index.claims.lookup(IDS[:50])).owners:
            assert {owner.number for owner in owners} == set(range(1, 13))


async def test_an_eviction_policy_is_noticed_while_running(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = Settings(redis_url=own_redis.url, **SETTINGS)
    async with open_services(settings) as services:
        watch = services.index.server_watch

        def codes() -> set[str]:
            return {problem.code for problem in services.problems.current()}

        assert "redis-eviction" not in codes()
        assert not watch.may_evict
        for policy, what in (("allkeys-lfu", "parts of the index"), ("volatile-lru", "leases")):
            own_redis.ask("CONFIG SET", "maxmemory-policy", policy)
            await watch.check()
            (problem,) = [p for p in services.problems.current() if p.code == "redis-eviction"]
            assert policy in problem.text
            assert what in problem.text
            assert watch.may_evict
            assert policy in caplog.text
        text = await metrics_text(services)
        assert "glance_resolver_redis_may_evict 1.0" in text
        own_redis.ask("CONFIG SET", "maxmemory-policy", "noeviction")
        await watch.check()
        assert "redis-eviction" not in codes()
        assert "redis check passed again" in caplog.text


async def test_an_eviction_policy_is_found_without_info(own_redis: RedisServer) -> None:
    own_redis.ask("ACL SETUSER", "blind", "on", ">pw", "~*", "+@all", "-info")
    own_redis.ask("CONFIG SET", "maxmemory-policy", "allkeys-lru")
    settings = Settings(redis_url=f"redis://blind:pw@{own_redis.address}", **SETTINGS)
    async with open_services(settings) as services:
        (problem,) = [p for p in services.problems.current() if p.code == "redis-eviction"]
        assert "allkeys-lru" in problem.text
