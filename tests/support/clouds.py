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


def is_image_request(request: web.Request) -> bool:
    """Whether a request is about one image."""
    head, _, tail = request.path.rstrip("/").rpartition("/")
    return head.endswith("/images") and tail != "detail"


class Hold:
    """Delays requests about an image until it is opened.

    With ``responses`` it delays the responses: the server handles the requests first.
    """

    def __init__(
        self, delays: Callable[[web.Request], bool] = is_image_request, *, responses: bool = False
    ) -> None:
        self.open = asyncio.Event()
        self.waiting = 0
        self.maximum = 0
        """The largest number that were delayed at the same time."""
        self._delays = delays
        self._responses = responses

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._delays(request):
            return await handler(request)
        response = await handler(request) if self._responses else None
        self.waiting += 1
        self.maximum = max(self.maximum, self.waiting)
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1
        return response or await handler(request)


class ConcurrencyCounter:
    """Counts the requests that a server handles at the same time."""

    def __init__(self, fault: Fault | None = None) -> None:
        """``fault`` handles the requests in place of the server."""
        self.fault = fault
        self.current = 0
        self.maximum = 0

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.current += 1
        self.maximum = max(self.maximum, self.current)
        try:
            return await (self.fault(request, handler) if self.fault else handler(request))
        finally:
            self.current -= 1


class Cloud:
    """The locations of one resolver, each with its own stand-in Glance server."""

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
        """Adds a location that has had a health check. ``options`` are those of `StandIn`."""
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

    def set_fault(self, name: str, fault: Fault | None) -> None:
        """Makes the location answer with this fault, or without one."""
        self._switches[name].fault = fault

    async def claim(self, name: str, text: str) -> None:
        await self.index.claims.claim(self.numbers[name], {parse_id(text): letter_case_of(text)})

    async def owners(self, text: str) -> set[str]:
        """Names of the locations that have the image according to the index."""
        (owners,) = (await self.index.claims.lookup([parse_id(text)])).owners
        names = {number: name for name, number in self.numbers.items()}
        return {names[owner.number] for owner in owners}

    async def resolve(self, text: str, preferences: Preferences = ANY) -> Answer:
        return await self.services.resolver.resolve(
            parse_id(text), preferences, letter_case_of(text)
        )

    def count_lookups(self) -> Callable[[], int]:
        """Starts to count lookups. Returns a function that gives the number of ids looked up."""
        lookup, count = self.index.claims.lookup, 0

        async def counted(*args: Any, **options: Any) -> Lookup:
            nonlocal count
            found = await lookup(*args, **options)
            count += len(args[0])
            return found

        self.index.claims.lookup = counted  # type: ignore[method-assign]
        return lambda: count

    def image_requests(self, name: str) -> int:
        """The number of requests about an image that reached a location."""
        counts = self.servers[name].requests
        return counts["GET", "image"] + counts["HEAD", "v1-image"]


@asynccontextmanager
async def cloud_of(services: Services) -> AsyncIterator[Cloud]:
    """Stand-in servers of a running resolver. They end when the context does."""
    async with AsyncExitStack() as stack:
        yield Cloud(services, stack)


@asynccontextmanager
async def clouds(url: str = "memory:", **settings: Any) -> AsyncIterator[Cloud]:
    """A resolver that probes, without background work."""
    values: dict[str, Any] = {**SETTINGS, "probe": True, "probe_timeout": 5, **settings}
    async with (
        open_services(Settings(redis_url=url, **values)) as services,
        cloud_of(services) as cloud,
    ):
        yield cloud
