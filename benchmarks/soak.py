"""Hours in minutes: churn, load and faults in rotation, every answer held against the truth.

    python -m benchmarks.soak [--minutes 20] [--out docs/measurements]

A gateway and indexer in a process of its own, its Redis and its locations behind proxies that cut
and hold back. Images come and go, a location is added and removed again and again. Memory, file
descriptors, connections and tasks of the process are written to `soak.csv` and drawn in `soak.svg`;
they should be flat. Exits 1 where an answer was wrong, something did not come right by itself, or
memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import itertools
import os
import random
import re
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.common import out, table
from benchmarks.plot import Panel, draw
from resolver.standin import StandIn
from tests.support.process import free_port
from tests.support.proxy import Proxy
from tests.support.redis import EVERYTHING_ON_DISK, RedisServer
from tests.support.wait import wait_until

CORE = [f"l{number}" for number in range(6)]
SPARE = "spare"
"""The location that comes and goes."""

STEADY, CHURNED = 400, 1000
"""Images that stay, and those that are replaced by and by."""

SWEPT = 5
"""Seconds between sweeps."""

LATE = 40.0
"""Seconds for which an image that was deleted may be named: a sweep, one that failed, a fault."""

REST = 10.0
"""Seconds between two faults."""

SAMPLE = 5.0
"""Seconds between two samples."""

HEAL = 30.0
"""Seconds in which all must be right again after a fault."""

WARM = 0.25
"""Part of the time that does not count for growth: caches fill."""

GROWTH = 0.05
"""Part by which memory may differ between the beginning and the end of what counts: noise."""

TOKEN = "soak-token"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Life:
    """An image at a location."""

    where: str
    born: float
    died: float = float("inf")


@dataclass
class Place:
    """A location: its server, the way there, and since when it is registered."""

    name: str
    server: StandIn
    proxy: Proxy
    added: float = 0.0
    removed: float = float("inf")
    cut: float = float("inf")
    """Since when it cannot be reached."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}"


@dataclass
class Judge:
    """What is true, and what was said of it."""

    places: dict[str, Place]
    lives: dict[str, Life] = field(default_factory=dict)
    said: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    latest: float = 0.0
    """Longest that a deleted image was named, in seconds."""

    def hear(self, text: str, begun: float, outcome: str, named: set[str]) -> None:
        """An answer that was asked for at ``begun`` and has come now."""
        now = time.monotonic()
        self.said[outcome] += 1
        life = self.lives.get(text)
        place = self.places[life.where] if life else None
        if outcome == "found":
            right = named == {life.where} if life else False
            if life and place:
                right &= life.born <= now and place.added <= now and place.removed > begun
                right &= life.died > begun - LATE
                self.latest = max(self.latest, begun - life.died)
        elif outcome == "absent":
            there = (
                life is not None
                and place is not None
                and (life.born < begun and place.added < begun)
                and (life.died > now and place.removed > now)
            )
            # Somebody could not be asked all the while.
            deaf = any(p.cut < begun and p.added < begun and p.removed > now for p in self.there())
            right = not there and not (deaf and life is None)
        else:
            right = outcome == "unknown"
        if not right:
            self.wrong.append(f"{text}: {outcome} {named or ''}, {life}, {place}")

    def there(self) -> list[Place]:
        return list(self.places.values())


class Soak:
    def __init__(self, redis: RedisServer, proxy: Proxy, places: dict[str, Place]) -> None:
        self.redis, self.proxy, self.places = redis, proxy, places
        self.judge = Judge(places)
        self.rng = random.Random(1)
        self.steady: list[str] = []
        self.churned: list[str] = []
        self.dead: list[str] = []
        self.registry = asyncio.Lock()
        self.event = ""
        self.healed: dict[str, list[float]] = {}
        self.unhealed: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.marks: list[tuple[float, str]] = []
        self.http: aiohttp.ClientSession
        self.process: asyncio.subprocess.Process

    def create(self, where: str) -> str:
        text = str(uuid.UUID(int=self.rng.getrandbits(128)))
        self.judge.lives[text] = Life(where, time.monotonic())
        self.places[where].server.add(id=text)
        return text

    # What clients do.

    async def ask(self, text: str, **headers: str) -> None:
        begun = time.monotonic()
        async with self.http.get(f"/resolve/{text}", headers=headers) as reply:
            body = await reply.json(content_type=None)
        named = {owner["location"] for owner in body.get("owners", ())}
        self.judge.hear(text, begun, body.get("outcome", "unknown"), named)

    async def redirect(self, text: str) -> None:
        begun, path = time.monotonic(), f"/v2/images/{text}"
        async with self.http.get(path, allow_redirects=False) as reply:
            await reply.read()
        target = reply.headers.get("Location", "")
        named = {place.name for place in self.places.values() if target == place.url + path}
        outcome = {307: "found", 404: "absent", 503: "unknown"}.get(reply.status, str(reply.status))
        self.judge.hear(text, begun, outcome, named)

    async def bulk(self, texts: list[str]) -> None:
        begun = time.monotonic()
        async with self.http.post("/resolve", json=texts) as reply:
            rows = await reply.json(content_type=None)
        if reply.status == 503:
            rows = [{"outcome": "unknown"}] * len(texts)
        for text, row in zip(texts, rows, strict=True):
            named = {owner["location"] for owner in row.get("owners", ())}
            self.judge.hear(text, begun, row["outcome"], named)

    async def ask_known(self) -> None:
        while True:
            text = self.rng.choice(self.steady)
            await (self.redirect(text) if self.rng.random() < 0.7 else self.ask(text))
            await asyncio.sleep(0.02)

    async def ask_churned(self) -> None:
        while True:
            pool = self.dead if self.dead and self.rng.random() < 0.3 else self.churned
            await self.ask(self.rng.choice(pool))
            await asyncio.sleep(0.04)

    async def ask_nowhere(self) -> None:
        while True:
            await self.ask(str(uuid.UUID(int=self.rng.getrandbits(128))))
            await asyncio.sleep(0.1)

    async def ask_many(self) -> None:
        while True:
            await self.bulk(self.rng.sample([*self.steady, *self.churned], 50))
            await asyncio.sleep(0.5)

    async def come_and_go(self) -> None:
        """Clients with a connection for one request, of which some do not wait for the answer."""
        for number in itertools.count():
            host, port = self.http._base_url.host, self.http._base_url.port  # type: ignore[union-attr]
            reader, writer = await asyncio.open_connection(host, port)
            text = self.rng.choice(self.steady) if number % 2 else str(uuid.uuid4())
            writer.write(f"GET /resolve/{text} HTTP/1.1\r\nHost: soak\r\n\r\n".encode())
            with suppress(OSError, asyncio.IncompleteReadError):
                if number % 3:
                    await reader.readuntil(b"\r\n\r\n")
            writer.transport.abort()
            await asyncio.sleep(0.1)

    # What happens meanwhile.

    async def churn(self) -> None:
        while True:
            self.churned.append(self.create(self.rng.choice(CORE)))
            if len(self.churned) > CHURNED:
                text = self.churned.pop(self.rng.randrange(len(self.churned)))
                life = self.judge.lives[text]
                self.places[life.where].server.delete(text)
                life.died = time.monotonic()
                self.dead = [*self.dead[-200:], text]
            await asyncio.sleep(0.1)

    async def add_and_remove(self) -> None:
        """The spare location comes with images that are asked for, and goes."""
        spare = self.places[SPARE]
        while True:
            async with self.registry:
                spare.added, spare.removed = float("inf"), float("inf")
                texts = [self.create(SPARE) for _ in range(20)]
                begun = time.monotonic()
                spare.added = begun
                await self.admin("PUT", f"/locations/{SPARE}", url=spare.url)
                spare.added = time.monotonic()
                until = begun + 8
                while time.monotonic() < until:
                    await self.ask(self.rng.choice(texts))
                    await asyncio.sleep(0.05)
                await self.admin("DELETE", f"/locations/{SPARE}")
                spare.removed = time.monotonic()
                for text in self.rng.sample(texts, 5):
                    await self.ask(text)
                for text in texts:
                    spare.server.delete(text)
                    del self.judge.lives[text]
            await asyncio.sleep(5)

    async def admin(self, method: str, path: str, **fields: Any) -> None:
        """Until it is done: Redis may be away."""

        async def done() -> bool:
            async with self.http.request(method, path, headers=ADMIN, json=fields or None) as reply:
                return reply.status < 300 or (method == "DELETE" and reply.status == 404)

        await wait_until(done, HEAL, f"{method} {path}")

    # Faults.

    async def redis_killed(self) -> None:
        self.redis.kill()
        await asyncio.sleep(2)
        await asyncio.to_thread(self.redis.start)

    async def redis_paused(self) -> None:
        self.redis.pause()
        await asyncio.sleep(3)
        self.redis.resume()

    async def redis_flushed(self) -> None:
        async with self.registry:  # one that no file has would be missed
            self.redis.flush()

    async def redis_cut(self) -> None:
        self.proxy.cut()

    async def redis_refused(self) -> None:
        self.proxy.refuse = True
        self.proxy.cut()
        await asyncio.sleep(2)
        self.proxy.refuse = False

    async def location_refused(self) -> None:
        place = self.places[self.rng.choice(CORE)]
        place.proxy.refuse = True
        place.proxy.cut()
        place.cut = time.monotonic()
        await asyncio.sleep(6)
        place.cut = float("inf")
        place.proxy.refuse = False

    async def location_silent(self) -> None:
        place = self.places[self.rng.choice(CORE)]
        place.proxy.silent = True
        place.cut = time.monotonic()
        await asyncio.sleep(6)
        place.cut = float("inf")
        place.proxy.silent = False

    async def all_locations_refused(self) -> None:
        for place in self.places.values():
            place.proxy.refuse = True
            place.proxy.cut()
            place.cut = time.monotonic()
        await asyncio.sleep(4)
        for place in self.places.values():
            place.cut = float("inf")
            place.proxy.refuse = False

    async def faults(self) -> None:
        begun = time.monotonic()
        rotation: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("Redis killed, 2 s", self.redis_killed),
            ("a location refused, 6 s", self.location_refused),
            ("Redis paused, 3 s", self.redis_paused),
            ("a location silent, 6 s", self.location_silent),
            ("FLUSHALL", self.redis_flushed),
            ("all locations refused, 4 s", self.all_locations_refused),
            ("connections to Redis cut", self.redis_cut),
            ("Redis refused, 2 s", self.redis_refused),
        ]
        for name, fault in itertools.cycle(rotation):
            await asyncio.sleep(REST)
            self.event = name
            self.marks.append((time.monotonic() - begun, name))
            await fault()
            ended = time.monotonic()
            try:
                await wait_until(self.right, HEAL)
            except AssertionError:
                self.unhealed.append(name)
            self.healed.setdefault(name, []).append(time.monotonic() - ended)
            self.event = ""

    async def right(self) -> bool:
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

    # What it costs.

    async def sample(self, begun: float) -> None:
        proc = Path(f"/proc/{self.process.pid}")
        while True:
            async with self.http.get("/metrics") as reply:
                text = await reply.text()
            tasks = re.search(r"^glance_resolver_tasks (\S+)", text, re.MULTILINE)
            rss = re.search(r"VmRSS:\s+(\d+)", (proc / "status").read_text())
            assert tasks
            assert rss
            links = []
            for link in (proc / "fd").iterdir():
                with suppress(OSError):
                    links.append(os.readlink(link))
            self.rows.append(
                {
                    "seconds": round(time.monotonic() - begun),
                    "rss_mb": round(int(rss[1]) / 1024, 1),
                    "fds": len(links),
                    "connections": sum(link.startswith("socket:") for link in links),
                    "tasks": int(float(tasks[1])),
                    "answers": sum(self.judge.said.values()),
                    "unknown": self.judge.said["unknown"],
                    "wrong": len(self.judge.wrong),
                    "fault": self.event,
                }
            )
            await asyncio.sleep(SAMPLE)

    async def run(self, minutes: float) -> None:
        self.steady = [self.create(self.rng.choice(CORE)) for _ in range(STEADY)]
        self.churned = [self.create(self.rng.choice(CORE)) for _ in range(CHURNED // 2)]
        await wait_until(self.right, HEAL)
        for place in self.places.values():
            if place.name != SPARE:
                place.added = 0.0
        begun = time.monotonic()
        work = [
            *(self.ask_known() for _ in range(4)),
            *(self.ask_churned(), self.ask_nowhere(), self.ask_many(), self.come_and_go()),
            *(self.churn(), self.add_and_remove(), self.faults(), self.sample(begun)),
        ]
        tasks = [asyncio.create_task(one) for one in work]
        done, _ = await asyncio.wait(
            tasks, timeout=60 * minutes, return_when=asyncio.FIRST_COMPLETED
        )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[Soak]:
    async with AsyncExitStack() as stack:
        redis = RedisServer(folder, EVERYTHING_ON_DISK).start()
        stack.callback(redis.close)
        proxy = await stack.enter_async_context(Proxy(redis.port))
        places = {}
        for name in (*CORE, SPARE):
            server = await stack.enter_async_context(StandIn())
            way = await stack.enter_async_context(Proxy(server.port))
            places[name] = Place(name, server, way)
        places[SPARE].added = float("inf")
        soak = Soak(redis, proxy, places)
        port = free_port()
        given = [f"--location={name}={places[name].url}" for name in CORE]
        environ = {
            "RESOLVER_REDIS_URL": proxy.url,
            "RESOLVER_ADMIN_TOKENS": TOKEN,
            "RESOLVER_SWEEP_INTERVAL": str(SWEPT),
            "RESOLVER_POLL_INTERVAL": "2",
            "RESOLVER_HEALTH_INTERVAL": "2",
            "RESOLVER_LOCATION_TIMEOUT": "5",
            "RESOLVER_PROBE_TIMEOUT": "1",
            "RESOLVER_CACHE_SIZE": "2000",  # full long before the end
            "RESOLVER_ACCESS_LOG": "off",
        }
        log = (folder / "log").open("wb")
        stack.callback(log.close)
        soak.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "resolver", "serve", "--port", str(port), *given),
            env={k: v for k, v in os.environ.items() if k[:9] != "RESOLVER_"} | environ,
            stderr=log,
        )
        stack.push_async_callback(soak.process.wait)
        stack.callback(soak.process.terminate)
        soak.http = await stack.enter_async_context(
            aiohttp.ClientSession(f"http://127.0.0.1:{port}")
        )

        async def up() -> bool:
            with suppress(aiohttp.ClientError):
                async with soak.http.get("/livez"):
                    return True
            return False

        await wait_until(up, HEAL)
        yield soak


def tell(soak: Soak, folder: Path, minutes: float) -> bool:
    """Writes and prints what was seen; whether it was well."""
    with (folder / "soak.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(soak.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(soak.rows)
    figures = {
        "rss_mb": "resident memory, MB",
        "fds": "file descriptors",
        "connections": "connections",
        "tasks": "tasks",
    }
    draw(
        folder / "soak.svg",
        f"{minutes:g} minutes of churn and faults (grey: a fault)",
        [row["seconds"] for row in soak.rows],
        [Panel(title, [row[name] for row in soak.rows]) for name, title in figures.items()],
        soak.marks,
    )
    counted = [row for row in soak.rows if row["seconds"] >= WARM * 60 * minutes]
    half = len(counted) // 2
    rows = make_table("medians", "figure", "first half", "second half", "most")
    medians = {}
    for name, title in figures.items():
        values = [row[name] for row in counted]
        medians[name] = statistics.median(values[:half]), statistics.median(values[half:])
        rows.add_row(title, *(f"{one:g}" for one in (*medians[name], max(values))))
    out.print(rows)
    healed = make_table("faults", "fault", "times", "right again after: median", "longest")
    for name, times in soak.healed.items():
        healed.add_row(
            name, str(len(times)), f"{statistics.median(times):.1f}", f"{max(times):.1f}"
        )
    out.print(healed)
    said = ", ".join(f"{count:,} {outcome}" for outcome, count in soak.judge.said.most_common())
    out.print(f"{sum(soak.judge.said.values()):,} answers: {said}; {len(soak.judge.wrong)} wrong.")
    out.print(f"A deleted image was named for {soak.judge.latest:.1f} s at most.")
    for text in [*soak.judge.wrong[:20], *(f"not right again: {n}" for n in soak.unhealed)]:
        out.print(text, markup=False)
    before, after = medians["rss_mb"]
    return not soak.judge.wrong and not soak.unhealed and after <= before * (1 + GROWTH)


async def run(minutes: float, folder: Path) -> bool:
    with tempfile.TemporaryDirectory(prefix="glr-soak-") as own:
        try:
            async with world(Path(own)) as soak:
                await soak.run(minutes)
        except BaseException:
            out.print((Path(own) / "log").read_text()[-4000:], markup=False)
            raise
        return tell(soak, folder, minutes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument(
        "--out", type=Path, default=Path("docs/measurements"), help="folder for CSV and SVG"
    )
    options = parser.parse_args()
    if not asyncio.run(run(options.minutes, options.out)):
        sys.exit(1)


if __name__ == "__main__":
    main()
