"""The indexer has the index grow while it sweeps, and no answer is wrong meanwhile."""

from __future__ import annotations

import pytest

from resolver.index import open_index
from resolver.models import parse_id
from resolver.standin import StandIn
from tests.support.indexing import indexing, swept
from tests.support.wait import wait_until

IMAGES = 7000
BITS = 4
"""Too few for so many images."""


@pytest.mark.redis
async def test_a_sweep_of_many_images_has_the_index_grow(redis_url: str, server: StandIn) -> None:
    server.fill(IMAGES, seed=1)
    ids = [parse_id(text) for text in server.ids()]
    async with open_index(redis_url, bits=BITS):
        pass
    async with indexing(redis_url, index_bits=None) as services:
        await services.registry.put("one", {"url": server.url})
        first = await swept(services, "one")
        assert first.images == IMAGES
        index = services.index

        async def has_grown() -> bool:
            owners = (await index.claims.lookup(ids)).owners
            assert all(owners), "each image is found at every moment"
            return index.bits > BITS and await index.rebuild.requested() is None

        await wait_until(has_grown)
        gone = next(server.ids())
        server.delete(gone)
        await services.registry.sweep("one")
        second = await swept(services, "one", since=first.ended)
        assert (second.claimed, second.released) == (0, 1)
        census = await index.census()
        assert (census.images, dict(census.claims)) == (IMAGES - 1, {1: IMAGES - 1})
        assert census.fullest < 512
