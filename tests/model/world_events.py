"""Random events: at the servers, in their notifications, in indexers, and by operators."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from resolver.glance import GlanceServer
from resolver.glance.notifications import parse_notice
from resolver.image_facts import STATUSES
from resolver.models import State, format_id, letter_case_of
from resolver.services import Services
from resolver.sync import WorkKey, WorkKind
from resolver.sync.deletion_log import DeletionLog, apply_notices
from resolver.sync.health import next_status, probe_health
from tests.model.answer_checks import Question
from tests.model.world import SHORT_PROBE_TIMEOUT, ModelServer, Registration, World

TOKEN_VARIABLE = "GLANCE_MODEL_TOKEN"
"""The environment variable with the token of all locations that need one."""

LOCATION_NAMES = ("one", "two", "three", "four")
IMAGE_COUNT = 40
"""About how many images there are at a time."""

HISTORY_STEPS = 100
"""Steps that the report of a failed run shows."""

LONG_TIMEOUT = 30.0
"""Seconds for whatever always gets an answer, unless a server is silent. Longer than other
processes keep the processor: the model expects a result of work that was given up because of them.
"""


class WrongAnswer(AssertionError):
    """The resolver gave a wrong answer."""


@dataclass
class DelayedNotification:
    """A notification that is still on its way."""

    name: str
    number: int
    """Of the registration whose queue it is in."""
    body: bytes
    steps: int


@dataclass
class WorldEvents:
    """A world, and the events that may change it."""

    rng: random.Random
    world: World
    gateways: list[Services]
    absent_ttl: float
    history: deque[str] = field(default_factory=lambda: deque(maxlen=HISTORY_STEPS))
    step: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._running_tasks: set[asyncio.Task[None]] = set()
        self._busy_work: set[WorkKey] = set()
        self._claims: set[tuple[int, bytes]] = set()
        self._claimed_since: dict[tuple[int, bytes], float] = {}
        """When each of these claims was seen first since Redis evicted some."""
        self._ever_guarded: set[int] = set()
        """Numbers of locations whose shrink guard was ever tripped."""
        self._known_deletions: set[tuple[int, bytes]] = set()
        self._announced_at: dict[tuple[int, bytes], float] = {}
        self._counts_lost_at = 0.0
        """When sweeps under way may have lost what they count on, last."""
        self._status_lost_at = 0.0
        """When Redis lost the status of all locations last."""
        self._evicted_at, self._evicted_time = 0.0, 0.0
        """When Redis evicted claims last, on `time.monotonic` and in seconds since 1970."""
        self._delayed: list[DelayedNotification] = []
        self._deletion_logs: dict[int, DeletionLog] = {}
        self._open_questions: dict[bytes, list[Question]] = {}
        self._answer_times: dict[bytes, list[tuple[float, float]]] = {}

    @property
    def any_gateway(self) -> Services:
        return self.rng.choice(self.gateways)

    def log_step(self, text: str) -> None:
        self.history.append(f"{self.step:6} {text}")

    # What happens at the servers

    async def create(self) -> None:
        await self._create(self.rng.choice(self.world.servers), self.rng.randbytes(16))

    async def copy(self) -> None:
        if found := self._any_image():
            server, image_id = found
            others = [s for s in self.world.servers if image_id not in s.lives]
            if others:
                life = server.lives[image_id]
                data = life.data if self.rng.random() < 0.6 else b"other bytes"
                await self._create(self.rng.choice(others), image_id, life.letter_case, data)

    async def move(self) -> None:
        if found := self._any_image():
            server, image_id = found
            others = [s for s in self.world.servers if image_id not in s.lives]
            if others:
                await self._delete(server, image_id)
                await self._create(
                    self.rng.choice(others), image_id, server.lives[image_id].letter_case
                )

    async def delete(self) -> None:
        if found := self._any_image():
            await self._delete(*found)

    async def update(self) -> None:
        if found := self._any_image():
            server, image_id = found
            if not server.standin.old and server.standin.v2:
                hidden = self.rng.random() < 0.5
                text = format_id(image_id, server.lives[image_id].letter_case)
                server.standin.update(text, hidden=hidden)
                self.log_step(f"{server.name}: {text[:8]} is {'hidden' if hidden else 'shown'}")
                await self._notify(server, image_id, "update")

    async def change_status(self) -> None:
        """Half the time of an image that others have too: then it is a question which one is
        offered first."""
        copied = [
            (server, image_id)
            for server in self.world.servers
            for image_id in server.current_images()
            if sum(other.has(image_id) for other in self.world.servers) > 1
        ]
        is_copied = copied and self.rng.random() < 0.5
        if found := self.rng.choice(copied) if is_copied else self._any_image():
            server, image_id = found
            status = self.rng.choice(["active", "active", "importing", "deactivated", "killed"])
            server.set_status(image_id, status)
            self.log_step(f"{server.name}: {image_id.hex()[:8]} is {status}")
            await self._notify(server, image_id, "update")

    def _any_image(self) -> tuple[ModelServer, bytes] | None:
        images = [
            (server, image_id)
            for server in self.world.servers
            for image_id in server.current_images()
        ]
        return self.rng.choice(images) if images else None

    async def _create(
        self,
        server: ModelServer,
        image_id: bytes,
        letter_case: int | None = None,
        data: bytes = b"bytes",
    ) -> None:
        if letter_case is None:
            upper = letter_case_of(format_id(image_id).upper())
            letter_case = self.rng.choice([0, 0, 0, 0, upper, upper & self.rng.getrandbits(32)])
        fields = {
            "visibility": self.rng.choice(["public", "private", "shared", "community"]),
            "hidden": not server.standin.old and self.rng.random() < 0.2,
        }
        server.create(image_id, letter_case, data, **fields)
        self.log_step(f"{server.name}: {format_id(image_id, letter_case)[:8]} is created")
        await self._notify(server, image_id, "create")
        if self.rng.random() < 0.5:
            await self._notify(server, image_id, "activate")
        if sum(len(s.current_images()) for s in self.world.servers) > IMAGE_COUNT:
            await self.delete()

    async def _delete(self, server: ModelServer, image_id: bytes) -> None:
        server.delete(image_id)
        text = format_id(image_id, server.lives[image_id].letter_case)
        self.log_step(f"{server.name}: {text[:8]} is deleted")
        await self._notify(server, image_id, "delete")

    # Notifications

    async def _notify(self, server: ModelServer, image_id: bytes, kind: str) -> None:
        """Each location of the server has a queue of its own: in each the message may be lost."""
        body = server.notification(image_id, kind)
        for name, registration in self.world.current().items():
            if registration.server is not server:
                continue
            fate = self.rng.choices(["now", "late", "twice", "lost"], [4, 2, 1, 3])[0]
            if fate in ("late", "twice"):
                self._delayed.append(
                    DelayedNotification(name, registration.number, body, self.rng.randint(1, 40))
                )
            if fate in ("now", "twice"):
                await self._deliver(name, registration.number, body)

    async def _deliver_delayed(self) -> None:
        for delayed in list(self._delayed):
            delayed.steps -= 1
            if delayed.steps < 0 and delayed in self._delayed:
                self._delayed.remove(delayed)
                await self._deliver(delayed.name, delayed.number, delayed.body)

    async def _deliver(self, name: str, number: int, body: bytes) -> None:
        registration = self.world.current().get(name)
        if registration is None or registration.number != number:
            return
        notice = parse_notice(body)
        assert notice is not None
        latest = self._deletion_logs.setdefault(registration.number, DeletionLog())
        index = self.any_gateway.index
        applied = await apply_notices(index, registration.number, latest, [notice])
        if (await index.records.sweep(number)).guarded is not None:
            self._ever_guarded.add(number)  # a sweep that is under way may reset it at any time
        what = "gone" if notice.deleted else "there"
        if notice.deleted:
            self._known_deletions.add((number, notice.image_id))
        elif applied:
            self._known_deletions.discard((number, notice.image_id))
            self._announced_at[number, notice.image_id] = time.monotonic()
        self.log_step(
            f"{name} notifies: {notice.image_id.hex()[:8]} {what}{'' if applied else ', old'}"
        )

    async def restart(self) -> None:
        """Another indexer takes the queues over; it knows no earlier deletions."""
        self._deletion_logs.clear()
        self.log_step("another indexer consumes the notifications")

    # Indexers

    async def sweep(self) -> None:
        await self._named(self._sweep)

    async def poll(self) -> None:
        await self._named(self._poll)

    async def check(self) -> None:
        await self._named(self._check)

    async def collect(self) -> None:
        services = self.any_gateway
        if await services.index.records.retired():
            await self._run_indexer_work(services, WorkKey(WorkKind.COLLECT))

    async def _named(self, work: Callable[[str], Awaitable[None]]) -> None:
        names = list(self.world.current())
        if names:
            await self._run_or_leave_running(work(self.rng.choice(names)))

    async def _run_indexer_work(self, services: Services, key: WorkKey) -> bool:
        """Starts work as the indexer's loop does, and waits for its end. False: it runs already."""
        if key in self._busy_work:
            return False
        self._busy_work.add(key)
        assert await services.indexer.do_now(key)
        self._busy_work.discard(key)
        return True

    async def _sweep(self, name: str, *, settle: bool = False) -> None:
        registration = self.world.current()[name]
        services, begun, requested_at = self.any_gateway, time.monotonic(), time.time()
        confirm = settle or self.rng.random() < 0.5
        self.log_step(f"{name} is swept{' and may shrink' if confirm else ''}")
        await services.registry.sweep(name, confirm_shrink=confirm)
        view = (await services.tables.current()).by_name.get(name)
        if view is None or view.location.number != registration.number:
            return
        if not await self._run_indexer_work(services, WorkKey(WorkKind.SWEEP, registration.number)):
            return
        record = (await services.index.records.load()).records.get(name)
        if record is None or record.location.number != registration.number:
            return
        sweep = record.status.sweep
        if registration.server.was_disturbed(begun):
            return
        if sweep.error_code not in ("", "shrink-guard") or (sweep.error and confirm):
            raise WrongAnswer(f"the sweep of {name} failed: {sweep.error}")
        if max(sweep.ended or 0.0, sweep.failed or 0.0) < requested_at:
            if self._counts_lost_at < begun:  # Redis has not lost its request
                raise WrongAnswer(f"the sweep of {name} did not end")
            return
        # Without its request and status, a sweep may use counts of claims that are minutes old.
        exactly = not sweep.error and self._counts_lost_at < begun
        await self._check_claims(services, name, registration, begun, exactly=exactly)
        if settle:
            await self._check_statuses(services, name, begun)

    async def _poll(self, name: str) -> None:
        registration = self.world.current()[name]
        services, begun = self.any_gateway, time.monotonic()
        view = (await services.tables.fresh()).by_name.get(name)
        if view is None or view.location.number != registration.number or not view.versions:
            return
        self.log_step(f"{name} is polled")
        services.indexer.poll_immediately(registration.number)
        # What a credential did not see is found by the next sweep, not by the next poll.
        # And only a sweep finds again what Redis evicted.
        sweep = view.status.sweep
        whole = sweep.sees_all and sweep.ended and (sweep.started or 0) > self._evicted_time
        if not await self._run_indexer_work(services, WorkKey(WorkKind.POLL, registration.number)):
            return
        record = (await services.index.records.load()).records.get(name)
        if record is None or record.location.number != registration.number:
            return
        if registration.server.was_disturbed(begun):
            return
        if record.status.poll.error:
            raise WrongAnswer(f"the poll of {name} failed: {record.status.poll.error}")
        if whole:
            is_guarded = record.status.sweep.guarded is not None
            shows_deletions = registration.server.standin.v1 and not is_guarded
            await self._check_claims(services, name, registration, begun, exactly=shows_deletions)

    async def _check_claims(
        self,
        services: Services,
        name: str,
        registration: Registration,
        begun: float,
        *,
        exactly: bool,
    ) -> None:
        """The index has a claim for every image that a location had all the time since `begun`, and
        if `exactly` for no others, unless Redis evicted some meanwhile."""
        if self._evicted_at >= begun:
            return
        claims: set[bytes] = set()
        async for _, batch in services.index.claims.of_location(registration.number):
            claims |= batch.keys()
        for image_id, life in registration.server.lives.items():
            if life.throughout(begun) and image_id not in claims:
                raise WrongAnswer(
                    f"{name} has {image_id.hex()[:8]}, and the index has no claim "
                    f"({registration.server.describe(begun)})"
                )
            late = self._announced_at.get((registration.number, image_id), 0.0) > begun
            if exactly and not life.during(begun) and image_id in claims and not late:
                raise WrongAnswer(f"{name} deleted {image_id.hex()[:8]}, and the index has a claim")

    async def _check_statuses(self, services: Services, name: str, begun: float) -> None:
        """After a sweep that nothing raced with, the index has the status of each image."""
        registration = self.world.current()[name]
        async for _, claims in services.index.claims.of_location(registration.number):
            for image_id, claim in claims.items():
                life = registration.server.lives[image_id]
                expected = STATUSES[life.status]
                late = self._announced_at.get((registration.number, image_id), 0.0) > begun
                if life.throughout(begun) and not late and claim.facts.status is not expected:
                    raise WrongAnswer(
                        f"{image_id.hex()[:8]} is {life.status} at {name}, and the index has "
                        f"{claim.facts.status}"
                    )

    async def _check(self, name: str) -> None:
        services = self.any_gateway
        view = (await services.tables.current()).by_name.get(name)
        if view is not None:
            location, records = view.location, services.index.records
            before = await records.check(location.number)
            server = GlanceServer(services.session, location, services.cloud_credentials)
            check = next_status(before, await probe_health(server, before))
            await records.set_check(location.number, check, location)
            self.log_step(f"{name} is checked: {check.health}")

    # Disturbances

    async def outage(self) -> None:
        server = self.rng.choice(self.world.servers)
        if not server.outage.on and not server.held.on:
            kind = self.rng.choices(["500", "refused", "silent"], [5, 5, 1])[0]
            self.log_step(f"{server.name}: an outage begins ({kind})")
            await server.fail(kind)
            self._set_probe_timeouts()

    async def recovery(self) -> None:
        failing = [s for s in self.world.servers if s.outage.on]
        if failing:
            await self._recover(self.rng.choice(failing))

    async def _recover(self, server: ModelServer) -> None:
        await server.recover()
        self.log_step(f"{server.name}: the outage is over")
        self._set_probe_timeouts()

    def _set_probe_timeouts(self) -> None:
        silent = any(s.outage_kind == "silent" for s in self.world.servers)
        for services in self.gateways:
            services.prober.timeout = SHORT_PROBE_TIMEOUT if silent else LONG_TIMEOUT

    async def refuse_requests(self) -> None:
        """A server has a limit of requests."""
        server, count = self.rng.choice(self.world.servers), self.rng.randint(1, 2)
        self.log_step(f"{server.name}: its next {count} requests are too many")
        server.refuse(count)

    @property
    def is_asking_locations(self) -> bool:
        """Whether some gateway waits for a location's answer, for a client or in the background."""
        return any(services.prober.in_flight for services in self.gateways)

    async def change_credential(self) -> None:
        """The credential of a server loses its rights, or gets them back.

        Only while no question is under way it gets them back: it is not noticed that they were lost
        when a server answered, if they are there again when the answer is checked.
        """
        server = self.rng.choice([s for s in self.world.servers if s.standin.tokens])
        if server.weak.on:
            if self._running_tasks or self.is_asking_locations:
                return
            server.strengthen()
        elif self.rng.random() < 0.5:  # so that it has them most of the time
            server.weaken()
        self.log_step(f"{server.name}: its credential is {'weak' if server.weak.on else 'strong'}")

    async def hold_answers(self) -> None:
        server = self.rng.choice(self.world.servers)
        if not server.outage.on and not server.held.on:
            count = self.rng.choice([1, 1, 2, 4, 100])
            self.log_step(f"{server.name}: its next {count} answers are held")
            server.hold_answers(count)

    async def release_answers(self) -> None:
        held = [s for s in self.world.servers if s.held.on]
        if held:
            server = self.rng.choice(held)
            server.release_answers()
            self.log_step(f"{server.name}: its held answers are sent")
            await asyncio.sleep(0.01)

    async def _run_or_leave_running(self, work: Awaitable[None]) -> None:
        """Waits for the end of a task, unless it may need a later step to end."""
        task = asyncio.ensure_future(work)
        self._running_tasks.add(task)
        if any(s.held.on for s in self.world.servers):
            await asyncio.wait([task], timeout=0.005)
        else:
            await asyncio.wait([task])

    def _raise_failures(self) -> None:
        """Raises the errors of tasks that were left running and have ended."""
        for task in [t for t in self._running_tasks if t.done()]:
            self._running_tasks.discard(task)
            task.result()

    def cancel_tasks(self) -> None:
        for task in self._running_tasks:
            task.cancel()

    # Operators

    async def register(self) -> None:
        free = [name for name in LOCATION_NAMES if name not in self.world.current()]
        if free:
            await self._put(self.rng.choice(free), self.rng.choice(self.world.servers))

    async def repoint(self) -> None:
        if names := list(self.world.current()):
            await self._put(self.rng.choice(names), self.rng.choice(self.world.servers))

    async def change_state(self) -> None:
        if names := list(self.world.current()):
            name = self.rng.choice(names)
            registration = self.world.current()[name]
            states = [State.ACTIVE, State.MAINTENANCE, State.DRAINING]
            await self._put(name, registration.server, self.rng.choice(states))

    async def _put(self, name: str, server: ModelServer, state: State = State.ACTIVE) -> None:
        begun = time.monotonic()
        auth = {"token_env": TOKEN_VARIABLE} if server.standin.tokens else None
        fields = {"url": server.standin.url, "state": str(state), "auth": auth}
        self.world.being_registered[name] = Registration(0, server, state, begun, math.inf)
        try:
            location, _ = await self.any_gateway.registry.put(name, fields)
            self.world.change(
                name, Registration(location.number, server, state, begun, time.monotonic())
            )
        finally:
            self.world.being_registered.pop(name, None)
        self.log_step(f"location {name} is {server.name}, number {location.number}, {state}")

    async def remove(self) -> None:
        if names := list(self.world.current()):
            name = self.rng.choice(names)
            self.world.being_removed.add(name)
            try:
                await self.any_gateway.registry.remove(name)
                self.world.change(name, None)
            finally:
                self.world.being_removed.discard(name)
            self.log_step(f"location {name} is removed")
