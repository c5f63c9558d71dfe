"""A process of the resolver, as `serve` makes it, and a client of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from resolver.gateway.server import serving
from resolver.services import Services, open_services
from resolver.settings import Settings
from tests.gateway.conftest import ADMIN, TOKEN

SETTINGS: dict[str, Any] = {"port": 0, "admin_tokens": f"ops={TOKEN}", "health_interval": 1}
StartupLocations = dict[str, dict[str, Any]]


class Process:
    def __init__(self, services: Services, http: aiohttp.ClientSession) -> None:
        self.services = services
        self.http = http

    async def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON body."""
        async with self.http.get(path, allow_redirects=False) as response:
            return response.status, json.loads(await response.read() or b"null")

    async def admin(self, method: str, path: str, **fields: Any) -> None:
        """A request of an operator that must succeed."""
        async with self.http.request(method, path, headers=ADMIN, json=fields or None) as response:
            assert response.status < 300, await response.text()

    async def admin_status(self, method: str, path: str, **fields: Any) -> int:
        """The status of the response to a request of an operator."""
        async with self.http.request(method, path, headers=ADMIN, json=fields or None) as response:
            return response.status

    async def problem_codes(self) -> set[str]:
        """What `/status` says is wrong."""
        _, body = await self.get("/status")
        return {problem["code"] for problem in body["problems"]}

    async def faults(self) -> str:
        """Why the index cannot be used, as `/status` says it; empty when it can."""
        _, body = await self.get("/status")
        unusable = (p for p in body["problems"] if p["code"] == "index-unavailable")
        return " ".join(problem["text"] for problem in unusable)

    async def is_ready(self) -> bool:
        return not await self.faults()

    async def finds(self, text: str) -> bool:
        """Whether an image is found without a probe."""
        _, body = await self.get(f"/resolve/{text}")
        return body.get("outcome") == "found" and body["source"] in ("index", "cache")

    async def is_absent(self, text: str) -> bool:
        status, _ = await self.get(f"/resolve/{text}")
        return status == 404


@asynccontextmanager
async def process(
    url: str, startup_locations: StartupLocations | None = None, **settings: Any
) -> AsyncIterator[Process]:
    async with (
        open_services(
            Settings(redis_url=url, **SETTINGS | settings), startup_locations
        ) as services,
        serving(services) as address,
        aiohttp.ClientSession(address) as http,
    ):
        yield Process(services, http)
