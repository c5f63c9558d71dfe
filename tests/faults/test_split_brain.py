"""Two masters: one is cut off from its replica and from the Sentinels, which make the replica
master. Gateways on both sides answer and are written to. Then the network heals."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import AsyncExitStack
from functools import partial

import pytest

from resolver.standin import StandIn
from tests.faults.load import Load
from tests.faults.resolver_process import Process, process
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer
from tests.support.sentinel import SERVICE, Sentinels
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

TIMEOUT = 180.0
SETTINGS = {"access_log": "off", "sweep_interval": 2, "index_bits": 8}
LOGIN = "gateway", "of-gateways"
"""Its connections stay when a master is isolated."""
SPLIT_REQUESTS = 100


def allow_login(sentinels: Sentinels) -> None:
    user, password = LOGIN
    for server in sentinels.servers:
        server.ask("ACL SETUSER", user, "on", f">{password}", "~*", "&*", "+@all")


def url(ports: list[int]) -> str:
    addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"redis+sentinel://{':'.join(LOGIN)}@{addresses}/{SERVICE}"


def has_clients(server: RedisServer) -> bool:
    """Whether a gateway uses the server."""
    return f"user={LOGIN[0]} " in server.ask("CLIENT LIST").decode()


async def is_registered(resolver: Process, name: str, location_url: str) -> bool:
    """Registers a location; False where that is refused."""
    return await resolver.admin_status("PUT", f"/locations/{name}", url=location_url) < 300


@pytest.mark.parametrize("how", ["refused", pytest.param("silent", marks=pytest.mark.long)])
async def test_a_gateway_at_a_replaced_master_answers_nothing_wrong(
    sentinels: Sentinels, how: str
) -> None:
    """A location that is registered on the other side has images that no gateway on this side may
    call absent, and what this side would write is refused, since it would be lost."""
    allow_login(sentinels)
    async with AsyncExitStack() as stack:
        ports = [sentinel.port for sentinel in sentinels.sentinels]
        proxies = [await stack.enter_async_context(Proxy(port)) for port in ports]
        servers = {n: await stack.enter_async_context(StandIn()) for n in ("one", "two", "three")}
        third = servers.pop("three")
        only_there = third.add(id=str(uuid.UUID(int=3))).id
        locations = {name: {"url": server.url} for name, server in servers.items()}
        other = await stack.enter_async_context(process(url(ports), locations, **SETTINGS))
        cut_off = await stack.enter_async_context(
            process(url([proxy.port for proxy in proxies]), locations, **SETTINGS)
        )
        load = Load(cut_off, servers)
        await wait_until(load.no_claim_is_lost, TIMEOUT)
        await wait_until(load.has_recovered, TIMEOUT)
        await load.warm()
        await wait_until(sentinels.is_replicated)
        old = sentinels.master()
        new = sentinels.other(old)
        async with load.running():
            for proxy in proxies:
                proxy.refuse, proxy.silent = how == "refused", how == "silent"
                if how == "refused":
                    proxy.cut()
            sentinels.isolate(old)
            await wait_until(lambda: sentinels.named() == {new.port}, TIMEOUT, "another master")
            # Until it has left the old master, it would register the location there.
            await wait_until(lambda: has_clients(new), TIMEOUT, "the other gateway has moved")
            await wait_until(partial(is_registered, other, "three", third.url), TIMEOUT)
            assert await cut_off.admin_status("PUT", "/locations/four", url=third.url) == 503
            for _ in range(5):
                status, body = await cut_off.get(f"/resolve/{only_there}")
                assert (status, body["outcome"]) == (503, "unknown"), body
                assert "Sentinels" in body["detail"]
            await load.make_requests(SPLIT_REQUESTS)
            await wait_until(lambda: is_reported(cut_off), TIMEOUT, "the doubt is in /status")
            await wait_until(lambda: is_sure(other), TIMEOUT, "the other side has a majority")
            assert old.replication()["role"] == new.replication()["role"] == "master"
            status, body = await other.get(f"/resolve/{only_there}")
            assert (status, [owner["location"] for owner in body["owners"]]) == (200, ["three"])
            healed = time.monotonic()
            for proxy in proxies:
                proxy.refuse = proxy.silent = False
            sentinels.rejoin(old)
            await wait_until(lambda: cut_off.finds(only_there), TIMEOUT, "it is at the new master")
            await wait_until(load.has_recovered, TIMEOUT, "the resolver has recovered")
            recovery_seconds = time.monotonic() - healed
        await wait_until(load.no_claim_is_lost, TIMEOUT, "sweeps restore lost claims")
        await asyncio.to_thread(sentinels.wait)
        for resolver in (cut_off, other):
            await wait_until(partial(is_whole, resolver), TIMEOUT)
        load.report(f"Sentinel: two masters, the old one's Sentinels {how}", recovery_seconds)
        load.check()


async def is_reported(resolver: Process) -> bool:
    return "redis-master" in await resolver.problem_codes()


async def is_sure(resolver: Process) -> bool:
    return not await is_reported(resolver)


async def is_whole(resolver: Process) -> bool:
    """Whether all locations that were acknowledged are registered, and nothing is doubted."""
    table = await resolver.services.tables.fresh()
    return set(table.by_name) == {"one", "two", "three"} and await is_sure(resolver)
