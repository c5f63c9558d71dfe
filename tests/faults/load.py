"""Clients that ask all the while, each answer held against the truth."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp

from resolver.models import parse_id
from resolver.standin import StandIn
from tests.faults.process import Process
from tests.gateway.conftest import ADMIN
from tests.support.wait import wait_until

COLUMNS = [
    "fault",
    "requests",
    "answered from",
    "wrong",
    "claims told, lost",
    "longest gap",
    "slowest 1 %, known",
    "right again after",
]
ROWS: list[list[str]] = []

KNOWN = 200


class Load:
    """Known images, new ones, those that are nowhere, and claims by hand."""

    def __init__(
        self,
        process: Process,
        servers: dict[str, StandIn],
        urls: dict[str, str] | None = None,
        *,
        pause: float = 0.01,
        may_go: bool = False,
    ) -> None:
        """``urls``: where the servers are registered, if not at their own. ``pause``: seconds
        between two requests for ids that the index does not know. ``may_go``: whether the gateway
        may be gone for a while."""
        self.process = process
        self._servers = servers
        self._urls = urls or {name: server.url for name, server in servers.items()}
        self._pause = pause
        self._may_go = may_go
        self.down: set[str] = set()
        """Locations that cannot say anything now: while there are any, nothing is absent."""
        self.hidden: list[str] = []
        """Images that were created there."""
        self._rng = random.Random(7)
        self.known = {str(uuid.UUID(int=self._rng.getrandbits(128))): "" for _ in range(KNOWN)}
        for text in self.known:
            self.known[text] = self._rng.choice(list(servers))
            servers[self.known[text]].add(id=text)
        self.sources: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.told: list[tuple[str, str]] = []
        """Claims that were acknowledged."""
        self.waits: list[float] = []
        self.longest = 0.0
        self._last = 0.0

    @property
    def requests(self) -> int:
        return sum(self.sources.values())

    async def warm(self) -> None:
        """Has every known image read."""
        for _ in range(2):
            for text, owner in self.known.items():

                async def read(text: str = text, owner: str = owner) -> bool:
                    return await self._ask(text, {owner}) in ("index", "cache")

                await wait_until(read)

    async def _ask(self, text: str, owners: set[str], *, absent: bool = False) -> str:
        """Asks, and says where the answer came from; empty where there was none."""
        down = set(self.down)
        status, body = await self.process.get(f"/resolve/{text}")
        outcome = body.get("outcome", "unknown")
        source = body.get("source", "")
        got = {owner["location"] for owner in body.get("owners", ())}
        right = {
            "found": got == owners and bool(owners) and status == 200,
            "absent": absent and status == 404 and not down & self.down,
            "unknown": status == 503,
        }
        if not right[outcome]:
            self.wrong.append(f"{text}: {status} {body}")
        source = source if outcome != "unknown" else ""
        self.sources[source or "none (503)"] += 1
        return source

    async def _redirect(self, text: str, owner: str) -> bool:
        path = f"/v2/images/{text}"
        async with self.process.http.get(path, allow_redirects=False) as response:
            await response.read()
            right = f"{self._urls[owner]}{path}"
            if response.status == 307 and response.headers["Location"] != right:
                self.wrong.append(f"{text}: {response.headers['Location']}")
            elif response.status not in (307, 503):
                self.wrong.append(f"{text}: {response.status}")
            self.sources["redirects" if response.status == 307 else "none (503)"] += 1
            return response.status == 307

    async def _ask_known(self) -> None:
        text = self._rng.choice(list(self.known))
        begun = time.monotonic()
        if self._rng.random() < 0.5:
            answered = await self._redirect(text, self.known[text])
        else:
            answered = bool(await self._ask(text, {self.known[text]}))
        now = time.monotonic()
        self.waits.append(now - begun)
        if answered:
            self.longest = max(self.longest, now - self._last)
            self._last = now

    async def _ask_new(self) -> None:
        owners = list(self._servers)
        if self.down and self._rng.random() < 0.5:
            owners = sorted(self.down)
        owner = self._rng.choice(owners)
        text = str(uuid.UUID(int=self._rng.getrandbits(128)))
        self._servers[owner].add(id=text)
        if owner in self.down:
            self.hidden.append(text)
        await self._ask(text, {owner})

    async def _ask_nowhere(self) -> None:
        await self._ask(str(uuid.UUID(int=self._rng.getrandbits(128))), set(), absent=True)

    async def _claim(self) -> None:
        owner = self._rng.choice(list(self._servers))
        text = str(uuid.UUID(int=self._rng.getrandbits(128)))
        self._servers[owner].add(id=text)
        path = f"/locations/{owner}/images/{text}"
        async with self.process.http.put(path, headers=ADMIN) as response:
            if response.status < 300:
                self.told.append((text, owner))

    async def _again(self, work: Callable[[], Awaitable[object]], pause: float) -> None:
        """Goes on, as clients of a load balancer do, where the gateway itself goes away."""
        while True:
            try:
                await work()
            except aiohttp.ClientError:
                if not self._may_go:
                    raise
                self.sources["no connection"] += 1
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._last = time.monotonic()
        tasks = [
            asyncio.create_task(self._again(work, pause))
            for work, pause in (
                (self._ask_known, 0.002),
                (self._ask_known, 0.002),
                (self._ask_new, self._pause),
                (self._ask_nowhere, self._pause),
                (self._claim, 0.02),
            )
        ]
        try:
            yield
            assert not any(task.done() for task in tasks), [t for t in tasks if t.done()]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.longest = max(self.longest, time.monotonic() - self._last)

    async def right(self) -> bool:
        """Whether all is as it is without a fault."""
        try:
            return await self._right()
        except aiohttp.ClientError:
            return False

    async def _right(self) -> bool:
        if await self.process.ready():
            return False
        for text in self._rng.sample(list(self.known), 5):
            if not await self.process.finds(text):
                return False
        status, _ = await self.process.get(f"/resolve/{uuid.uuid4()}")
        return status == 404

    async def lost(self) -> list[tuple[str, str]]:
        """Claims that had been acknowledged, or found by a sweep, and are not in the index."""
        services = self.process.services
        table = await services.tables.current()
        claims = [*self.told, *self.known.items()]
        found = await services.index.claims.lookup([parse_id(text) for text, _ in claims])
        return [
            (text, owner)
            for (text, owner), owners in zip(claims, found.owners, strict=True)
            if table.by_name[owner].location.number not in {one.number for one in owners}
        ]

    def note(self, fault: str, healed: float, lost: int = 0) -> None:
        """Adds a row to the table. ``lost``: claims that Redis had lost, until they were swept."""
        waits = sorted(self.waits)
        ROWS.append(
            [
                fault,
                str(self.requests),
                ", ".join(f"{source} {count}" for source, count in self.sources.most_common()),
                str(len(self.wrong)),
                f"{len(self.told)}, {lost}",
                f"{self.longest * 1000:.0f} ms",
                f"{waits[int(len(waits) * 0.99)] * 1000:.0f} ms",
                f"{healed:.1f} s",
            ]
        )
