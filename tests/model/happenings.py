"""What happens: at the servers, on the way of their notifications, in indexers, by operators."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from resolver.glance import GlanceServer
from resolver.glance.notifications import parse_notice
from resolver.models import State, format_id, letter_case_of
from resolver.services import Services
from resolver.sync import WorkKey, WorkKind
from resolver.sync.deletion_log import DeletionLog, apply_notices
from resolver.sync.health import next_status, probe_health
from tests.model.judge import Ask
from tests.model.world import SILENCE, Served, Spell, World

NAMES = ("one", "two", "three", "four")
IMAGES = 40
"""Images that are somewhere, about."""

STORY = 30
"""Steps told of a run that failed."""

QUICK, PATIENT = 0.1, 10.0
"""How long a location may take to answer: when one is silent, and otherwise."""

assert QUICK < SILENCE


class Wrong(AssertionError):
    """The resolver broke its promise."""


@dataclass
class Late:
    """A notification that is still on its way."""

    name: str
    number: int
    """The queue is this registration's own."""
    body: bytes
    steps: int


@dataclass
class Happenings:
    """A world, and everything in it that may change."""

    rng: random.Random
    world: World
    gateways: list[Services]
    remember: float
    story: deque[str] = field(default_factory=lambda: deque(maxlen=STORY))
    step: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._busy: set[WorkKey] = set()
        self._claims: set[tuple[int, bytes]] = set()
        self._gone: set[tuple[int, bytes]] = set()
        self._said: dict[tuple[int, bytes], float] = {}
        self._late: list[Late] = []
        self._latest: dict[int, DeletionLog] = {}
        self._asked: dict[bytes, list[Ask]] = {}
        self._answered: dict[bytes, list[tuple[float, float]]] = {}

    @property
    def one(self) -> Services:
        return self.rng.choice(self.gateways)

    def tell(self, text: str) -> None:
        self.story.append(f"{self.step:6} {text}")

    # What happens at the servers

    async def create(self) -> None:
        await self._create(self.rng.choice(self.world.servers), self.rng.randbytes(16))

    async def copy(self) -> None:
        if found := self._somewhere():
            server, image_id = found
            others = [s for s in self.world.servers if image_id not in s.lives]
            if others:
                await self._create(
                    self.rng.choice(others), image_id, server.lives[image_id].letter_case
                )

    async def move(self) -> None:
        if found := self._somewhere():
            server, image_id = found
            others = [s for s in self.world.servers if image_id not in s.lives]
            if others:
                await self._delete(server, image_id)
                await self._create(
                    self.rng.choice(others), image_id, server.lives[image_id].letter_case
                )

    async def delete(self) -> None:
        if found := self._somewhere():
            await self._delete(*found)

    async def touch(self) -> None:
        if found := self._somewhere():
            server, image_id = found
            if not server.standin.old and server.standin.v2:
                hidden = self.rng.random() < 0.5
                text = format_id(image_id, server.lives[image_id].letter_case)
                server.standin.update(text, hidden=hidden)
                self.tell(f"{server.name}: {text[:8]} is {'hidden' if hidden else 'shown'}")
                await self._notify(server, image_id, "update")

    def _somewhere(self) -> tuple[Served, bytes] | None:
        places = [
            (server, image_id) for server in self.world.servers for image_id in server.there()
        ]
        return self.rng.choice(places) if places else None

    async def _create(
        self, server: Served, image_id: bytes, letter_case: int | None = None
    ) -> None:
        if letter_case is None:
            upper = letter_case_of(format_id(image_id).upper())
            letter_case = self.rng.choice([0, 0, 0, 0, upper, upper & self.rng.getrandbits(32)])
        fields = {
            "visibility": self.rng.choice(["public", "private", "shared", "community"]),
            "hidden": not server.standin.old and self.rng.random() < 0.2,
        }
        server.create(image_id, letter_case, **fields)
        self.tell(f"{server.name}: {format_id(image_id, letter_case)[:8]} is created")
        await self._notify(server, image_id, "create")
        if self.rng.random() < 0.5:
            await self._notify(server, image_id, "activate")
        if len(self.world.ids()) and sum(len(s.there()) for s in self.world.servers) > IMAGES:
            await self.delete()

    async def _delete(self, server: Served, image_id: bytes) -> None:
        server.delete(image_id)
        text = format_id(image_id, server.lives[image_id].letter_case)
        self.tell(f"{server.name}: {text[:8]} is deleted")
        await self._notify(server, image_id, "delete")

    # What the brokers say of it

    async def _notify(self, server: Served, image_id: bytes, kind: str) -> None:
        """Each location of the server has a link to its broker; on each it fares differently."""
        body = server.notification(image_id, kind)
        for name, spell in self.world.current().items():
            if spell.server is not server:
                continue
            fate = self.rng.choices(["now", "late", "twice", "lost"], [4, 2, 1, 3])[0]
            if fate in ("late", "twice"):
                self._late.append(Late(name, spell.number, body, self.rng.randint(1, 40)))
            if fate in ("now", "twice"):
                await self._deliver(name, spell.number, body)

    async def _arrivals(self) -> None:
        for late in list(self._late):
            late.steps -= 1
            if late.steps < 0 and late in self._late:
                self._late.remove(late)
                await self._deliver(late.name, late.number, late.body)

    async def _deliver(self, name: str, number: int, body: bytes) -> None:
        spell = self.world.current().get(name)
        if spell is None or spell.number != number:
            return
        notice = parse_notice(body)
        assert notice is not None
        latest = self._latest.setdefault(spell.number, DeletionLog())
        news = await apply_notices(self.one.index, spell.number, latest, [notice])
        what = "gone" if notice.deleted else "there"
        if notice.deleted:
            self._gone.add((number, notice.image_id))
        elif news:
            self._gone.discard((number, notice.image_id))
            self._said[number, notice.image_id] = time.monotonic()
        self.tell(f"{name} notifies: {notice.image_id.hex()[:8]} {what}{'' if news else ', old'}")

    async def restart(self) -> None:
        """Another indexer takes the links over; it knows nothing of what came before."""
        self._latest.clear()
        self.tell("another indexer follows the notifications")

    # What indexers do

    async def sweep(self) -> None:
        await self._named(self._sweep)

    async def poll(self) -> None:
        await self._named(self._poll)

    async def check(self) -> None:
        await self._named(self._check)

    async def collect(self) -> None:
        services = self.one
        if await services.index.records.retired():
            await self._work(services, WorkKey(WorkKind.COLLECT))

    async def _named(self, work: Callable[[str], Awaitable[None]]) -> None:
        names = list(self.world.current())
        if names:
            await self._maybe_beside(work(self.rng.choice(names)))

    async def _work(self, services: Services, key: WorkKey) -> bool:
        """As the indexer's loop starts it; ends when it has. False: it is being done already."""
        if key in self._busy:
            return False
        self._busy.add(key)
        assert await services.indexer.do_now(key)
        self._busy.discard(key)
        return True

    async def _sweep(self, name: str, *, calm: bool = False) -> None:
        spell, services, begun = self.world.current()[name], self.one, time.monotonic()
        confirm = calm or self.rng.random() < 0.5
        self.tell(f"{name} is swept{' and may shrink' if confirm else ''}")
        await services.registry.sweep(name, confirm_shrink=confirm)
        place = (await services.tables.current()).by_name.get(name)
        if place is None or place.location.number != spell.number:
            return
        if not await self._work(services, WorkKey(WorkKind.SWEEP, spell.number)):
            return
        record = (await services.index.records.load()).records.get(name)
        if record is None or record.location.number != spell.number:
            return
        sweep = record.status.sweep
        if spell.server.troubled(begun):
            return
        if sweep.error_code not in ("", "shrink-guard") or (sweep.error and confirm):
            raise Wrong(f"the sweep of {name} failed: {sweep.error}")
        await self._claimed_all(services, name, spell, begun, exactly=not sweep.error)

    async def _poll(self, name: str) -> None:
        spell, services, begun = self.world.current()[name], self.one, time.monotonic()
        place = (await services.tables.fresh()).by_name.get(name)
        if place is None or place.location.number != spell.number or not place.versions:
            return
        self.tell(f"{name} is polled")
        services.indexer.poll_immediately(spell.number)
        whole = place.status.sweep.ended is not None
        if not await self._work(services, WorkKey(WorkKind.POLL, spell.number)):
            return
        record = (await services.index.records.load()).records.get(name)
        if record is None or record.location.number != spell.number:
            return
        if spell.server.troubled(begun):
            return
        if record.status.poll.error:
            raise Wrong(f"the poll of {name} failed: {record.status.poll.error}")
        if whole:
            tells = spell.server.standin.v1
            await self._claimed_all(services, name, spell, begun, exactly=tells)

    async def _claimed_all(
        self, services: Services, name: str, spell: Spell, begun: float, *, exactly: bool
    ) -> None:
        """The index has every image of a location that was there all the time since `begun`, and
        if `exactly` none that was not there."""
        claims: dict[bytes, int] = {}
        async for _, some in services.index.claims.of_location(spell.number):
            claims |= some
        for image_id, life in spell.server.lives.items():
            if life.throughout(begun) and image_id not in claims:
                raise Wrong(f"{name} has {image_id.hex()[:8]}, and the index does not know it")
            late = self._said.get((spell.number, image_id), 0.0) > begun
            if exactly and not life.during(begun) and image_id in claims and not late:
                raise Wrong(f"{name} has lost {image_id.hex()[:8]}, and the index claims it")

    async def _check(self, name: str) -> None:
        services = self.one
        place = (await services.tables.current()).by_name.get(name)
        if place is not None:
            location, records = place.location, services.index.records
            before = await records.check(location.number)
            server = GlanceServer(services.session, location, services.cloud_credentials)
            check = next_status(before, await probe_health(server, before))
            await records.set_check(location.number, check, location)
            self.tell(f"{name} is looked at: {check.health}")

    # What goes wrong, and ends

    async def outage(self) -> None:
        server = self.rng.choice(self.world.servers)
        if not server.outage.on and not server.held.on:
            how = self.rng.choices(["500", "refused", "silent"], [5, 5, 1])[0]
            self.tell(f"{server.name}: an outage begins ({how})")
            await server.fail(how)
            self._patience()

    async def recovery(self) -> None:
        ill = [s for s in self.world.servers if s.outage.on]
        if ill:
            await self._recover(self.rng.choice(ill))

    async def _recover(self, server: Served) -> None:
        await server.recover()
        self.tell(f"{server.name}: the outage is over")
        self._patience()

    def _patience(self) -> None:
        silent = any(s.how == "silent" for s in self.world.servers)
        for services in self.gateways:
            services.prober.timeout = QUICK if silent else PATIENT

    async def hold(self) -> None:
        server = self.rng.choice(self.world.servers)
        if not server.outage.on and not server.held.on:
            few = self.rng.choice([1, 1, 2, 4, 100])
            self.tell(f"{server.name}: its next {few} answers are long on their way")
            server.hold(few)

    async def let_go(self) -> None:
        held = [s for s in self.world.servers if s.held.on]
        if held:
            server = self.rng.choice(held)
            server.let_go()
            self.tell(f"{server.name}: its answers arrive")
            await asyncio.sleep(0.01)

    async def _maybe_beside(self, work: Awaitable[None]) -> None:
        """Waits for something, unless that could take until a step that is still to come."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        if any(s.held.on for s in self.world.servers):
            await asyncio.wait([task], timeout=0.005)
        else:
            await asyncio.wait([task])

    def _broken(self) -> None:
        """Raises what has come of work that was done beside."""
        for task in [t for t in self._running if t.done()]:
            self._running.discard(task)
            task.result()

    # What operators do

    async def register(self) -> None:
        free = [name for name in NAMES if name not in self.world.current()]
        if free:
            await self._put(self.rng.choice(free), self.rng.choice(self.world.servers))

    async def repoint(self) -> None:
        if names := list(self.world.current()):
            await self._put(self.rng.choice(names), self.rng.choice(self.world.servers))

    async def state(self) -> None:
        if names := list(self.world.current()):
            name = self.rng.choice(names)
            spell = self.world.current()[name]
            states = [State.ACTIVE, State.MAINTENANCE, State.DRAINING]
            await self._put(name, spell.server, self.rng.choice(states))

    async def _put(self, name: str, server: Served, state: State = State.ACTIVE) -> None:
        begun = time.monotonic()
        fields = {"url": server.standin.url, "state": str(state)}
        location, _ = await self.one.registry.put(name, fields)
        self.world.change(name, Spell(location.number, server, state, begun, time.monotonic()))
        self.tell(f"location {name} is {server.name}, number {location.number}, {state}")

    async def remove(self) -> None:
        if names := list(self.world.current()):
            name = self.rng.choice(names)
            await self.one.registry.remove(name)
            self.world.change(name, None)
            self.tell(f"location {name} is removed")
