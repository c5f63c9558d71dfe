"""The game: one random step after the other, each answer judged, a story of what was done."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from resolver.models import Health, format_id
from resolver.resolution import Preferences
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.sync import IndexerTimings
from tests.model.happenings import NAMES, PATIENT, Happenings, Wrong
from tests.model.judge import AGREED, Ask, Told, faults
from tests.model.world import Served, World


class Play(Happenings):
    """A world that is played: one random step after the other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._steps: dict[Callable[[], Awaitable[None]], int] = {
            self.ask: 50,
            self.ask_many: 4,
            self.limiter: 5,
            self.crossing: 4,
            self.create: 7,
            self.copy: 2,
            self.move: 4,
            self.delete: 4,
            self.touch: 2,
            self.sweep: 5,
            self.poll: 6,
            self.check: 4,
            self.outage: 2,
            self.recovery: 4,
            self.hold: 2,
            self.let_go: 6,
            self.state: 2,
            self.remove: 1,
            self.register: 3,
            self.repoint: 1,
            self.collect: 1,
            self.restart: 1,
            self.calm: 1,
        }

    async def run(self, steps: int) -> None:
        await self.register()
        await self.register()
        for _ in range(steps):
            self.step += 1
            step = self.rng.choices(list(self._steps), list(self._steps.values()))[0]
            self.counts[step.__name__] = self.counts.get(step.__name__, 0) + 1
            await step()
            await self._arrivals()
            self._broken()
        await self.calm()

    # What clients ask

    async def ask(self) -> None:
        image_id = self._some_id()
        await self._maybe_beside(self._ask(self.one, image_id, self._some_wish(image_id)))

    async def limiter(self) -> None:
        """Some ask at once, while something changes."""
        image_ids = [self._some_id() for _ in range(self.rng.randint(1, 2))]
        asks = []
        for _ in range(self.rng.randint(2, 6)):
            image_id = self.rng.choice(image_ids)
            asks.append(self._ask(self.one, image_id, self._some_wish(image_id)))
        tasks = [asyncio.ensure_future(one) for one in asks]
        self._running.update(tasks)
        for _ in range(self.rng.randint(0, 3)):
            await asyncio.sleep(0)
        change = self.rng.choice(
            [self.create, self.copy, self.move, self.delete, self.sweep, self.poll, self.remove]
        )
        holders = [server for server in self.world.servers if server.has(image_ids[0])]
        if holders and self.rng.random() < 0.5:
            await self._delete(self.rng.choice(holders), image_ids[0])
        await change()
        if not any(s.held.on for s in self.world.servers):
            await asyncio.wait(tasks)

    async def crossing(self) -> None:
        """Something is read, the truth changes, and only then what was read arrives."""
        found = self._somewhere()
        if found is None or found[0].outage.on or found[0].held.on:
            return
        server, image_id = found
        places = [name for name, spell in self.world.current().items() if spell.server is server]
        if not places:
            return
        if self.rng.random() < 0.3:  # one that is there in a moment
            image_id = self.rng.randbytes(16)
        few = self.rng.choice([1, 2, 100])
        self.tell(f"{server.name}: its next {few} answers will cross with a change")
        server.hold(few)
        name = self.rng.choice(places)
        reads = {
            "ask": self._ask(self.one, image_id, self._some_wish(image_id)),
            "fresh": self._ask(self.one, image_id, Preferences(fresh=True)),
            "without": self._ask(self.one, image_id, Preferences(exclude=frozenset({name}))),
            "poll": self._poll(name),
            "sweep": self._sweep(name),
        }
        chosen = self.rng.sample(list(reads), self.rng.randint(1, 2))
        tasks = [asyncio.ensure_future(reads.pop(one)) for one in chosen]
        self._running.update(tasks)
        for unused in reads.values():
            unused.close()
        await asyncio.sleep(self.rng.choice([0, 0.002, 0.01]))
        await (
            self._delete(server, image_id)
            if server.has(image_id)
            else self._create(server, image_id)
        )
        if self.rng.random() < 0.5:
            await self._maybe_beside(
                self._ask(self.one, image_id, Preferences(exclude=frozenset({name})))
            )
        server.let_go()
        self.tell(f"{server.name}: its answers arrive")
        if not any(s.held.on for s in self.world.servers):
            await asyncio.wait(tasks)
            self._broken()
            await self._ask(self.one, image_id, Preferences())

    async def ask_many(self) -> None:
        image_ids = [self._some_id() for _ in range(8)]
        preferences = self._some_wish(image_ids[0])
        services, asks = (
            self.one,
            [await self._begin(self.one, image_id, preferences) for image_id in image_ids],
        )
        for ask in asks:
            ask.told = ask.many = True  # it never looks at what is kept in the process
        await self._maybe_beside(self._ask_many(services, asks, preferences))

    async def _ask_many(
        self, services: Services, asks: list[Ask], preferences: Preferences
    ) -> None:
        letter_cases = {at: ask.letter_case for at, ask in enumerate(asks) if ask.letter_case}
        forms = await services.resolver.resolve_text(
            [ask.image_id for ask in asks], preferences, letter_cases
        )
        for ask, form in zip(asks, forms, strict=True):
            self._judge(ask, json.loads(form.fill(format_id(ask.image_id))))

    async def _ask(self, services: Services, image_id: bytes, preferences: Preferences) -> None:
        ask = await self._begin(services, image_id, preferences)
        answer = await services.resolver.resolve(image_id, preferences, ask.letter_case)
        self._judge(ask, answer.as_json() | {"detail": answer.detail})

    def _some_id(self) -> bytes:
        known = self.world.ids()
        if not known or self.rng.random() < 0.05:
            return self.rng.randbytes(16)
        somewhere = self._somewhere()
        return (
            self.rng.choice(known[-100:])
            if somewhere is None
            else self.rng.choice(
                [somewhere[1], somewhere[1], self.rng.choice(known[-20:]), self.rng.choice(known)]
            )
        )

    def _some_wish(self, image_id: bytes) -> Preferences:
        kind = self.rng.choices(["plain", "fresh", "owner", "any"], [10, 4, 3, 1])[0]
        if kind == "owner" and (owners := sorted(self.world.owners(image_id))):
            return Preferences(exclude=frozenset({self.rng.choice(owners)}))
        if kind == "any":
            return Preferences(
                exclude=frozenset({self.rng.choice(NAMES)}), fresh=self.rng.random() < 0.5
            )
        return Preferences(fresh=kind == "fresh")

    async def _begin(self, services: Services, image_id: bytes, preferences: Preferences) -> Ask:
        letter_cases = {
            s.lives[image_id].letter_case for s in self.world.servers if image_id in s.lives
        } or {0}
        letter_case = self.rng.choice([*letter_cases, *letter_cases, *letter_cases, 0])
        index, told = services.index, self.rng.random() < 0.7
        down = set()
        for spell in self.world.current().values():
            check = await index.records.check(spell.number)
            known = check is not None and check.versions
            if (check and check.health is Health.DOWN) or not (known or spell.server.standin.v2):
                down.add(spell.number)
        claimed = await self._claimed(services, image_id)
        if told:  # what was told before this answer has arrived
            await index.client.command("PING", foreground=True)
        ask = Ask(image_id, letter_case, preferences, told, down, claimed)
        since = ask.begun - self.remember
        earlier = [begun for begun, ended in self._answered.get(image_id, ()) if ended >= since]
        under_way = [other.begun for other in self._asked.get(image_id, ())]
        ask.oldest = min([since, *earlier, *under_way])
        self._asked.setdefault(image_id, []).append(ask)
        return ask

    async def _claimed(self, services: Services, image_id: bytes) -> set[int]:
        """The locations of which the index has a claim for an image.

        What it knows must not be forgotten while it is true, and what it has learnt to be gone must
        not come back: Glance uses no id twice. (But a late notification may say what was true once;
        and a claim made too late is seen for the moment until it is taken back.)
        """
        deadline = time.monotonic() + AGREED
        while True:
            (owners,) = (await services.index.claims.lookup([image_id])).owners
            claimed = {owner.number for owner in owners}
            if not (wrong := self._mistaken(image_id, claimed)):
                return claimed
            if time.monotonic() > deadline:
                raise Wrong(wrong)
            await asyncio.sleep(0.01)

    def _mistaken(self, image_id: bytes, claimed: set[int]) -> str:
        for name, spell in self.world.current().items():
            claim, life = (spell.number, image_id), spell.life(image_id)
            if spell.number in claimed:
                if claim in self._gone:
                    return f"{image_id.hex()[:8]} is claimed again at {name}, where it was gone"
                self._claims.add(claim)
            elif claim in self._claims and life and life.died == math.inf:
                return f"{image_id.hex()[:8]} is not claimed any more at {name}, where it is"
            elif claim in self._claims:
                self._gone.add(claim)
        return ""

    def _judge(self, ask: Ask, answer: dict[str, Any]) -> None:
        self._asked[ask.image_id].remove(ask)
        self._answered.setdefault(ask.image_id, []).append((ask.begun, time.monotonic()))
        owners = {one["location"]: one["uri"] for one in answer["owners"]}
        told = Told(answer["outcome"], owners, answer["missing"])
        self.tell(f"{ask}: {told} ({answer['source']})")
        self.counts[told.outcome] = self.counts.get(told.outcome, 0) + 1
        for fault in faults(self.world, ask, told):
            why = answer.get("detail", "")
            raise Wrong(f"{ask}: {told} ({answer['source']}): {fault}. {why}")

    # When all is calm

    async def calm(self) -> None:
        """Every trouble ends; after one look at each location and one sweep all must be right."""
        self.tell("calm")
        for server in self.world.servers:
            if server.held.on:
                server.let_go()
            if server.outage.on:
                await self._recover(server)
        for task in list(self._running):
            await task
        self._running.clear()
        await asyncio.sleep(0)
        self._late.clear()
        names = list(self.world.current())
        for name in names:
            await self._check(name)
            await self._sweep(name, calm=True)
        deadline = time.monotonic() + AGREED
        for services in self.gateways:
            while wrong := await self._not_right(services):
                if time.monotonic() > deadline:
                    raise Wrong(f"calm for {AGREED:g} s, and {wrong}")
                await asyncio.sleep(0.02)

    async def _not_right(self, services: Services) -> str:
        current = self.world.current()
        serving = [s for s in current.values() if s.in_service]
        for image_id in self.world.ids():
            answer = await services.resolver.resolve(image_id, Preferences())
            offered = {offer.view.name for offer in answer.owners}
            elsewhere = {
                n for n, s in current.items() if not s.in_service and s.server.has(image_id)
            }
            owners = self.world.owners(image_id)
            outcome = "found" if owners else "unknown" if elsewhere or not serving else "absent"
            if (answer.outcome, offered) != (outcome, owners):
                return (
                    f"{answer.id[:8]} is {answer.outcome} {sorted(offered)} ({answer.source}), "
                    f"and should be {outcome} {sorted(owners)}"
                )
        return ""


@asynccontextmanager
async def playing(url: str, seed: int, gateways: int) -> AsyncIterator[Play]:
    """A world and the resolver's processes, ready to be played."""
    rng = random.Random(seed)
    cap = rng.choice([5, 1000])
    pike: dict[str, Any] = rng.choice([{"v1": True}, {"v1": True, "v2": False}])
    remember = rng.choice([0.0, 0.3])
    async with AsyncExitStack() as stack:
        servers = [
            Served("a", page_cap=cap),
            Served("b", old=True, page_cap=cap, **pike),
            Served("c", prefix="/image", page_cap=cap),
        ]
        for server in servers:
            await stack.enter_async_context(server.standin)
        settings = Settings(
            redis_url=url,
            index_bits=4,
            index_timeout=10,
            sweep_interval=3600,  # nothing is due by itself
            poll_interval=3600,
            health_interval=0.001,
            location_timeout=10,
            probe_timeout=PATIENT,
            absent_ttl=remember,
        )
        # Else each poll would read all that was ever done here, and none could miss anything.
        timings = IndexerTimings(poll_overlap=1.0)
        opened = [
            await stack.enter_async_context(open_services(settings, timings=timings))
            for _ in range(gateways)
        ]
        play = Play(rng, World(servers), opened, remember)
        try:
            yield play
        finally:
            for server in servers:
                server.let_go()
            for task in play._running:
                task.cancel()
            for services in opened:
                await services.indexer.stop()
