"""A gateway under test: the real app on a loopback port, its index in memory."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from yarl import URL

from resolver.gateway.server import serving
from resolver.image_facts import Content, ImageFacts, ImageStatus
from resolver.models import Check, Health, Sweep, letter_case_of, parse_id
from resolver.registry import StartupLocations
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.sync import IndexerTimings
from tests.support.clouds import Cloud, cloud_of
from tests.support.indexing import PROMPT

TOKEN = "s3cret-token"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
V1 = ("v1.1", "v1.0")
V2 = ("v2.15", "v2.0")


@dataclass
class Gateway:
    """A running gateway, and a client for it that follows no redirects."""

    services: Services
    url: str
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, **options: Any) -> tuple[Any, Any]:
        """(response, decoded body) of a request; the body is None unless it is JSON.

        Errors below ``/v1`` and ``/v2`` are problem documents, unless ``Accept`` is given."""
        if path.startswith(("/v1", "/v2", "/region")):
            headers = options.pop("headers", {})
            options["headers"] = {"Accept": "application/problem+json", **headers}
        url = URL(self.url + path, encoded=True)  # otherwise the client would normalize escapes
        async with self.http.request(method, url, allow_redirects=False, **options) as response:
            await response.read()
            is_json = response.content_type.endswith("json") and method != "HEAD"
            is_json = is_json and not response.content_type.endswith("ndjson")
            return response, await response.json(content_type=None) if is_json else None

    async def get(self, path: str, **options: Any) -> tuple[Any, Any]:
        return await self.call("GET", path, **options)

    async def location(
        self, name: str, *, versions: tuple[str, ...] = V2, covered: bool = True, **fields: Any
    ) -> int:
        """Registers a location with the status of a health check and a sweep."""
        fields.setdefault("url", f"https://{name}.example:9292")
        location, _ = await self.services.registry.put(name, fields)
        now = time.time()
        records = self.services.index.records
        if versions:
            await records.set_check(
                location.number, Check(at=now, health=Health.UP, versions=versions)
            )
        if covered:
            await records.set_sweep(
                location.number, Sweep(started=now - 1, ended=now, sees_all=True)
            )
        return location.number

    async def claim(self, name: str, *ids: str) -> None:
        for text in ids:
            await self.services.registry.claim(name, parse_id(text), letter_case_of(text))

    async def claim_with_facts(
        self,
        name: str,
        text: str,
        status: ImageStatus | None,
        content: Content | None = None,
    ) -> None:
        """Claims an image as a sweep does: with the status and the bytes that were listed."""
        number = (await self.services.tables.current()).by_name[name].location.number
        image_id = parse_id(text)
        facts = {image_id: ImageFacts(status, content)}
        ids = {image_id: letter_case_of(text)}
        await self.services.index.claims.claim(number, ids, facts)


Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Returns a function that starts a gateway with these settings."""
    async with AsyncExitStack() as stack:

        async def begin(
            *,
            timings: IndexerTimings = PROMPT,
            startup_locations: StartupLocations | None = None,
            **settings: Any,
        ) -> Gateway:
            # No server runs at the URLs of its locations.
            defaults = {
                "port": 0,
                "role": "gateway",
                "admin_tokens": f"ops={TOKEN}",
                "probe": False,
                # On a busy machine an index in memory, too, takes longer than 250 ms.
                "index_timeout": 5,
                # A new index drops what may be left in each of its buckets.
                "index_bits": 8,
            }
            services = await stack.enter_async_context(
                open_services(
                    Settings(**{**defaults, **settings}), startup_locations, timings=timings
                )
            )
            url = await stack.enter_async_context(serving(services))
            http = await stack.enter_async_context(aiohttp.ClientSession(url))
            return Gateway(services, url, http)

        yield begin


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    return await start()


@pytest.fixture
async def cloud(gateway: Gateway) -> AsyncIterator[Cloud]:
    """Stand-in servers for the locations of `gateway`."""
    async with cloud_of(gateway.services) as cloud:
        yield cloud
