"""Many locations: registering them, starting again, and what one change costs each reader.

``python -m benchmarks.registry`` takes 1,000 locations, on a Redis of its own; ``--small`` 200.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from dataclasses import replace

from benchmarks.common import make_table, out, parse_arguments, print_verdict
from benchmarks.machine import describe_machine, own_cpu_seconds
from benchmarks.redis_server import RedisServer
from resolver.models import Check, Health
from resolver.registry import StartupLocations
from resolver.services import open_services
from resolver.settings import Settings

CHANGES = 100
START_AIM_SECONDS = 3.0


def make_locations(count: int) -> StartupLocations:
    return {f"l{n}": {"url": f"http://s{n}.example:9292", "region": "r"} for n in range(count)}


async def start(settings: Settings, locations: StartupLocations) -> tuple[float, float]:
    """Wall-clock and CPU seconds until a process has registered its locations."""
    begun, cpu = time.monotonic(), own_cpu_seconds()
    async with open_services(settings, locations) as services:
        assert len(await services.tables.current()) == len(locations)
        return time.monotonic() - begun, own_cpu_seconds() - cpu


async def reload(settings: Settings, *, whole: bool) -> float:
    """CPU microseconds of a reader for a change of one location. ``whole``: it reads everything."""
    costs = []
    async with open_services(settings) as writer, open_services(settings) as reader:
        view = (await writer.tables.current()).by_name["l3"]
        check = Check(at=0.0, health=Health.UP)
        gc.freeze()
        for n in range(CHANGES):
            health = Health.DOWN if n % 2 else Health.UP
            changed = replace(check, at=float(n), health=health)
            await writer.index.records.set_check(view.location.number, changed, view.location)
            begun = own_cpu_seconds()
            await (reader.tables.fresh() if whole else reader.tables.current())
            costs.append(1e6 * (own_cpu_seconds() - begun))
        gc.unfreeze()
    return statistics.median(costs)


async def run(count: int) -> None:
    with RedisServer() as redis:
        settings = Settings(redis_url=redis.url, role="gateway")
        locations = make_locations(count)
        first, again = await start(settings, locations), await start(settings, locations)
        changes = await reload(settings, whole=False)
        whole = await reload(settings, whole=True)
    table = make_table(f"{count:,} locations", "", "seconds", "CPU seconds")
    table.add_row("registered at start", f"{first[0]:.2f}", f"{first[1]:.2f}")
    table.add_row("started again", f"{again[0]:.2f}", f"{again[1]:.2f}")
    out.print(table)
    table = make_table("one location changes: CPU of each reader", "", "µs", "µs a location")
    table.add_row("what has changed", f"{changes:.0f}", f"{changes / count:.2f}")
    table.add_row("everything", f"{whole:.0f}", f"{whole / count:.2f}")
    out.print(table)
    print_verdict(
        f"registered in {first[0]:.2f} s",
        f"under {START_AIM_SECONDS:g} s",
        met=first[0] < START_AIM_SECONDS,
    )


def main() -> None:
    arguments = parse_arguments(__doc__)
    out.print(describe_machine())
    asyncio.run(run(200 if arguments.small else 1000))


if __name__ == "__main__":
    main()
