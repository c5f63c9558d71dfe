"""Each fault of locations under load: known images keep resolving, no answer is not taken for
absence, no claim is released because of it, and the resolver recovers by itself."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import trustme

from resolver.standin import Caller, StandIn
from tests.faults.load import Load
from tests.faults.resolver_process import process
from tests.support import faults
from tests.support.faults import Switch
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

COUNT = 10
SOME = 2
"""A minority, so that the health checker does not doubt itself."""

FAULT_REQUESTS = 200
"""Requests to answer while locations fail and after their sweeps have failed."""
RECOVERY_TIMEOUT = 180.0
FLAPS = 4

SETTINGS = {
    "sweep_interval": 1.5,
    "poll_interval": 0.7,
    "health_interval": 0.5,
    "probe_timeout": 0.5,
    "location_timeout": 1.0,
    "access_log": "off",
}


@dataclass
class FaultyLocation:
    """A location, and everything that may fail between it and the resolver."""

    name: str
    server: StandIn
    switch: Switch
    proxy: Proxy
    token: Path
    tls: ssl.SSLContext | None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.proxy.port}"


@dataclass
class World:
    locations: list[FaultyLocation]
    load: Load
    ca: trustme.CA

    def sweep_error(self, name: str) -> str:
        """The code of a location's sweep that has failed; empty where the last one succeeded."""
        table = self.load.process.services.tables.table
        return table.by_name[name].status.sweep.error_code


Fault = Callable[[World, FaultyLocation], Awaitable[None]]
"""Makes a location fail, or repairs it."""


def switched(fault: faults.Fault) -> tuple[Fault, Fault]:
    async def fail(_: World, location: FaultyLocation) -> None:
        location.switch.fault = fault

    async def repair(_: World, location: FaultyLocation) -> None:
        location.switch.fault = None

    return fail, repair


def proxied(name: str, bad: object, good: object) -> tuple[Fault, Fault]:
    async def fail(_: World, location: FaultyLocation) -> None:
        setattr(location.proxy, name, bad)

    async def repair(_: World, location: FaultyLocation) -> None:
        setattr(location.proxy, name, good)
        location.proxy.cut()  # an answer in progress may never end

    return fail, repair


async def close(_: World, location: FaultyLocation) -> None:
    location.proxy.close()


async def listen(_: World, location: FaultyLocation) -> None:
    await location.proxy.listen()


async def rotate_password(_: World, location: FaultyLocation) -> None:
    location.server.tokens = {f"new-{location.name}": Caller("admin", admin=True)}


async def give_new_password(_: World, location: FaultyLocation) -> None:
    location.token.write_text(f"new-{location.name}")


def certified(make: Callable[[World], trustme.LeafCert]) -> tuple[Fault, Fault]:
    async def fail(world: World, location: FaultyLocation) -> None:
        assert location.tls
        make(world).configure_cert(location.tls)
        location.proxy.cut()

    async def repair(world: World, location: FaultyLocation) -> None:
        assert location.tls
        world.ca.issue_cert("127.0.0.1").configure_cert(location.tls)

    return fail, repair


def expired(world: World) -> trustme.LeafCert:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    return world.ca.issue_cert("127.0.0.1", not_after=yesterday)


FAULTS: dict[str, tuple[Fault, Fault]] = {
    "refused": (close, listen),
    "silent": proxied("silent", True, False),
    "a byte every 20 ms": proxied("byte_by_byte", 0.02, 0.0),
    "other bytes": proxied("corrupt", True, False),
    "502": switched(faults.status(502)),
    "401, password rotated": (rotate_password, give_new_password),
    "404 of a proxy in front": switched(faults.status(404)),
    "HTML for all": switched(faults.body("<html>Welcome!</html>")),
    "{} for all": switched(faults.body("{}")),
    "a body without end": switched(faults.endless),
    "redirected in a circle": switched(faults.circle),
    "TLS: certificate expired": certified(expired),
    "TLS: certificate for another": certified(lambda world: world.ca.issue_cert("other.example")),
    "TLS: certificate of nobody": certified(lambda _: trustme.CA().issue_cert("127.0.0.1")),
}

SHORT = ("refused", "502", "TLS: certificate expired")
"""Faults that are not marked `long`: each prevents answers in another way."""

Start = Callable[[str], Awaitable[World]]


@pytest.fixture
async def start(
    own_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(fault: str) -> World:
            return await stack.enter_async_context(
                world(own_redis.url, tmp_path, monkeypatch, tls=fault.startswith("TLS"))
            )

        yield begin


@asynccontextmanager
async def world(
    redis_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, tls: bool
) -> AsyncIterator[World]:
    ca = trustme.CA()
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    # The effect of SSL_CERT_FILE before the start of a process.
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting)
    async with AsyncExitStack() as stack:
        locations = []
        for number in range(COUNT):
            name, switch = f"l{number:02}", Switch()
            token = folder / name
            token.write_text(name)
            tokens = {name: Caller("admin", admin=True)}
            server = StandIn(middlewares=[switch.middleware], tokens=tokens)
            await stack.enter_async_context(server)
            context = None
            if tls and number < SOME:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                ca.issue_cert("127.0.0.1").configure_cert(context)
            proxy = await stack.enter_async_context(Proxy(server.port, context))
            locations.append(FaultyLocation(name, server, switch, proxy, token, context))
        startup_locations = {
            location.name: {"url": location.url, "auth": {"token_file": str(location.token)}}
            for location in locations
        }
        resolver = await stack.enter_async_context(
            process(redis_url, startup_locations, **SETTINGS)
        )
        servers = {location.name: location.server for location in locations}
        urls = {location.name: location.url for location in locations}
        load = Load(resolver, servers, urls)
        await wait_until(load.no_claim_is_lost, RECOVERY_TIMEOUT, "all are swept")
        await wait_until(load.has_recovered, RECOVERY_TIMEOUT)
        await load.warm()
        yield World(locations, load, ca)


async def fail_and_repair(world: World, failing: list[FaultyLocation], fault: str) -> None:
    fail, repair = FAULTS[fault]
    load = world.load
    for location in failing:
        await fail(world, location)
    # Requests that were under way may still be answered, and new connections succeed.
    await asyncio.sleep(SETTINGS["probe_timeout"])
    for location in failing:
        if location.tls:
            location.proxy.cut()
    load.goes_down(*(location.name for location in failing))

    def have_failed() -> bool:
        return all(world.sweep_error(location.name) for location in failing)

    await wait_until(have_failed, RECOVERY_TIMEOUT, "their sweeps fail")
    await load.make_requests(FAULT_REQUESTS)
    await wait_until(lambda: load.hidden, message="a failing location gets an image")
    assert await load.no_claim_is_lost(), "no claim is released meanwhile"
    load.is_up(*(location.name for location in failing))
    for location in failing:
        await repair(world, location)


async def flap(world: World, failing: list[FaultyLocation], _: str) -> None:
    names = [location.name for location in failing]
    for _ in range(FLAPS):
        for location in failing:
            location.proxy.close()
        world.load.goes_down(*names)
        await world.load.last(0.7)
        world.load.is_up(*names)
        for location in failing:
            await location.proxy.listen()
        await world.load.last(0.7)


async def survive(
    world: World,
    name: str,
    failing: list[FaultyLocation],
    fault: str,
    happen: Callable[[World, list[FaultyLocation], str], Awaitable[None]] = fail_and_repair,
) -> None:
    """Lets locations fail under load, waits for the recovery and checks all answers."""
    load = world.load
    async with load.running():
        await happen(world, failing, fault)
        ended = time.monotonic()
        await wait_until(load.has_recovered, RECOVERY_TIMEOUT, "the resolver has recovered")
        recovery_seconds = time.monotonic() - ended

    async def hidden_are_found() -> bool:
        for text in load.hidden:
            status, body = await load.process.get(f"/resolve/{text}")
            if status != 200:
                return False
            assert len(body["owners"]) == 1
        return True

    def sweeps_succeed() -> bool:
        return not any(world.sweep_error(location.name) for location in world.locations)

    await wait_until(load.no_claim_is_lost, RECOVERY_TIMEOUT, "acknowledged claims are kept")
    await wait_until(hidden_are_found, RECOVERY_TIMEOUT, "images of failing locations are found")
    await wait_until(sweeps_succeed, RECOVERY_TIMEOUT, "all sweeps succeed")
    load.report(f"{len(failing)} of {COUNT}: {name}", recovery_seconds)
    load.check()
    assert load.hidden, "images were created at failing locations"


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=[] if fault in SHORT else [pytest.mark.long]) for fault in FAULTS],
)
async def test_answers_stay_correct_when_some_of_many_locations_fail(
    start: Start, fault: str
) -> None:
    world = await start(fault)
    await survive(world, fault, world.locations[:SOME], fault)


@pytest.mark.parametrize("fault", ["refused", "silent"])
@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.long), COUNT])
async def test_answers_stay_correct_when_one_or_all_locations_fail(
    start: Start, fault: str, count: int
) -> None:
    world = await start(fault)
    await survive(world, fault, world.locations[:count], fault)


async def test_answers_stay_correct_when_some_locations_flap(start: Start) -> None:
    world = await start("refused")
    await survive(world, "down and up every 0.7 s", world.locations[:SOME], "refused", flap)
