"""Stand-in Glance servers that are the locations of one resolver, and ways to delay responses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.glance import GlanceServer, connect
from resolver.index import Lookup
from resolver.models import Check, Health, Sweep, letter_case_of, parse_id
from resolver.resolution import Answer, Preferences
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from tests.support.faults import Fault, Switch
from tests.support.indexing import SETTINGS

ANY = Preferences()
FRESH = Preferences(fresh=True)


def is_question(request: web.Request) -> bool:
    """Whether a request is about one image."""
    head, _, tail = request.path.rstrip("/").rpartition("/")
    return head.endswith("/images") and tail != "detail"


class Hold:
    """Delays requests until it is opened; with `answers`, the responses, which are made before."""

    def __init__(
        self, held: Callable[[web.Request], bool] = is_question, *, answers: bool = False
    ) -> None:
        self.open = asyncio.Event()
        self.waiting = 0
        self.most = 0
        """Most that were delayed at the same time."""
        self._held = held
        self._answers = answers

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._held(request):
            return await handler(request)
        response = await handler(request) if self._answers else None
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1
        return response or await handler(request)


class Busy:
    """Counts the requests that are being answered at the same time."""

    def __init__(self, then: Fault | None = None) -> None:
        self.then = then
        self.now = 0
        self.most = 0

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await (self.then(request, handler) if self.then else handler(request))
        finally:
            self.now -= 1


class Cloud:
    """The locations of one resolver, each with its own stand-in."""

    def __init__(self, services: Services, stack: AsyncExitStack) -> None:
        self.services = services
        self.index = services.index
        self._stack = stack
        self._switches: dict[str, Switch] = {}
        self.numbers: dict[str, int] = {}
        self.servers: dict[str, StandIn] = {}

    async def add(
        self,
        name: str,
        *,
        sees_all: bool | None = True,
        health: Health = Health.UP,
        swept: bool = False,
        fields: dict[str, Any] | None = None,
        **options: Any,
    ) -> StandIn:
        """A new location with the status of a health check; ``options`` are those of `StandIn`."""
        self._switches[name] = switch = Switch()
        server = await self._stack.enter_async_context(
            StandIn(middlewares=[switch.middleware], **options)
        )
        self.servers[name] = server
        await self.register(
            name, server, health=health, swept=swept, sees_all=sees_all, **(fields or {})
        )
        return server

    async def register(
        self,
        name: str,
        server: StandIn,
        *,
        health: Health = Health.UP,
        swept: bool = False,
        **fields: Any,
    ) -> int:
        location, _ = await self.services.registry.put(name, {"url": server.url, **fields})
        async with connect(5) as session:
            versions = await GlanceServer(session, location).versions()
        now, records = time.time(), self.index.records
        await records.set_check(location.number, Check(at=now, health=health, versions=versions))
        if swept:
            whole = Sweep(started=now - 1, ended=now, sees_all=True)
            await records.set_sweep(location.number, whole)
        self.numbers[name] = location.number
        server.requests.clear()
        return location.number

    def spoil(self, name: str, fault: Fault | None) -> None:
        """From now on the location answers with this fault; None ends it."""
        self._switches[name].fault = fault

    async def claim(self, name: str, text: str) -> None:
        await self.index.claims.claim(self.numbers[name], {parse_id(text): letter_case_of(text)})

    async def owners(self, text: str) -> set[str]:
        """Locations that have the image according to the index."""
        (owners,) = (await self.index.claims.lookup([parse_id(text)])).owners
        names = {number: name for name, number in self.numbers.items()}
        return {names[owner.number] for owner in owners}

    async def resolve(self, text: str, preferences: Preferences = ANY) -> Answer:
        return await self.services.resolver.resolve(
            parse_id(text), preferences, letter_case_of(text)
        )

    def lookups(self) -> Callable[[], int]:
        """Returns a counter of the ids that are looked up in the index from now on."""
        lookup, count = self.index.claims.lookup, 0

        async def counted(*args: Any, **options: Any) -> Lookup:
            nonlocal count
            found = await lookup(*args, **options)
            count += len(args[0])
            return found

        self.index.claims.lookup = counted  # type: ignore[method-assign]
        return lambda: count

    def asked(self, name: str) -> int:
        """Requests about one image that reached a location."""
        counts = self.servers[name].requests
        return counts["GET", "image"] + counts["HEAD", "v1-image"]


@asynccontextmanager
async def clouds(url: str = "memory:", **settings: Any) -> AsyncIterator[Cloud]:
    """A resolver that probes, without background work."""
    values: dict[str, Any] = {**SETTINGS, "probe": True, "probe_timeout": 5, **settings}
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(open_services(Settings(redis_url=url, **values)))
        yield Cloud(services, stack)
