"""Only invalid replies are reported as faults of Redis; a bug of our own is raised as itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from resolver.errors import IndexUnavailable
from resolver.index import UNREADABLE, Index, open_index
from resolver.models import Location, Owner
from tests.contract.caching import BITS, cache, cached, open_with_cache
from tests.support.ids import make_ids
from tests.support.wait import wait_until

IDS = make_ids(20)
REGISTRY = "glr:{reg}:"

UNREADABLE_AS_A_WHOLE: dict[str, tuple[tuple[Any, ...], Callable[[Index], Awaitable[Any]]]] = {
    "meta": (("HSET", REGISTRY + "meta", "bits", "x"), lambda index: index.identity()),
    "bits": (("HSET", REGISTRY + "meta", "bits", "99"), lambda index: index.identity()),
    "version": (("SET", REGISTRY + "version", "x"), lambda index: index.claims.lookup(IDS)),
    "rebuild": (("HSET", REGISTRY + "meta", "wanted", "x"), lambda i: i.rebuild.requested()),
    "numbers": (("SET", REGISTRY + "numbers", "x"), lambda i: i.records.skip_numbers_through(5)),
}


@pytest.mark.parametrize("key", UNREADABLE_AS_A_WHOLE)
async def test_foreign_data_makes_the_index_unreadable(index: Index, key: str) -> None:
    await index.claims.lookup(IDS)
    command, read = UNREADABLE_AS_A_WHOLE[key]
    await index.client.command(*command)
    with pytest.raises(IndexUnavailable, match="cannot be read"):
        await read(index)


async def read_of_location(index: Index) -> set[bytes]:
    return {image_id async for _, claims in index.claims.of_location(1) for image_id in claims}


@pytest.mark.parametrize("value", [b"\x80", b"\x03ab", b"\xff" * 9])
async def test_unreadable_owners_affect_only_their_image(index: Index, value: bytes) -> None:
    bad, *others = IDS
    await index.claims.claim(1, IDS)
    buckets = index.claims.buckets
    key, field = buckets.key(buckets.number(bad)), buckets.field(bad)
    await index.client.command("HSET", key, field, value)
    owners = (await index.claims.lookup(IDS)).owners
    assert owners == [UNREADABLE, *[(Owner(1),)] * len(others)]
    assert await read_of_location(index) == set(others)
    assert dict((await index.census()).claims) == {1: len(others)}
    assert await index.claims.release(2, IDS) == 0
    assert await index.claims.claim(2, [bad]) == 1, "the next sweep replaces it"
    assert (await index.claims.lookup([bad])).owners == [(Owner(2),)]


@pytest.mark.parametrize("bug", [TypeError("bug"), KeyError("bug"), AttributeError("bug")])
async def test_a_bug_in_the_report_of_a_rebuild_is_raised_as_itself(
    index: Index, bug: Exception
) -> None:
    async def report() -> None:
        raise bug

    with pytest.raises(type(bug), match="bug"):
        await index.rebuild.run(10, report, drop_after=0)


async def test_a_bug_in_our_arguments_is_raised_as_itself(index: Index) -> None:
    with pytest.raises(AttributeError):
        await index.records.put(
            Location(name="one", url="http://one.example"),
            object(),  # type: ignore[arg-type]
        )
    with pytest.raises(TypeError):
        await index.claims.claim("one", [5])  # type: ignore[list-item, arg-type]


@pytest.mark.redis
async def test_a_bug_in_an_invalidation_callback_is_reported_and_invalidates(
    redis_url: str, stack: Any
) -> None:
    index = await open_with_cache(stack, redis_url)
    await index.claims.claim(1, IDS)
    await cache(index, IDS[0])
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    broken = True

    def callback(_: object) -> None:
        if broken:
            raise TypeError("bug")

    index.on_invalidation(callback)
    async with open_index(redis_url, bits=BITS) as other:
        await other.claims.claim(2, IDS)
    await wait_until(lambda: reported)
    assert "bug" in str(reported[0]["exception"])
    assert cached(index, IDS[0]) is None
    broken = False
    await cache(index, IDS[0])
