"""The truth: which server has had which image when, and which location was what when.

All times are `time.monotonic`. What is asked takes a while, so the truth is kept with its history,
and an answer is judged by all that was true while it was made.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.models import State, format_id
from resolver.standin import StandIn

SILENCE = 0.25
"""Seconds that a silent server holds the line before it hangs up."""


@dataclass
class Life:
    """One image at one server."""

    letter_case: int
    born: float
    died: float = math.inf

    def during(self, since: float) -> bool:
        """Whether it was there at some moment since then."""
        return self.died > since

    def throughout(self, since: float) -> bool:
        """Whether it was there all the time since then."""
        return self.born <= since and self.died == math.inf


class Trouble:
    """Something that begins and ends, again and again."""

    def __init__(self) -> None:
        self.began = self.ended = -math.inf

    @property
    def on(self) -> bool:
        return self.began > self.ended

    def begin(self) -> None:
        self.began = time.monotonic()

    def end(self) -> None:
        self.ended = time.monotonic()

    def during(self, since: float) -> bool:
        return self.on or self.ended >= since


class Served:
    """A stand-in server with its weather, and beside it what it really has."""

    def __init__(self, name: str, **options: object) -> None:
        self.name = name
        self.standin = StandIn(middlewares=[self._middleware], **options)  # type: ignore[arg-type]
        self.lives: dict[bytes, Life] = {}
        self.outage = Trouble()
        self.how = ""
        self.silent = Trouble()
        self.held = Trouble()
        """While it is, the next few answers are made at once and arrive only when it ends."""
        self._few = 0
        self._go = asyncio.Event()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.how == "silent":
            await asyncio.sleep(SILENCE)
            assert request.transport
            request.transport.close()
        if self.outage.on:
            return web.Response(status=500)
        response = await handler(request)
        if self.held.on and self._few > 0:
            self._few -= 1
            await self._go.wait()
        return response

    def troubled(self, since: float) -> bool:
        return self.outage.during(since) or self.held.during(since)

    async def fail(self, how: str) -> None:
        self.outage.begin()
        self.how = how
        if how == "silent":
            self.silent.begin()
        if how == "refused":
            await self.standin.stop()

    async def recover(self) -> None:
        if self.how == "refused":
            await self.standin.start(port=self.standin.port)
        if self.how == "silent":
            self.silent.end()
        self.how = ""
        self.outage.end()

    def hold(self, few: int) -> None:
        self._few = few
        self._go.clear()
        self.held.begin()

    def let_go(self) -> None:
        self._go.set()
        self.held.end()

    def create(self, image_id: bytes, letter_case: int, **fields: object) -> None:
        self.standin.add(id=format_id(image_id, letter_case), **fields)
        self.lives[image_id] = Life(letter_case, time.monotonic())

    def delete(self, image_id: bytes) -> None:
        self.standin.delete(format_id(image_id, self.lives[image_id].letter_case))
        self.lives[image_id].died = time.monotonic()

    def has(self, image_id: bytes) -> bool:
        return image_id in self.lives and self.lives[image_id].died == math.inf

    def there(self) -> list[bytes]:
        return [image_id for image_id in self.lives if self.has(image_id)]

    def notification(self, image_id: bytes, kind: str) -> bytes:
        """What this server's broker says of an image now."""
        message = {
            "event_type": f"image.{kind}",
            "message_id": str(uuid.uuid4()),
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
            "payload": {
                "id": format_id(image_id, self.lives[image_id].letter_case),
                "status": "deleted" if kind == "delete" else "active",
                "deleted": kind == "delete",
            },
        }
        return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


@dataclass
class Spell:
    """A time in which a location was registered so. Its beginning and its end take a moment."""

    number: int
    server: Served
    state: State
    since: float
    sure: float
    until: float = math.inf

    @property
    def in_service(self) -> bool:
        return self.state is not State.MAINTENANCE

    def life(self, image_id: bytes) -> Life | None:
        return self.server.lives.get(image_id)


@dataclass
class World:
    """All servers and all locations."""

    servers: list[Served]
    spells: dict[str, list[Spell]] = field(default_factory=dict)

    def current(self) -> dict[str, Spell]:
        """The registered locations by name."""
        last = {name: spells[-1] for name, spells in self.spells.items()}
        return {name: spell for name, spell in last.items() if spell.until == math.inf}

    def during(self, since: float) -> dict[str, list[Spell]]:
        """How each location was registered at some moment since then."""
        return {
            name: [spell for spell in spells if spell.until >= since]
            for name, spells in self.spells.items()
        }

    def serving(self, since: float) -> dict[str, Spell]:
        """The locations that have been in service all the time since then."""
        return {
            name: spell
            for name, spell in self.current().items()
            if spell.in_service and spell.sure <= since
        }

    def change(self, name: str, spell: Spell | None) -> None:
        """A location has become `spell`, or been removed, just now."""
        spells = self.spells.setdefault(name, [])
        if spells and spells[-1].until == math.inf:
            spells[-1].until = time.monotonic()
        if spell:
            spells.append(spell)

    def owners(self, image_id: bytes) -> set[str]:
        """The locations in service that have an image now."""
        return {n for n, s in self.current().items() if s.in_service and s.server.has(image_id)}

    def ids(self) -> list[bytes]:
        """All images that ever were somewhere."""
        return list(dict.fromkeys(image_id for server in self.servers for image_id in server.lives))
