"""The load of `benchmarks.soak`: clients, and images and locations that come and go."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from benchmarks.soak_world import PERMANENT_LOCATIONS, TEMPORARY_LOCATION, World

STEADY_IMAGES, CHURNED_IMAGES = 400, 1000
REMEMBERED_DELETED_IMAGES = 200
TEMPORARY_IMAGES = 20
TEMPORARY_SECONDS, PAUSE_SECONDS = 8.0, 5.0
"""How long the temporary location is registered, and how long it is not."""

OUTCOMES = {307: "found", 404: "absent", 503: "unknown"}


class Load:
    """Sends requests, checks their answers, and changes images and locations."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng

    def create_images(self) -> None:
        """Creates the first images."""
        world = self._world
        world.steady += [self._create_anywhere() for _ in range(STEADY_IMAGES)]
        world.churned += [self._create_anywhere() for _ in range(CHURNED_IMAGES // 2)]

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """Loops without end that make the load."""
        return [
            *(self._request_steady_images() for _ in range(4)),
            *(self._request_churned_images(), self._request_unknown_images()),
            *(self._request_in_bulk(), self._open_short_connections()),
            *(self._replace_images(), self._add_and_remove_location()),
        ]

    def _create_anywhere(self) -> str:
        return self._world.create_image(self._rng.choice(PERMANENT_LOCATIONS))

    async def _resolve(self, text: str) -> None:
        started = time.monotonic()
        async with self._world.http.get(f"/resolve/{text}") as reply:
            body = await reply.json(content_type=None)
        owners = {owner["location"] for owner in body.get("owners", ())}
        self._world.checker.check(text, started, body.get("outcome", "unknown"), owners)

    async def _redirect(self, text: str) -> None:
        started, path = time.monotonic(), f"/v2/images/{text}"
        async with self._world.http.get(path, allow_redirects=False) as reply:
            await reply.read()
        target = reply.headers.get("Location", "")
        locations = self._world.locations.values()
        owners = {location.name for location in locations if target == location.url + path}
        outcome = OUTCOMES.get(reply.status, str(reply.status))
        self._world.checker.check(text, started, outcome, owners)

    async def _resolve_many(self, texts: list[str]) -> None:
        started = time.monotonic()
        async with self._world.http.post("/resolve", json=texts) as reply:
            rows = await reply.json(content_type=None)
        if reply.status == 503:
            rows = [{"outcome": "unknown"}] * len(texts)
        for text, row in zip(texts, rows, strict=True):
            owners = {owner["location"] for owner in row.get("owners", ())}
            self._world.checker.check(text, started, row["outcome"], owners)

    async def _request_steady_images(self) -> None:
        while True:
            text = self._rng.choice(self._world.steady)
            await (self._redirect(text) if self._rng.random() < 0.7 else self._resolve(text))
            await asyncio.sleep(0.02)

    async def _request_churned_images(self) -> None:
        world = self._world
        while True:
            wants_deleted = world.deleted and self._rng.random() < 0.3
            await self._resolve(self._rng.choice(world.deleted if wants_deleted else world.churned))
            await asyncio.sleep(0.04)

    async def _request_unknown_images(self) -> None:
        while True:
            await self._resolve(str(uuid.UUID(int=self._rng.getrandbits(128))))
            await asyncio.sleep(0.1)

    async def _request_in_bulk(self) -> None:
        world = self._world
        while True:
            await self._resolve_many(self._rng.sample([*world.steady, *world.churned], 50))
            await asyncio.sleep(0.5)

    async def _open_short_connections(self) -> None:
        """One request per connection; every third client does not wait for the answer."""
        for number in itertools.count():
            reader, writer = await asyncio.open_connection("127.0.0.1", self._world.port)
            text = self._rng.choice(self._world.steady) if number % 2 else str(uuid.uuid4())
            writer.write(f"GET /resolve/{text} HTTP/1.1\r\nHost: soak\r\n\r\n".encode())
            with suppress(OSError, asyncio.IncompleteReadError):
                if number % 3:
                    await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()
            await asyncio.sleep(0.1)

    async def _replace_images(self) -> None:
        world = self._world
        while True:
            world.churned.append(self._create_anywhere())
            if len(world.churned) > CHURNED_IMAGES:
                text = world.churned.pop(self._rng.randrange(len(world.churned)))
                world.delete_image(text)
                world.deleted = [*world.deleted[-REMEMBERED_DELETED_IMAGES:], text]
            await asyncio.sleep(0.1)

    async def _add_and_remove_location(self) -> None:
        """Registers the temporary location, requests its images, and removes it."""
        world = self._world
        location = world.locations[TEMPORARY_LOCATION]
        path = f"/locations/{TEMPORARY_LOCATION}"
        while True:
            async with world.registry_lock:
                location.added, location.removed = float("inf"), float("inf")
                texts = [world.create_image(TEMPORARY_LOCATION) for _ in range(TEMPORARY_IMAGES)]
                started = location.added = time.monotonic()
                await world.call_admin("PUT", path, url=location.url)
                location.added = time.monotonic()
                while time.monotonic() < started + TEMPORARY_SECONDS:
                    await self._resolve(self._rng.choice(texts))
                    await asyncio.sleep(0.05)
                await world.call_admin("DELETE", path)
                location.removed = time.monotonic()
                for text in self._rng.sample(texts, 5):
                    await self._resolve(text)
                for text in texts:
                    location.server.delete(text)
                    del world.checker.images[text]
            await asyncio.sleep(PAUSE_SECONDS)
