"""Another program writes to keys of the resolver in Redis, under load."""

from __future__ import annotations

import time
import uuid

import pytest

from resolver.index.keys import Keys
from resolver.standin import StandIn
from tests.faults.test_faults import RECOVERY_TIMEOUT, World, folder, world
from tests.gateway.conftest import ADMIN
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

__all__ = ["folder", "world"]

pytestmark = pytest.mark.redis

KEYS = {
    key.rpartition(":")[2]: (kind, key)
    for kind, keys in Keys("glr:").by_type().items()
    for key in keys
}
NEEDED_FOR_ANSWERS = {"meta", "version", "locations", "status", "removed"}
SHORT = {"locations", "changes"}
"""Keys whose tests are not marked `long`: one that answers need, and one that changes need."""
FOREIGN_REQUESTS = 100


def write_another_type(redis: RedisServer, kind: str, key: str) -> None:
    redis.ask("DEL", key)
    command = "SET" if kind == "list" else "RPUSH"
    redis.ask(command, key, "foreign")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SHORT else [pytest.mark.long]) for name in KEYS]
)
async def test_a_key_of_another_type_makes_no_answer_wrong(world: World, name: str) -> None:
    load, (kind, key) = world.load, KEYS[name]
    resolver = load.process
    async with StandIn() as third, load.running():
        write_another_type(world.redis, kind, key)
        await load.make_requests(FOREIGN_REQUESTS)
        registered = await resolver.admin_status("PUT", "/locations/three", url=third.url)

        async def is_reported() -> bool:
            await resolver.services.index.server_watch.check()
            codes = await resolver.problem_codes()
            return "redis-foreign-keys" in codes or (
                name in NEEDED_FOR_ANSWERS and "index-unavailable" in codes
            )

        await wait_until(is_reported, RECOVERY_TIMEOUT, "it is in /status")
        world.redis.ask("DEL", key)
        deleted = time.monotonic()
        await wait_until(load.has_recovered, RECOVERY_TIMEOUT, "the resolver has recovered")
        recovery_seconds = time.monotonic() - deleted
        names = {"one", "two", "three"} if registered < 300 else {"one", "two"}

        async def are_registered() -> bool:
            return (await resolver.services.tables.fresh()).by_name.keys() == names

        await wait_until(are_registered, RECOVERY_TIMEOUT, "a change is done as a whole or not")
    await wait_until(load.no_claim_is_lost, RECOVERY_TIMEOUT, "acknowledged claims are kept")
    load.report(f"{name} is no {kind}", recovery_seconds)
    load.check()


async def test_keys_and_members_of_another_program_change_no_answer(world: World) -> None:
    """Also buckets of another number of bits, and members of each key of the registry."""
    load = world.load
    with world.redis.client() as client:
        async with load.running():
            for number, (kind, key) in enumerate(KEYS.values()):
                foreign = f"foreign{number}"
                if kind == "hash" and "locations" not in key:
                    client.hset(key, foreign, foreign)
                elif kind == "list":
                    client.lpush(key, foreign)
                elif kind == "set":
                    client.sadd(key, foreign)
                elif kind == "sorted set":
                    client.zadd(key, {foreign: time.time() + 60})
            for key in ("glr:x", "glr:{reg}:x", "glr:lease:x", "glr:z:1234", "glr:zz"):
                client.set(key, uuid.uuid4().hex)
            await load.make_requests(FOREIGN_REQUESTS)
            assert await load.has_recovered(), "nothing happened"
            assert "redis-foreign-keys" not in await load.process.problem_codes()
            await load.process.admin("PATCH", "/locations/one", weight=2)
            async with load.process.http.get("/audit", headers=ADMIN) as response:
                assert response.status == 200
        assert client.exists("glr:x", "glr:{reg}:x", "glr:z:1234", "glr:zz") == 4
    assert await load.no_claim_is_lost()
    load.report("members and keys of another program", 0.0)
    load.check()
