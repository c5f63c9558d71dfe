"""Stand-in Glance servers in a process of their own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

from benchmarks.machine import on_core, printing_process
from resolver.standin import StandIn
from tests.support.ids import make_v7_ids

RANDOM = 4
"""The UUID version of random ids."""


async def serve(count: int, images: int, version: int) -> None:
    """Prints the URL of each server, and serves until it is ended."""
    async with AsyncExitStack() as stack:
        for seed in range(1, count + 1):
            server = StandIn()
            if version == RANDOM:
                server.fill(images, seed=seed)
            else:
                server.fill_with(make_v7_ids(images, seed=seed))
            await stack.enter_async_context(server)
            print(server.url, flush=True)
        await asyncio.Event().wait()


@contextmanager
def run_stand_ins(
    count: int, images: int = 0, *, core: int, version: int = RANDOM
) -> Iterator[list[str]]:
    """Runs so many servers, with so many images each, on one core; gives their URLs. ``version``:
    of the images' UUIDs, 4 or 7."""
    module = [sys.executable, "-m", "benchmarks.stand_ins"]
    command = [*on_core(core), *module, str(count), str(images), str(version)]
    with printing_process(command, count) as urls:
        yield urls


if __name__ == "__main__":
    asyncio.run(serve(*map(int, sys.argv[1:])))
