"""Random events in Redis: it loses keys and replies, the index is rebuilt, and a newer version
writes records."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

from resolver.errors import Conflict
from resolver.services import Services
from resolver.sync import WorkKey, WorkKind
from tests.model.world_events import WorldEvents, WrongAnswer
from tests.support.proxy import Proxy

LOSABLE_KEYS = ("numbers", "status", "retired", "progress", "changes", "wanted")
"""Keys of the registry that can be lost while the index goes on. Of the records of locations the
model would have to know which are lost; ``tests/faults/test_losses.py`` has those."""

REGISTRY = "glr:{reg}:"
UNKNOWN_FIELD = "invented"
"""A field of locations that this version does not know."""

BITS = (4, 5, 6, 7)
"""Of the index, in turn."""

MAX_REPLIES_BEFORE_LOSS = 8

EVICTION = (
    ("CONFIG", "SET", "maxmemory-policy", "volatile-random"),
    ("CONFIG", "SET", "maxmemory", 1),
    ("PING",),  # before a command, Redis makes room
    ("CONFIG", "SET", "maxmemory", 0),
    ("CONFIG", "SET", "maxmemory-policy", "noeviction"),
)
"""Commands that make Redis evict all keys that expire."""


class LossyProxy(Proxy):
    """Loses a reply of Redis, and all connections with it."""

    replies_left: int | None = None
    """So many replies are passed on before one is lost; None: none is."""

    def changed(self, data: bytes) -> bytes:
        if self.replies_left is None:
            return data
        if self.replies_left:
            self.replies_left -= 1
            return data
        self.replies_left = None
        self.cut()
        return b""


class RedisEvents(WorldEvents):
    """A world, and what happens in Redis."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.proxy: LossyProxy | None = None
        """In front of Redis, where that is a process of its own."""
        self._unknown_fields: dict[str, int] = {}
        """What a newer version wrote into the record of a location, by name."""

    async def lose_keys(self) -> None:
        """Redis loses parts of the registry without a word."""
        lost = self.rng.sample(LOSABLE_KEYS, self.rng.randint(1, 2))
        for key in lost:
            await self.any_gateway.index.client.command("DEL", REGISTRY + key)
        self._counts_lost_at = time.monotonic()
        if "status" in lost:  # versions too, which a gateway must know to prove anything
            self._status_lost_at = time.monotonic()
            for questions in self._open_questions.values():
                for question in questions:
                    question.down |= {r.number for r in self.world.current().values()}
        self.log_step(f"redis loses {' and '.join(lost)}")

    async def evict(self) -> None:
        """Redis evicts some buckets of the index. Other keys that expire stay: what their loss does
        is in ``tests/faults/test_losses.py``."""
        services = self.any_gateway
        client, buckets = services.index.client, services.index.claims.buckets
        if client.embedded or not self._claims:
            return
        claimed = sorted({image_id for _, image_id in self._claims})
        some = self.rng.sample(claimed, min(len(claimed), self.rng.randint(1, 3)))
        evicted = {buckets.key(buckets.number(image_id)) for image_id in some}
        (server,) = await client.servers()
        (keys,) = await client.ask(server, [("KEYS", "glr:*")])
        expire = [("EXPIRE", key, 100_000) for key in evicted]
        await client.ask(server, [*(("PERSIST", key) for key in keys), *expire, *EVICTION])
        self._counts_lost_at = self._evicted_at = time.monotonic()
        self._evicted_time = time.time()
        self._claimed_since.clear()
        for questions in self._open_questions.values():
            for question in questions:
                question.claimed_before.clear()
        self._claims = {
            claim for claim in self._claims if buckets.key(buckets.number(claim[1])) not in evicted
        }
        for questions in self._open_questions.values():
            for question in questions:  # it may be answered after the claims were lost
                question.claimed.clear()
        self.log_step(f"redis evicts {len(evicted)} buckets")

    async def lose_reply(self) -> None:
        """A reply of Redis is lost during an event, so that a batch is sent again."""
        if self.proxy is None:
            return
        self.proxy.replies_left = self.rng.randint(0, MAX_REPLIES_BEFORE_LOSS)
        self.log_step(f"a reply of redis is lost after {self.proxy.replies_left} others")
        events = (self.create, self.delete, self.sweep, self.poll, self.collect, self.check)
        changes = (self.register, self.repoint, self.change_state, self.remove)
        await self.rng.choice([*events, *events, *changes])()
        self.proxy.replies_left = None
        # One that is lost while another connection is being opened is an outage, not a lost reply.
        for services in self.gateways:
            for foreground in (True, False):
                await services.index.client.command("PING", foreground=foreground)

    async def rebuild(self) -> None:
        """The index gets another number of buckets, while everything goes on."""
        services, bits = self.any_gateway, self.rng.choice(BITS)
        with suppress(Conflict):  # it is getting some already
            await services.index.rebuild.request(bits)
        self._running_tasks.add(asyncio.ensure_future(self._rebuild(services)))
        self.log_step(f"the index is rebuilt with {bits} bits")

    async def _rebuild(self, services: Services) -> None:
        if await self._run_indexer_work(services, WorkKey(WorkKind.REBUILD)):
            self._counts_lost_at = time.monotonic()  # sweeps under way read the old buckets

    async def write_as_newer_version(self) -> None:
        """A process of a newer version writes a field that this one does not know."""
        if names := list(self.world.current()):
            name, client = self.rng.choice(names), self.any_gateway.index.client
            stored = await self._stored_location(name)
            number, _, text = stored.partition(b" ")
            record = {**json.loads(text), UNKNOWN_FIELD: self.step}
            written = number.decode() + " " + json.dumps(record, separators=(",", ":"))
            await client.command("HSET", REGISTRY + "locations", name, written)
            await client.command("INCR", REGISTRY + "version")
            self._unknown_fields[name] = self.step
            self.log_step(f"a newer version writes location {name}")

    async def _stored_location(self, name: str) -> bytes:
        client = self.any_gateway.index.client
        stored: bytes = await client.command("HGET", REGISTRY + "locations", name)
        return stored

    async def check_unknown_fields(self) -> None:
        """Each change of a location kept what a newer version wrote."""
        for name, written in self._unknown_fields.items():
            record: dict[str, Any] = json.loads(
                (await self._stored_location(name)).partition(b" ")[2]
            )
            if record.get(UNKNOWN_FIELD) != written:
                raise WrongAnswer(f"location {name} has lost a field of a newer version: {record}")

    async def remove(self) -> None:
        await super().remove()
        current = self.world.current()
        self._unknown_fields = {n: at for n, at in self._unknown_fields.items() if n in current}
