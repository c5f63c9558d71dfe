"""An indexer as a process of its own: ``python -m tests.distributed.indexer REDIS_URL [JSON]``.

The JSON has settings.

Its leases are short, so that a test need not wait long for one to run out.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace

from resolver.services import open_services
from resolver.settings import Settings
from tests.support.indexing import PROMPT, SETTINGS

LEASE = 2.0
"""Seconds."""


async def main(url: str, settings: str = "{}") -> None:
    values = SETTINGS | json.loads(settings)
    timings = replace(PROMPT, lease=LEASE)
    async with open_services(Settings(redis_url=url, **values), timings=timings) as services:
        print("ready", flush=True)
        await services.indexer.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
