"""What `benchmarks.soak` knows to be true, and the answers that it checks against that."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from resolver.standin import StandIn
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

PERMANENT_LOCATIONS = [f"l{number}" for number in range(6)]
TEMPORARY_LOCATION = "spare"
"""Is added and removed again and again."""

STALE_SECONDS = 40.0
"""How long a deleted image may still be found: a sweep, a failed one, and a fault."""

RECOVERY_SECONDS = 30.0
"""In which everything must work again after a fault."""

TOKEN = "soak-token"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class ImageLifetime:
    """When an image is at a location, by the monotonic clock."""

    location: str
    created: float
    deleted: float = float("inf")


@dataclass
class SoakLocation:
    """A location: its server, the proxy in front, and when it is registered and reachable."""

    name: str
    server: StandIn
    proxy: Proxy
    added: float = 0.0
    removed: float = float("inf")
    unreachable_since: float = float("inf")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}"


@dataclass
class AnswerChecker:
    """Compares answers with the truth, and counts them."""

    locations: dict[str, SoakLocation]
    images: dict[str, ImageLifetime] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    longest_stale: float = 0.0
    """Longest time, in seconds, that a deleted image was found."""

    def check(self, text: str, started: float, outcome: str, owners: set[str]) -> None:
        """Checks an answer that has just arrived.

        Args:
            text: the image's id.
            started: when the request was sent.
            outcome: that of the answer.
            owners: names of the locations in it.
        """
        self.outcomes[outcome] += 1
        image = self.images.get(text)
        if outcome == "found":
            is_right = image is not None and self._may_be_found(image, started, owners)
        elif outcome == "absent":
            is_right = self._may_be_absent(image, started)
        else:
            is_right = outcome == "unknown"
        if not is_right:
            location = self.locations[image.location] if image else None
            self.wrong.append(f"{text}: {outcome} {owners or ''}, {image}, {location}")

    def _may_be_found(self, image: ImageLifetime, started: float, owners: set[str]) -> bool:
        now, location = time.monotonic(), self.locations[image.location]
        self.longest_stale = max(self.longest_stale, started - image.deleted)
        return (
            owners == {image.location}
            and image.created <= now
            and location.added <= now
            and location.removed > started
            and image.deleted > started - STALE_SECONDS
        )

    def _may_be_absent(self, image: ImageLifetime | None, started: float) -> bool:
        now = time.monotonic()
        if image is None:
            # Nothing proves absence while a registered location cannot be reached.
            return not any(
                location.unreachable_since < started
                and location.added < started
                and location.removed > now
                for location in self.locations.values()
            )
        location = self.locations[image.location]
        exists = image.created < started and image.deleted > now
        is_registered = location.added < started and location.removed > now
        return not (exists and is_registered)


class World:
    """The gateway under test, its Redis, its locations and their images."""

    def __init__(
        self,
        redis: RedisServer,
        redis_proxy: Proxy,
        locations: dict[str, SoakLocation],
        http: aiohttp.ClientSession,
        port: int,
    ) -> None:
        """``http`` sends to the gateway, which listens on ``port``."""
        self.redis, self.redis_proxy, self.locations = redis, redis_proxy, locations
        self.http, self.port = http, port
        self.checker = AnswerChecker(locations)
        self.rng = random.Random(1)
        self.steady: list[str] = []
        """Images that stay."""
        self.churned: list[str] = []
        """Images that are there now and will be replaced."""
        self.deleted: list[str] = []
        """Some that were deleted last."""
        self.registry_lock = asyncio.Lock()
        """Held while a location is registered that no file has."""
        self.current_fault = ""

    def create_image(self, location: str) -> str:
        """Creates an image at a location and returns its id."""
        text = str(uuid.UUID(int=self.rng.getrandbits(128)))
        self.checker.images[text] = ImageLifetime(location, time.monotonic())
        self.locations[location].server.add(id=text)
        return text

    def delete_image(self, text: str) -> None:
        image = self.checker.images[text]
        self.locations[image.location].server.delete(text)
        image.deleted = time.monotonic()

    async def call_admin(self, method: str, path: str, **fields: Any) -> None:
        """Repeats an admin request until it succeeds: Redis may be down."""

        async def succeeds() -> bool:
            async with self.http.request(method, path, headers=ADMIN, json=fields or None) as reply:
                return reply.status < 300 or (method == "DELETE" and reply.status == 404)

        await wait_until(succeeds, RECOVERY_SECONDS, f"{method} {path}")

    async def has_recovered(self) -> bool:
        """Whether the gateway is ready, finds images in its index and can prove absence."""
        async with self.http.get("/readyz") as reply:
            if reply.status != 200:
                return False
        for text in self.rng.sample(self.steady, 5):
            async with self.http.get(f"/resolve/{text}") as reply:
                body = await reply.json(content_type=None)
            if body.get("source") not in ("index", "cache"):
                return False
        async with self.http.get(f"/resolve/{uuid.uuid4()}") as reply:
            return reply.status == 404
