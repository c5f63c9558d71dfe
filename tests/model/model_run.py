"""Runs a world: one random step after the other, with a check of each answer."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import permutations
from typing import Any
from urllib.parse import urlsplit

from resolver.index.redis.client import RedisTimeouts
from resolver.models import Health, format_id
from resolver.resolution import Preferences
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.sync import IndexerTimings
from resolver.sync.health import UP_AFTER_SUCCESSES
from tests.model.answer_checks import (
    CONVERGENCE_SECONDS,
    Question,
    ReceivedAnswer,
    check_answer,
)
from tests.model.final_checks import wrong_final_answer
from tests.model.redis_events import LossyProxy, RedisEvents
from tests.model.world import ADMIN, TOKEN, ModelServer, World
from tests.model.world_events import LOCATION_NAMES, LONG_TIMEOUT, WrongAnswer
from tests.support.wait import wait_until

SETTLE_TIMEOUT_SECONDS = 60.0
"""For gateways and index to show a change; a second where the machine is idle."""

COPIES_BEFORE_SETTLING = 5


class ModelRun(RedisEvents):
    """One random step after the other, and the history of the last ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._steps: dict[Callable[[], Awaitable[None]], int] = {
            self.ask: 50,
            self.ask_many: 4,
            self.ask_concurrently: 5,
            self.ask_across_a_change: 4,
            self.ask_across_a_move: 3,
            self.create: 7,
            self.copy: 2,
            self.move: 4,
            self.delete: 4,
            self.update: 2,
            self.change_status: 3,
            self.sweep: 5,
            self.poll: 6,
            self.check: 4,
            self.outage: 2,
            self.recovery: 4,
            self.refuse_requests: 1,
            self.change_credential: 2,
            self.hold_answers: 2,
            self.release_answers: 6,
            self.change_state: 2,
            self.remove: 1,
            self.lose_keys: 1,
            self.lose_reply: 2,
            self.evict: 1,
            self.rebuild: 1,
            self.write_as_newer_version: 2,
            self.register: 3,
            self.repoint: 1,
            self.collect: 1,
            self.restart: 1,
            self.settle: 1,
        }

    async def run(self, steps: int) -> None:
        await self.register()
        await self.register()
        for _ in range(steps):
            self.step += 1
            step = self.rng.choices(list(self._steps), list(self._steps.values()))[0]
            self.counts[step.__name__] = self.counts.get(step.__name__, 0) + 1
            await step()
            await self._deliver_delayed()
            self._raise_failures()
        await self.settle()

    # Clients

    async def ask(self) -> None:
        image_id = self._any_id()
        await self._run_or_leave_running(
            self._ask(self.any_gateway, image_id, self._any_preferences(image_id))
        )

    async def ask_concurrently(self) -> None:
        """Several clients ask at once while something changes."""
        image_ids = [self._any_id() for _ in range(self.rng.randint(1, 2))]
        questions = []
        for _ in range(self.rng.randint(2, 6)):
            image_id = self.rng.choice(image_ids)
            questions.append(self._ask(self.any_gateway, image_id, self._any_preferences(image_id)))
        tasks = [asyncio.ensure_future(question) for question in questions]
        self._running_tasks.update(tasks)
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

    async def ask_across_a_change(self) -> None:
        """A location's answer is made, the truth changes, and only then the answer is sent."""
        found = self._any_image()
        if found is None or found[0].outage.on or found[0].held.on:
            return
        server, image_id = found
        names = [
            name
            for name, registration in self.world.current().items()
            if registration.server is server
        ]
        if not names:
            return
        if self.rng.random() < 0.3:  # an image that will be created soon
            image_id = self.rng.randbytes(16)
        count = self.rng.choice([1, 2, 100])
        self.log_step(f"{server.name}: its next {count} answers are held across a change")
        server.hold_answers(count)
        name = self.rng.choice(names)
        reads = {
            "ask": self._ask(self.any_gateway, image_id, self._any_preferences(image_id)),
            "fresh": self._ask(self.any_gateway, image_id, Preferences(fresh=True)),
            "without": self._ask(
                self.any_gateway, image_id, Preferences(exclude=frozenset({name}))
            ),
            "poll": self._poll(name),
            "sweep": self._sweep(name),
        }
        chosen = self.rng.sample(list(reads), self.rng.randint(1, 2))
        tasks = [asyncio.ensure_future(reads.pop(read)) for read in chosen]
        self._running_tasks.update(tasks)
        for unused in reads.values():
            unused.close()
        await asyncio.sleep(self.rng.choice([0, 0.002, 0.01]))
        await (
            self._delete(server, image_id)
            if server.has(image_id)
            else self._create(server, image_id)
        )
        if self.rng.random() < 0.5:
            await self._run_or_leave_running(
                self._ask(self.any_gateway, image_id, Preferences(exclude=frozenset({name})))
            )
        server.release_answers()
        self.log_step(f"{server.name}: its held answers are sent")
        if not any(s.held.on for s in self.world.servers):
            await asyncio.wait(tasks)
            self._raise_failures()
            await self._ask(self.any_gateway, image_id, Preferences())

    async def ask_across_a_move(self) -> None:
        """An image is copied, and then deleted where it was. The other location may have been asked
        before, for a client that excludes the owner."""
        found = self._any_image()
        if found is None:
            return
        server, image_id = found
        names = [n for n, r in self.world.current().items() if r.server is server]
        others = [s for s in self.world.servers if image_id not in s.lives]
        if not names or not others:
            return
        gateway, life = self.any_gateway, server.lives[image_id]
        without = Preferences(exclude=frozenset({self.rng.choice(names)}))
        await self._run_or_leave_running(self._ask(gateway, image_id, without))
        other = self.rng.choice(others)
        await self._create(other, image_id, life.letter_case, life.data)
        if server.has(image_id):  # to create one may delete another
            await self._delete(server, image_id)
        await self._run_or_leave_running(self._ask(gateway, image_id, Preferences()))

    async def ask_many(self) -> None:
        image_ids = [self._any_id() for _ in range(8)]
        preferences = self._any_preferences(image_ids[0])
        services = self.any_gateway
        questions = [
            await self._begin_question(self.any_gateway, image_id, preferences)
            for image_id in image_ids
        ]
        for question in questions:
            question.is_up_to_date = question.is_in_bulk = True  # it does not read the local cache
        await self._run_or_leave_running(self._ask_many(services, questions, preferences))

    async def _ask_many(
        self, services: Services, questions: list[Question], preferences: Preferences
    ) -> None:
        letter_cases = {
            at: question.letter_case
            for at, question in enumerate(questions)
            if question.letter_case
        }
        templates = await services.bulk_resolver.resolve_many(
            [question.image_id for question in questions], preferences, letter_cases
        )
        doubted = await self._doubted(services)
        for question, template in zip(questions, templates, strict=True):
            question.doubted |= doubted
            text = template.render(format_id(question.image_id))
            self._check_received(question, json.loads(text))

    async def _ask(self, services: Services, image_id: bytes, preferences: Preferences) -> None:
        question = await self._begin_question(services, image_id, preferences)
        needs_bytes = self.rng.random() < 0.3
        answer = await services.resolver.resolve(
            image_id, preferences, question.letter_case, needs_bytes=needs_bytes
        )
        question.doubted |= await self._doubted(services)
        question.bytes_refused = needs_bytes and answer.lacks_bytes and not answer.detail
        duplicates = {
            (other.name, owner.name)
            for owner, other in permutations(answer.owners, 2)
            if other.is_duplicate_of(owner)
        }
        self._check_received(question, answer.as_json() | {"detail": answer.detail}, duplicates)

    def _any_id(self) -> bytes:
        known = self.world.ids()
        if not known or self.rng.random() < 0.05:
            return self.rng.randbytes(16)
        existing = self._any_image()
        if existing is None:
            return self.rng.choice(known[-100:])
        _, image_id = existing
        choices = [image_id, image_id, self.rng.choice(known[-20:]), self.rng.choice(known)]
        return self.rng.choice(choices)

    def _any_preferences(self, image_id: bytes) -> Preferences:
        kind = self.rng.choices(["plain", "fresh", "owner", "any"], [10, 4, 3, 1])[0]
        if kind == "owner" and (owners := sorted(self.world.owners(image_id))):
            return Preferences(exclude=frozenset({self.rng.choice(owners)}))
        if kind == "any":
            return Preferences(
                exclude=frozenset({self.rng.choice(LOCATION_NAMES)}), fresh=self.rng.random() < 0.5
            )
        return Preferences(fresh=kind == "fresh")

    async def _begin_question(
        self, services: Services, image_id: bytes, preferences: Preferences
    ) -> Question:
        letter_cases = {
            s.lives[image_id].letter_case for s in self.world.servers if image_id in s.lives
        } or {0}
        letter_case = self.rng.choice([*letter_cases, *letter_cases, *letter_cases, 0])
        index, is_up_to_date = services.index, self.rng.random() < 0.7
        reading_since = time.monotonic()
        down, seen = set(), set()
        for registration in self.world.current().values():
            seen.add(registration.number)
            check = await index.records.check(registration.number)
            known = check is not None and check.versions
            if known and not is_up_to_date:  # its gateway may not have read them yet
                known = time.time() - (check.versions_at or 0) > CONVERGENCE_SECONDS
            standin = registration.server.standin
            # What proves that a credential sees everything depends on the versions.
            is_proven = known or (standin.v2 and not standin.tokens)
            if (check and check.health is Health.DOWN) or not is_proven:
                down.add(registration.number)
        claimed = await self._read_claims(services, image_id)
        if is_up_to_date:  # earlier invalidations arrive before this reply
            await index.client.command("PING", foreground=True)
        # Of a location that was registered meanwhile the gateway may not know more than we do.
        down |= {registration.number for registration in self.world.current().values()} - seen
        if self._status_lost_at >= reading_since:
            down |= seen
        question = Question(image_id, letter_case, preferences, is_up_to_date, down, claimed)
        question.doubted = await self._doubted(services)
        since = question.begun - self.absent_ttl
        earlier = [begun for begun, ended in self._answer_times.get(image_id, ()) if ended >= since]
        under_way = [other.begun for other in self._open_questions.get(image_id, ())]
        question.oldest = min([since, *earlier, *under_way])
        question.claimed_before = {
            number
            for (number, claimed_id), at in self._claimed_since.items()
            if claimed_id == image_id and at <= question.oldest
        }
        self._open_questions.setdefault(image_id, []).append(question)
        return question

    async def _doubted(self, services: Services) -> set[int]:
        """Numbers of the locations whose "no" proves nothing. The shrink guard is tripped. Or they
        were not swept since Redis may have lost claims, and some location spells ids in upper case:
        then only its claims say how it is asked."""
        doubted = await self._guarded(services)
        if not services.index.has_uppercase_ids:
            return doubted
        table = services.tables.table
        for registration in self.world.current().values():
            number = registration.number
            sweep = await services.index.records.sweep(number)
            view = table.by_number.get(number)
            if (
                (sweep.started or 0) <= self._evicted_time
                or not sweep.ended
                or view is None
                or view.status.sweep.losses != table.losses
            ):
                doubted.add(number)
        return doubted

    async def _guarded(self, services: Services) -> set[int]:
        """Numbers of the locations whose shrink guard is tripped: by the index, or by what this
        gateway knows of them, since Redis may have lost the status without a word."""
        numbers = [registration.number for registration in self.world.current().values()]
        sweeps = {number: await services.index.records.sweep(number) for number in numbers}
        known = services.tables.table.by_number.values()
        return {number for number, sweep in sweeps.items() if sweep.guarded is not None} | {
            view.location.number for view in known if view.guard_problem
        }

    async def _read_claims(self, services: Services, image_id: bytes) -> set[int]:
        """The locations of which the index has a claim for an image.

        The index must keep a claim while it is true, and must not get it back after the deletion:
        Glance uses no id twice. (But a late notification may report an earlier state, and a claim
        made too late is visible until it is released; while the shrink guard is tripped, it stays.)
        """
        deadline = time.monotonic() + SETTLE_TIMEOUT_SECONDS
        while True:
            begun = time.monotonic()
            (owners,) = (await services.index.claims.lookup([image_id])).owners
            claimed = {owner.number for owner in owners}
            self._ever_guarded |= await self._guarded(services)  # Redis may lose the status
            if self._evicted_at >= begun:  # and the claims, since they were read
                continue
            if not (wrong := self._wrong_claims(image_id, claimed, self._ever_guarded)):
                return claimed
            if time.monotonic() > deadline:
                raise WrongAnswer(wrong)
            await asyncio.sleep(0.01)

    def _wrong_claims(self, image_id: bytes, claimed: set[int], guarded: set[int]) -> str:
        for name, registration in self.world.current().items():
            claim, life = (registration.number, image_id), registration.life(image_id)
            if registration.number in claimed:
                if claim in self._known_deletions and registration.number not in guarded:
                    return f"{image_id.hex()[:8]} is claimed again at {name}, which deleted it"
                self._claims.add(claim)
                self._claimed_since.setdefault(claim, time.monotonic())
            elif claim in self._claims and life and life.died == math.inf:
                return f"{image_id.hex()[:8]} is not claimed any more at {name}, which has it"
            elif claim in self._claims:
                self._known_deletions.add(claim)
        return ""

    def _check_received(
        self,
        question: Question,
        answer: dict[str, Any],
        duplicates: Collection[tuple[str, str]] = (),
    ) -> None:
        self._open_questions[question.image_id].remove(question)
        self._answer_times.setdefault(question.image_id, []).append(
            (question.begun, time.monotonic())
        )
        owners = {owner["location"]: owner["uri"] for owner in answer["owners"]}
        received = ReceivedAnswer(
            answer["outcome"],
            owners,
            answer["missing"],
            facts={owner["location"]: owner for owner in answer["owners"]},
            conflict=answer["conflict"],
            duplicates=set(duplicates),
        )
        self.log_step(f"{question}: {received} ({answer['source']})")
        self.counts[received.outcome] = self.counts.get(received.outcome, 0) + 1
        for problem in check_answer(self.world, question, received):
            why = answer.get("detail", "")
            raise WrongAnswer(f"{question}: {received} ({answer['source']}): {problem}. {why}")

    # The end of all disturbances

    async def settle(self) -> None:
        """Ends every disturbance. After checks and a sweep of each location all must be right."""
        await self._end_disturbances()
        for _ in range(COPIES_BEFORE_SETTLING):  # that are of more or less use than the image
            await self.copy()
            await self.change_status()
        self._delayed.clear()
        names = list(self.world.current())
        for name in names:
            for _ in range(UP_AFTER_SUCCESSES):  # one that is down is asked, and not waited for
                await self._check(name)
        for name in [*names, *names]:  # the bytes of a first owner are kept from the second time on
            await self._sweep(name, settle=True)
        deadline = time.monotonic() + SETTLE_TIMEOUT_SECONDS
        for services in self.gateways:
            while wrong := await wrong_final_answer(self.world, services):
                if time.monotonic() > deadline:
                    raise WrongAnswer(f"settled for {SETTLE_TIMEOUT_SECONDS:g} s, and {wrong}")
                await asyncio.sleep(0.02)

    async def _end_disturbances(self) -> None:
        self.log_step("all disturbances end")
        for server in self.world.servers:
            if server.held.on:
                server.release_answers()
            if server.outage.on:
                await self._recover(server)
            server.refuse(0)
        for task in list(self._running_tasks):
            await task
        self._running_tasks.clear()
        await self.check_unknown_fields()
        await asyncio.sleep(0)
        # Excluded owners are asked in the background. What they answer may trip the shrink guard,
        # and counts even if the credential has its rights back when it is checked.
        await wait_until(lambda: not self.is_asking_locations)
        for server in self.world.servers:
            if server.weak.on:
                server.strengthen()
        refused_until = max(server.refused_until for server in self.world.servers)
        await asyncio.sleep(max(refused_until - time.monotonic(), 0))


@asynccontextmanager
async def run_world(url: str, seed: int, gateways: int) -> AsyncIterator[ModelRun]:
    """A world and the services of the resolver's processes."""
    rng = random.Random(seed)
    cap = rng.choice([5, 1000])
    pike: dict[str, Any] = rng.choice([{"v1": True}, {"v1": True, "v2": False}])
    absent_ttl = rng.choice([0.0, 0.3])
    async with AsyncExitStack() as stack:
        proxy = None
        if (port := urlsplit(url).port) is not None:
            proxy = await stack.enter_async_context(LossyProxy(port))
            url = proxy.url
        servers = [
            ModelServer("a", page_cap=cap, tokens={TOKEN: ADMIN}),
            ModelServer("b", old=True, page_cap=cap, **pike),
            ModelServer("c", prefix="/image", page_cap=cap, tokens={TOKEN: ADMIN}),
        ]
        for server in servers:
            await stack.enter_async_context(server.standin)
        settings = Settings(
            redis_url=url,
            index_bits=4,
            index_timeout=LONG_TIMEOUT,
            sweep_interval=3600,  # nothing is due by itself
            poll_interval=3600,
            health_interval=0.001,
            location_timeout=LONG_TIMEOUT,
            probe_timeout=LONG_TIMEOUT,
            absent_ttl=absent_ttl,
        )
        # With the default overlap each poll would read every change of this test.
        timings = IndexerTimings(poll_overlap=1.0, drop_after=1, lease=LONG_TIMEOUT)
        redis_timeouts = RedisTimeouts(connect=LONG_TIMEOUT, reply=LONG_TIMEOUT)
        opened = [
            await stack.enter_async_context(
                open_services(settings, timings=timings, redis_timeouts=redis_timeouts)
            )
            for _ in range(gateways)
        ]
        model = ModelRun(rng, World(servers), opened, absent_ttl)
        model.proxy = proxy
        try:
            yield model
        finally:
            for server in servers:
                server.release_answers()
            model.cancel_tasks()
            for services in opened:
                await services.indexer.stop()
