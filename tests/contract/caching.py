"""Shared by the tests of cached claims: an index with a cache, and one of another process."""

from __future__ import annotations

from contextlib import AsyncExitStack

from resolver.index import ClaimCache, Index, open_index
from resolver.models import Owner
from tests.support.wait import wait_until

BITS = 8
SECOND = 1.0
"""How soon every gateway must apply a change."""

Pair = tuple[Index, Index]
"""An index with a cache, and one of another process that makes changes."""


async def open_with_cache(stack: AsyncExitStack, url: str) -> Index:
    cache = ClaimCache(1000, ttl=60)
    return await stack.enter_async_context(open_index(url, bits=BITS, cache=cache))


def cached(index: Index, image_id: bytes) -> set[Owner] | None:
    """The owners that are cached, in any order."""
    found = index.claims.cached(image_id)
    return None if found is None else set(found[0])


async def cache(index: Index, image_id: bytes) -> None:
    """Reads an image until it is cached."""

    async def read() -> bool:
        await index.claims.lookup([image_id], cache=True)
        return cached(index, image_id) is not None

    await wait_until(read, message="the image is cached")


async def open_pair(stack: AsyncExitStack, url: str, image_id: bytes) -> Pair:
    """An index that has cached an image of location 1, and one of another process."""
    index, other = [await open_with_cache(stack, url) for _ in range(2)]
    await other.claims.claim(1, [image_id])
    await cache(index, image_id)
    return index, other


async def invalidated(index: Index, image_id: bytes) -> None:
    """Waits until the image is no longer cached."""
    await wait_until(lambda: cached(index, image_id) is None, SECOND, "the image is invalidated")
