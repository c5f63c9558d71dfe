"""Each fault of locations under load: what is known keeps resolving, silence is no "no", nothing is
released for want of an answer, and all is right again without help."""

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
from tests.faults.process import process
from tests.support import faults
from tests.support.faults import Switch
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

COUNT = 20
SOME = 3
"""15 % of them."""

LASTS = 3.0
"""Seconds that a fault lasts, and until a sweep has met it."""

SETTINGS = {
    "sweep_interval": 1.5,
    "poll_interval": 0.7,
    "health_interval": 0.5,
    "probe_timeout": 0.5,
    "location_timeout": 1.5,
    "access_log": "off",
}


@dataclass
class Place:
    """A location, and all that may go wrong on the way to it."""

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
    places: list[Place]
    load: Load
    ca: trustme.CA

    def table_says(self, name: str) -> str:
        """The code of a location's last failed sweep; empty where the last was well."""
        table = self.load.process.services.tables.table
        return table.by_name[name].status.sweep.error_code


Fault = Callable[[World, Place], Awaitable[None]]
"""Spoils a location, or mends it."""


def switched(fault: faults.Fault) -> tuple[Fault, Fault]:
    async def spoil(_: World, place: Place) -> None:
        place.switch.fault = fault

    async def mend(_: World, place: Place) -> None:
        place.switch.fault = None

    return spoil, mend


def proxied(name: str, bad: object, good: object) -> tuple[Fault, Fault]:
    async def spoil(_: World, place: Place) -> None:
        setattr(place.proxy, name, bad)

    async def mend(_: World, place: Place) -> None:
        setattr(place.proxy, name, good)
        place.proxy.cut()  # what is on its way may take for ever

    return spoil, mend


async def close(_: World, place: Place) -> None:
    place.proxy.close()


async def listen(_: World, place: Place) -> None:
    await place.proxy.listen()


async def rotate(_: World, place: Place) -> None:
    place.server.tokens = {f"new-{place.name}": Caller("admin", admin=True)}


async def tell(_: World, place: Place) -> None:
    place.token.write_text(f"new-{place.name}")


def certified(make: Callable[[World], trustme.LeafCert]) -> tuple[Fault, Fault]:
    async def spoil(world: World, place: Place) -> None:
        assert place.tls
        make(world).configure_cert(place.tls)
        place.proxy.cut()

    async def mend(world: World, place: Place) -> None:
        assert place.tls
        world.ca.issue_cert("127.0.0.1").configure_cert(place.tls)

    return spoil, mend


def expired(world: World) -> trustme.LeafCert:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    return world.ca.issue_cert("127.0.0.1", not_after=yesterday)


FAULTS: dict[str, tuple[Fault, Fault]] = {
    "refused": (close, listen),
    "silent": proxied("silent", True, False),
    "a byte every 20 ms": proxied("byte_by_byte", 0.02, 0.0),
    "other bytes": proxied("corrupt", True, False),
    "502": switched(faults.status(502)),
    "401, password rotated": (rotate, tell),
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
"""Those that are no `long` ones: each shows another way in which nothing comes."""

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
    # What SSL_CERT_FILE does, if it is set before the process starts.
    monkeypatch.setattr(aiohttp.connector, "_SSL_CONTEXT_VERIFIED", trusting)
    async with AsyncExitStack() as stack:
        places = []
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
            places.append(Place(name, server, switch, proxy, token, context))
        given = {p.name: {"url": p.url, "auth": {"token_file": str(p.token)}} for p in places}
        one = await stack.enter_async_context(process(redis_url, given, **SETTINGS))
        servers = {place.name: place.server for place in places}
        load = Load(one, servers, {place.name: place.url for place in places}, pause=0.05)

        async def none_lost() -> bool:
            return not await load.lost()

        await wait_until(none_lost, 20, "all are swept")
        await wait_until(load.right, 20)
        await load.warm()
        yield World(places, load, ca)


async def spoilt_and_mended(world: World, bad: list[Place], fault: str) -> None:
    spoil, mend = FAULTS[fault]
    for place in bad:
        await spoil(world, place)
    await asyncio.sleep(0.3)  # what was asked before may still be answered
    for place in bad:
        if place.tls:  # by a connection, too, that was being opened
            place.proxy.cut()
    world.load.down |= {place.name for place in bad}
    ends = time.monotonic() + LASTS

    def met() -> bool:
        return all(world.table_says(place.name) for place in bad)

    await wait_until(met, 20, "their sweeps fail")
    await asyncio.sleep(max(0.0, ends - time.monotonic()))
    assert not await world.load.lost(), "nothing is released meanwhile"
    world.load.down.clear()
    for place in bad:
        await mend(world, place)


async def flapping(world: World, bad: list[Place], _: str) -> None:
    for _ in range(4):
        for place in bad:
            place.proxy.close()
        world.load.down |= {place.name for place in bad}
        await asyncio.sleep(1)
        world.load.down.clear()
        for place in bad:
            await place.proxy.listen()
        await asyncio.sleep(1)


async def seen(
    world: World,
    name: str,
    bad: list[Place],
    fault: str,
    happens: Callable[[World, list[Place], str], Awaitable[None]] = spoilt_and_mended,
) -> None:
    load = world.load
    async with load.running():
        await asyncio.sleep(0.3)
        await happens(world, bad, fault)
        ended = time.monotonic()
        await wait_until(load.right, 30, "all is right again")
        healed = time.monotonic() - ended
        await asyncio.sleep(0.3)

    async def none_lost() -> bool:
        return not await load.lost()

    async def all_found() -> bool:
        for text in load.hidden:
            status, body = await load.process.get(f"/resolve/{text}")
            if status != 200:
                return False
            assert len(body["owners"]) == 1
        return True

    await wait_until(none_lost, 20, "all that was acknowledged is there")
    await wait_until(all_found, 20, "what was created at a location that was down is found")
    await wait_until(
        lambda: not any(world.table_says(p.name) for p in world.places), 40, "all are swept again"
    )
    load.note(f"{len(bad)} of {COUNT}: {name}", healed)
    assert not load.wrong
    assert load.hidden, "images were created at locations that were down"
    assert load.longest < 1, "known images keep resolving"


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=[] if fault in SHORT else [pytest.mark.long]) for fault in FAULTS],
)
async def test_some_of_many_fail(start: Start, fault: str) -> None:
    world = await start(fault)
    await seen(world, fault, world.places[:SOME], fault)


@pytest.mark.parametrize("fault", ["refused", "silent"])
@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.long), COUNT])
async def test_one_and_all_fail(start: Start, fault: str, count: int) -> None:
    world = await start(fault)
    await seen(world, fault, world.places[:count], fault)


async def test_some_flap(start: Start) -> None:
    world = await start("refused")
    await seen(world, "down and up every second", world.places[:SOME], "refused", flapping)
