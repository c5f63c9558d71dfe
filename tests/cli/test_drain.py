"""SIGTERM: `/readyz` first, then the gateway goes on for a while, then it stops."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from tests.cli.test_serve import Server, get, serve
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

DRAIN_SECONDS = 3


async def readiness(server: Server) -> int:
    return (await get(f"{server.url}/readyz"))[0]


@pytest.mark.redis
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_readyz_fails_first_and_requests_are_still_answered(
    redis_url: str, workers: str
) -> None:
    environ = {"RESOLVER_REDIS_URL": redis_url, "RESOLVER_DRAIN_SECONDS": str(DRAIN_SECONDS)}
    async with serve("--workers", workers, **environ) as server:
        await wait_until(lambda: _is(server, 200))
        server.process.send_signal(signal.SIGTERM)
        stopped = time.monotonic()
        await wait_until(lambda: _is(server, 503), DRAIN_SECONDS)
        _, body = await get(f"{server.url}/readyz")
        assert "about to stop" in body["faults"]["stopping"]
        for path in ("/healthcheck", "/versions"):
            assert (await get(f"{server.url}{path}"))[0] == 200
        async with asyncio.timeout(30):
            assert await server.process.wait() == 0
        assert time.monotonic() - stopped >= DRAIN_SECONDS


async def _is(server: Server, status: int) -> bool:
    return await readiness(server) == status


async def test_without_the_setting_it_stops_at_once() -> None:
    async with serve() as server:
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await server.process.wait() == 0


@pytest.mark.redis
async def test_workers_that_are_replaced_stay_ready(redis_url: str) -> None:
    """A load balancer would take the gateway away for a reload."""
    environ = {"RESOLVER_REDIS_URL": redis_url, "RESOLVER_DRAIN_SECONDS": "60"}
    async with serve("--workers", "2", **environ) as server:
        await wait_until(lambda: _is(server, 200))
        before = await _pids(server)
        server.process.send_signal(signal.SIGHUP)
        seen = set()

        async def are_replaced() -> bool:
            seen.add(await readiness(server))
            return not before & await _pids(server)

        await wait_until(are_replaced, 30)  # not after 60 s
        assert seen == {200}


async def _pids(server: Server) -> set[str]:
    process = await asyncio.create_subprocess_exec(
        "pgrep", "-P", str(server.process.pid), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return set(out.decode().split())


@pytest.mark.redis
async def test_a_gateway_that_answers_without_redis_stays_ready(own_redis: RedisServer) -> None:
    """Otherwise an outage of Redis would be one of all gateways."""
    environ = {"RESOLVER_REDIS_URL": own_redis.url}
    async with serve("--role", "gateway", **environ) as server:
        await wait_until(lambda: _is(server, 200))
        own_redis.kill()

        async def is_noticed() -> bool:
            _, body = await get(f"{server.url}/status")
            return "index-unavailable" in [problem["code"] for problem in body["problems"]]

        await wait_until(is_noticed)
        assert await readiness(server) == 200
    async with serve("--role", "gateway", **environ) as server:
        assert await readiness(server) == 503, "it knows nothing"


@pytest.mark.redis
async def test_an_indexer_without_redis_is_not_ready(own_redis: RedisServer) -> None:
    async with serve("--role", "indexer", RESOLVER_REDIS_URL=own_redis.url) as server:
        await wait_until(lambda: _is(server, 200))
        own_redis.kill()
        await wait_until(lambda: _is(server, 503))
