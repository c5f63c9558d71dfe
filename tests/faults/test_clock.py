"""The clock is set an hour or a year ahead, or back, while a resolver runs; that of Redis is not.

libfaketime does it (Debian: faketime). The monotonic clock is not changed, as with a real one."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from resolver.standin import StandIn
from tests.cli.test_serve import get, run, serve
from tests.support.redis import RedisServer
from tests.support.requirements import cannot_run
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

HOUR = 3600
YEAR = 365 * 24 * HOUR
SWEPT_TIMEOUT = 60.0
"""Seconds until sweeps show a change on a busy machine."""
SWEEP_INTERVAL = 1
TOKEN = "s3cret-token"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}


class Clock:
    """The clock of the processes that are started with `environ`."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.environ = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, seconds: int) -> None:
        """Sets it this many seconds ahead."""
        self._file.write_text(f"{seconds:+d}\n")


@pytest.fixture
def library() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        cannot_run("no libfaketime (Debian: apt install faketime)")
    return found[0]


@pytest.fixture
def clock(library: Path, tmp_path: Path) -> Clock:
    return Clock(library, tmp_path / "clock")


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, pytest.param(YEAR, marks=pytest.mark.long)])
@pytest.mark.parametrize("probe", [pytest.param("on", marks=pytest.mark.long), "off"])
async def test_sweeps_continue_and_no_image_is_wrongly_absent(
    clock: Clock, own_redis: RedisServer, seconds: int, probe: str
) -> None:
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(StandIn()) for _ in range(2)]
        settings = {
            "RESOLVER_REDIS_URL": own_redis.url,
            "RESOLVER_ADMIN_TOKENS": f"ops={TOKEN}",
            "RESOLVER_SWEEP_INTERVAL": str(SWEEP_INTERVAL),
            "RESOLVER_POLL_INTERVAL": "0",
            "RESOLVER_HEALTH_INTERVAL": "1",
            "RESOLVER_PROBE": probe,
        }
        images = [one.add().id for _ in range(20)]
        server = await stack.enter_async_context(
            serve(f"--location=one={one.url}", **settings, **clock.environ)
        )
        http = await stack.enter_async_context(aiohttp.ClientSession(server.url, headers=ADMIN))

        async def outcome(text: str) -> str:
            _, body = await get(f"{server.url}/resolve/{text}")
            return str(body["outcome"])

        async def found(text: str) -> bool:
            return await outcome(text) == "found"

        async def proves_absence() -> bool:
            return await outcome(str(uuid.uuid4())) == "absent"

        for text in images:
            await wait_until(lambda text=text: found(text), SWEPT_TIMEOUT)
        await wait_until(proves_absence, SWEPT_TIMEOUT)
        clock.set(seconds)
        for text in images:
            assert await found(text)
        # A sweep finds new and deleted images, however the clock was set.
        new, gone = one.add().id, images.pop()
        one.delete(gone)

        async def is_swept() -> bool:
            assert all([await found(text) for text in images])
            return await outcome(gone) == "absent"

        await wait_until(is_swept, SWEPT_TIMEOUT, "it is swept again")
        await wait_until(lambda: found(new), SWEPT_TIMEOUT)
        async with http.get("/locations/one") as reply:
            assert (await reply.json())["coverage"]["covered"], "by the clock of now"
        # A location that Redis lost is listed as missing for an hour, by any clock.
        async with http.put("/locations/other", json={"url": other.url}) as reply:
            assert reply.status == 201
        text = other.add().id
        await wait_until(lambda: found(text), SWEPT_TIMEOUT)
        own_redis.flush()
        for image in images:
            await wait_until(lambda image=image: found(image), SWEPT_TIMEOUT)
        clock.set(2 * seconds)
        for _ in range(20):
            assert await outcome(str(uuid.uuid4())) == "unknown"
            await asyncio.sleep(0.1)


async def test_doctor_compares_this_clock_with_that_of_redis(
    library: Path, own_redis: RedisServer, tmp_path: Path
) -> None:
    async def is_well(seconds: int) -> bool:
        clock = Clock(library, tmp_path / f"clock{seconds}")
        clock.set(seconds)
        url = own_redis.url
        _, out, err = await run("doctor", "--json", RESOLVER_REDIS_URL=url, **clock.environ)
        checks = {check["name"]: check for check in json.loads(out)["checks"]}
        assert bool(checks["clock"]["fix"]) is not checks["clock"]["ok"], out + err
        return bool(checks["clock"]["ok"])

    # At once: each looks for an indexer for three seconds.
    assert await asyncio.gather(*map(is_well, (0, 30, -30))) == [True, False, False]
