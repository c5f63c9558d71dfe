"""Tasks that claim, release and look up all the time, each compared with a model of its own."""

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
"""Ids that one step is about, at most."""


class Worker:
    """The only one that makes and drops the claims of location `number`, so that each reply and
    each lookup of it has one right answer."""

    def __init__(
        self, index: Index, number: int, ids: Sequence[bytes], *, exact: bool = True
    ) -> None:
        """`exact` False: Redis loses what it had acknowledged and not replicated, as it may."""
        self.number = number
        self.exact = exact
        self.claimed: dict[bytes, bool] = dict.fromkeys(ids, False)
        """What Redis has acknowledged, by id."""
        self.unsure: set[bytes] = set()
        """Ids of a call that failed, or was repeated: nobody knows, until they are set again."""
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
    """The workers work all the while, and none has seen anything wrong."""
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield
        await steps(*workers, count=1)  # one that has failed does not go on
    finally:
        for worker in workers:  # not cancelled: what a step that is cut short did is unknown
            worker.stopped = True
        await asyncio.gather(*tasks)


async def steps(*workers: Worker, count: int = 10) -> None:
    """Waits until each has made some more steps."""
    until = {worker: worker.steps + count for worker in workers}
    await wait_until(
        lambda: all(worker.steps >= goal for worker, goal in until.items()),
        timeout=60,
        message="the workers go on, and find nothing wrong",
    )


@asynccontextmanager
async def silence(*workers: Worker) -> AsyncIterator[None]:
    """No worker is within a step."""
    async with contextlib.AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker.quiet)
        yield


async def check(index: Index, *workers: Worker) -> None:
    """Everything in the index is what the models have: lookups, census, listings of a location."""
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
    """Claims everything, and from now on all is exact again."""
    for worker in workers:
        await index.claims.claim(worker.number, list(worker.claimed))
        worker.claimed.update(dict.fromkeys(worker.claimed, True))
        worker.unsure.clear()
        worker.exact = True
