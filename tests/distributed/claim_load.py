"""Tasks that claim, release and look up continuously, each compared with its own model."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from resolver.errors import IndexUnavailable
from resolver.index import Index
from resolver.models import Owner
from tests.support.wait import wait_until

SOME = 40
"""The most ids in one step."""


class Worker:
    """The only task that changes the claims of location `number`, so each reply and each lookup
    has one right result."""

    def __init__(
        self, index: Index, number: int, ids: Sequence[bytes], *, exact: bool = True
    ) -> None:
        """`exact` False: Redis may lose writes that it acknowledged before it replicated them."""
        self.number = number
        self.exact = exact
        self.claimed: dict[bytes, bool] = dict.fromkeys(ids, False)
        """What Redis has acknowledged, by id."""
        self.unsure: set[bytes] = set()
        """Ids of a call that failed: their state is unknown until the next call that succeeds."""
        self.steps = self.failures = 0
        self.stopped = False
        self.quiet = asyncio.Lock()
        """Held during each step."""
        self._index = index
        self._rng = random.Random(number)

    async def step(self) -> None:
        async with self.quiet:
            ids = self._rng.sample(list(self.claimed), self._rng.randint(1, SOME))
            what = self._rng.choice(["claim", "claim", "release", "lookup"])
            try:
                if what == "lookup":
                    await self.look(ids)
                else:
                    await self._change(ids, claim=what == "claim")
            except IndexUnavailable:
                self.failures += 1
                if what != "lookup":
                    self.unsure.update(ids)
            self.steps += 1

    async def _change(self, ids: list[bytes], *, claim: bool) -> None:
        claims = self._index.claims
        changed = await (claims.claim if claim else claims.release)(self.number, ids)
        if self.exact:
            assert changed == sum(self.claimed[image_id] != claim for image_id in ids)
        self.claimed.update(dict.fromkeys(ids, claim))
        self.unsure.difference_update(ids)

    async def look(self, ids: list[bytes] | None = None) -> None:
        """Asserts that a lookup gives what the model has."""
        ids = [image_id for image_id in ids or self.claimed if image_id not in self.unsure]
        found = (await self._index.claims.lookup(ids)).owners
        got = [Owner(self.number) in owners for owners in found]
        assert not self.exact or got == [self.claimed[image_id] for image_id in ids]

    async def run(self) -> None:
        while not self.stopped:
            await self.step()
            await asyncio.sleep(0)


@asynccontextmanager
async def at_work(*workers: Worker) -> AsyncIterator[None]:
    """The workers run during the block, and none has found anything wrong."""
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield
        await steps(*workers, count=1)  # a worker that failed makes no more steps
    finally:
        for worker in workers:  # not cancelled: the effect of half a step would be unknown
            worker.stopped = True
        await asyncio.gather(*tasks)


async def steps(*workers: Worker, count: int = 10) -> None:
    """Waits until each has made some more steps."""
    until = {worker: worker.steps + count for worker in workers}
    await wait_until(
        lambda: all(worker.steps >= goal for worker, goal in until.items()),
        timeout=60,
        message="the workers make more steps and find nothing wrong",
    )


@asynccontextmanager
async def silence(*workers: Worker) -> AsyncIterator[None]:
    """A block in which no worker executes a step."""
    async with contextlib.AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker.quiet)
        yield


async def check(index: Index, *workers: Worker) -> None:
    """Asserts that lookups, census and claims of each location are what the models have."""
    async with silence(*workers):
        for worker in workers:
            await worker.look()
            assert not worker.unsure
            mine = {image_id for image_id, there in worker.claimed.items() if there}
            found = {
                image_id
                async for _, claims in index.claims.of_location(worker.number)
                for image_id in claims
            }
            assert found == mine
        census = await index.census()
        sizes = {w.number: sum(w.claimed.values()) for w in workers}
        assert dict(census.claims) == {number: size for number, size in sizes.items() if size}
        everything = {image_id for w in workers for image_id, there in w.claimed.items() if there}
        assert census.images == len(everything)


async def claim_all(index: Index, *workers: Worker) -> None:
    """Claims everything; from now on results are exact again."""
    for worker in workers:
        await index.claims.claim(worker.number, list(worker.claimed))
        worker.claimed.update(dict.fromkeys(worker.claimed, True))
        worker.unsure.clear()
        worker.exact = True
