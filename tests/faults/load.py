"""Clients that send requests all the time. Each answer is compared with the truth."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp

from resolver.errors import IndexUnavailable
from resolver.models import parse_id
from resolver.standin import StandIn
from tests.faults.resolver_process import Process
from tests.gateway.conftest import ADMIN
from tests.support.clock import Stopwatch
from tests.support.wait import wait_until

COLUMNS = [
    "fault",
    "requests",
    "answered from",
    "wrong",
    "claims acknowledged, lost",
    "longest gap",
    "slowest 1 %, known",
    "recovered after",
    "in /status",
]
ROWS: list[list[str]] = []

KNOWN_IMAGES = 60
MAX_GAP_SECONDS = 2.0
"""The longest time without an answer about a known image. A request waits 250 ms for Redis, and
after three failures none does; the rest is for two cores that run Redis and other tests too."""
REQUESTS_TIMEOUT_SECONDS = 180.0
NO_ANSWER = "none (503)"
STATUS_PAUSE_SECONDS = 0.2
STEADY_REQUESTS = 60
"""Requests before a fault and after the recovery; a quarter of a second where nothing else runs."""


class Load:
    """Requests for known images, for new ones and for absent ones, and claims by hand."""

    def __init__(
        self,
        process: Process,
        servers: dict[str, StandIn],
        urls: dict[str, str] | None = None,
        *,
        pause: float = 0.05,
        gateway_may_be_down: bool = False,
    ) -> None:
        """``urls``: where the servers are registered, if not at their own. ``pause``: seconds
        between two requests for ids that the index does not know; known images are asked for five
        times as often."""
        self.process = process
        self._servers = servers
        self._urls = urls or {name: server.url for name, server in servers.items()}
        self._pause = pause
        self._gateway_may_be_down = gateway_may_be_down
        self._down: dict[str, object] = {}
        """Locations that cannot answer now, each with what stands for this time of its. While one
        cannot, no image is absent."""
        self.hidden: list[str] = []
        """Images that were created at a location while it was down."""
        self._rng = random.Random(7)
        self.known = {
            str(uuid.UUID(int=self._rng.getrandbits(128))): self._rng.choice(list(servers))
            for _ in range(KNOWN_IMAGES)
        }
        """Image id to the name of its owner."""
        for text, owner in self.known.items():
            servers[owner].add(id=text)
        self.sources: Counter[str] = Counter()
        self.wrong_answers: list[str] = []
        self.acknowledged: list[tuple[str, str]] = []
        """Claims by hand: image id and location."""
        self.problems: dict[str, None] = {}
        """The codes that `/status` had at any time, in the order of their coming."""
        self.latencies: list[float] = []
        """Of requests for known images, in seconds."""
        self.longest_gap = 0.0
        """Most seconds between two answers about known images, as `Stopwatch.own_seconds`."""
        self._gap = Stopwatch()

    def goes_down(self, *names: str) -> None:
        """These locations cannot answer from now on."""
        self._down |= {name: object() for name in names}

    def is_up(self, *names: str) -> None:
        """These locations may answer from now on."""
        for name in names:
            self._down.pop(name, None)

    @property
    def requests(self) -> int:
        return sum(self.sources.values())

    async def make_requests(self, count: int = STEADY_REQUESTS) -> None:
        """Returns when this many more requests have been answered."""
        target = self.requests + count
        await wait_until(
            lambda: self.requests >= target, REQUESTS_TIMEOUT_SECONDS, "requests are answered"
        )

    async def last(self, seconds: float) -> None:
        """Returns after this many seconds and some answered requests."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(seconds))
            tasks.create_task(self.make_requests())

    async def warm(self) -> None:
        """Returns when the gateway answers for every known image from the index or its cache."""
        for _ in range(2):
            for text, owner in self.known.items():

                async def is_read(text: str = text, owner: str = owner) -> bool:
                    return await self._ask(text, {owner}) in ("index", "cache")

                await wait_until(is_read)

    async def _ask(self, text: str, owners: set[str], *, absent: bool = False) -> str:
        """Asks for an image. Returns the source of the answer, or "" for a 503."""
        down_before = set(self._down.items())
        status, body = await self.process.get(f"/resolve/{text}")
        outcome = body.get("outcome", "unknown")
        found = {owner["location"] for owner in body.get("owners", ())}
        is_right = {
            "found": found == owners and bool(owners) and status == 200,
            "absent": absent and status == 404 and not down_before & self._down.items(),
            "unknown": status == 503,
        }
        if not is_right[outcome]:
            self.wrong_answers.append(f"{text}: {status} {body}")
        source = body.get("source", "") if outcome != "unknown" else ""
        self.sources[source or NO_ANSWER] += 1
        return source

    async def _redirect(self, text: str, owner: str) -> bool:
        """Whether the gateway redirects."""
        path = f"/v2/images/{text}"
        async with self.process.http.get(path, allow_redirects=False) as response:
            await response.read()
            expected = f"{self._urls[owner]}{path}"
            if response.status == 307 and response.headers["Location"] != expected:
                self.wrong_answers.append(f"{text}: {response.headers['Location']}")
            elif response.status not in (307, 503):
                self.wrong_answers.append(f"{text}: {response.status}")
            self.sources["redirects" if response.status == 307 else NO_ANSWER] += 1
            return response.status == 307

    async def _ask_known(self) -> None:
        text = self._rng.choice(list(self.known))
        begun = time.monotonic()
        if self._rng.random() < 0.5:
            is_answered = await self._redirect(text, self.known[text])
        else:
            is_answered = bool(await self._ask(text, {self.known[text]}))
        self.latencies.append(time.monotonic() - begun)
        if is_answered:
            self._end_gap()

    def _end_gap(self) -> None:
        self.longest_gap = max(self.longest_gap, self._gap.own_seconds)
        self._gap.restart()

    async def _ask_new(self) -> None:
        owners = list(self._servers)
        if self._down and self._rng.random() < 0.5:
            owners = sorted(self._down)
        owner = self._rng.choice(owners)
        text = str(uuid.UUID(int=self._rng.getrandbits(128)))
        self._servers[owner].add(id=text)
        if owner in self._down:
            self.hidden.append(text)
        await self._ask(text, {owner})

    async def _ask_absent(self) -> None:
        await self._ask(str(uuid.UUID(int=self._rng.getrandbits(128))), set(), absent=True)

    async def _claim(self) -> None:
        owner = self._rng.choice(list(self._servers))
        text = str(uuid.UUID(int=self._rng.getrandbits(128)))
        self._servers[owner].add(id=text)
        path = f"/locations/{owner}/images/{text}"
        async with self.process.http.put(path, headers=ADMIN) as response:
            if response.status < 300:
                self.acknowledged.append((text, owner))

    async def _read_status(self) -> None:
        self.problems |= dict.fromkeys(sorted(await self.process.problem_codes()))

    async def _repeat(self, request: Callable[[], Awaitable[object]], pause: float) -> None:
        """Repeats a request, also while the gateway is down if it may be, as clients of a load
        balancer do."""
        while True:
            try:
                await request()
            except aiohttp.ClientError:
                if not self._gateway_may_be_down:
                    raise
                self.sources["no connection"] += 1
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._gap.restart()
        tasks = [
            asyncio.create_task(self._repeat(request, pause))
            for request, pause in (
                (self._ask_known, self._pause / 5),
                (self._ask_known, self._pause / 5),
                (self._ask_new, self._pause),
                (self._ask_absent, self._pause),
                (self._claim, 2 * self._pause),
                (self._read_status, STATUS_PAUSE_SECONDS),
            )
        ]
        try:
            await self.make_requests()
            yield
            await self.make_requests()
            assert not any(task.done() for task in tasks), [t for t in tasks if t.done()]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._end_gap()

    async def has_recovered(self) -> bool:
        """Whether the resolver works as before the fault."""
        try:
            return await self._is_ready_and_finds()
        except aiohttp.ClientError:
            return False

    async def _is_ready_and_finds(self) -> bool:
        if await self.process.faults():
            return False
        for text in self._rng.sample(list(self.known), 5):
            if not await self.process.finds(text):
                return False
        status, _ = await self.process.get(f"/resolve/{uuid.uuid4()}")
        return status == 404

    async def lost_claims(self) -> list[tuple[str, str]]:
        """Claims that were acknowledged, or found by a sweep, and are not in the index."""
        services = self.process.services
        table = await services.tables.current()
        claims = [*self.acknowledged, *self.known.items()]
        found = await services.index.claims.lookup([parse_id(text) for text, _ in claims])
        return [
            (text, owner)
            for (text, owner), owners in zip(claims, found.owners, strict=True)
            if table.by_name[owner].location.number not in {owner.number for owner in owners}
        ]

    async def no_claim_is_lost(self) -> bool:
        """False too while the index is not created yet."""
        try:
            return not await self.lost_claims()
        except IndexUnavailable:
            return False

    def report(self, fault: str, recovery_seconds: float, lost: int = 0) -> None:
        """Adds a row to the table. ``lost``: claims that Redis had lost, until the next sweep."""
        latencies = sorted(self.latencies)
        sources = self.sources.most_common()
        ROWS.append(
            [
                fault,
                str(self.requests),
                ", ".join(f"{source} {count}" for source, count in sources),
                str(len(self.wrong_answers)),
                f"{len(self.acknowledged)}, {lost}",
                f"{self.longest_gap * 1000:.0f} ms",
                f"{latencies[int(len(latencies) * 0.99)] * 1000:.0f} ms",
                f"{recovery_seconds:.1f} s",
                ", ".join(self.problems) or "nothing",
            ]
        )

    def check(self) -> None:
        """Fails if an answer was wrong, or if known images were not answered for too long."""
        assert not self.wrong_answers, self.wrong_answers
        assert self.longest_gap < MAX_GAP_SECONDS, "known images keep resolving"
