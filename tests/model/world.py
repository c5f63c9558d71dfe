"""The truth: which server had which image when, and how each location was registered when.

All times are `time.monotonic`. A question takes a while, so the truth has a history, and an answer
is checked against everything that was true while it was made.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.models import State, format_id
from resolver.standin import Caller, StandIn

SILENCE_SECONDS = 0.25
"""For which a silent server waits before it closes the connection."""

TOKEN = "model"
"""What locations send to servers that want a credential."""

ADMIN, CUSTOMER = Caller("operators", admin=True), Caller("customer")

REFUSAL_SECONDS = 1.5
"""For how long a process may stay away from a server that has refused two requests in a row."""

SHORT_PROBE_TIMEOUT = 0.1
"""Seconds, while a server is silent: shorter than its silence."""


@dataclass
class ImageLife:
    """One image at one server."""

    letter_case: int
    born: float
    died: float = math.inf
    status: str = "active"
    data: bytes = b""
    statuses: set[str] = field(default_factory=lambda: {"active"})
    """All that it ever had."""

    @property
    def digests(self) -> set[str]:
        """The beginnings of its hashes, as answers may show them."""
        hashes = (hashlib.sha512(self.data), hashlib.md5(self.data))
        return {made.hexdigest()[:16] for made in hashes}

    def during(self, since: float) -> bool:
        """Whether it was there at some moment since then."""
        return self.died > since

    def throughout(self, since: float) -> bool:
        """Whether it was there all the time since then."""
        return self.born <= since and self.died == math.inf


class Disturbance:
    """Something that begins and ends repeatedly."""

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


class ModelServer:
    """A stand-in server with its disturbances, and the images that it really has."""

    def __init__(self, name: str, **options: object) -> None:
        self.name = name
        self.standin = StandIn(middlewares=[self._middleware], **options)  # type: ignore[arg-type]
        self.lives: dict[bytes, ImageLife] = {}
        self.outage = Disturbance()
        self.outage_kind = ""
        self.silent = Disturbance()
        self.held = Disturbance()
        """The next few answers are made at once, and are sent only when it ends."""
        self.weak = Disturbance()
        """Its credential has lost its rights, and does not see private images."""
        self._refusals_left = 0
        self._refused_at = -math.inf
        self._answers_to_hold = 0
        self._released = asyncio.Event()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.outage_kind == "silent":
            await asyncio.sleep(SILENCE_SECONDS)
            assert request.transport
            request.transport.close()
        if self.outage.on:
            return web.Response(status=500)
        if self._refusals_left:
            self._refusals_left -= 1
            self._refused_at = time.monotonic()
            return web.Response(status=429, headers={"Retry-After": "0"})
        response = await handler(request)
        if self.held.on and self._answers_to_hold > 0:
            self._answers_to_hold -= 1
            await self._released.wait()
        return response

    def was_disturbed(self, since: float) -> bool:
        disturbances = (self.outage, self.held, self.weak)
        return any(it.during(since) for it in disturbances) or self.refused_until >= since

    @property
    def refused_until(self) -> float:
        """Until when processes may stay away, because it had too many requests."""
        return math.inf if self._refusals_left else self._refused_at + REFUSAL_SECONDS

    def describe(self, now: float) -> str:
        """When its disturbances were, in seconds before ``now``."""
        disturbances = {"outage": self.outage, "held": self.held, "weak": self.weak}
        times = (
            f"{name} {now - it.began:.3f} to {now - it.ended:.3f} s ago"
            for name, it in disturbances.items()
            if it.ended > -math.inf
        )
        return f"{self.name}: {', '.join(times)}"

    def refuse(self, count: int) -> None:
        """Answers the next requests that there are too many."""
        self._refusals_left = count

    def weaken(self) -> None:
        self.standin.tokens = {TOKEN: CUSTOMER}
        self.weak.begin()

    def strengthen(self) -> None:
        self.standin.tokens = {TOKEN: ADMIN}
        self.weak.end()

    async def fail(self, kind: str) -> None:
        self.outage.begin()
        self.outage_kind = kind
        if kind == "silent":
            self.silent.begin()
        if kind == "refused":
            await self.standin.stop()

    async def recover(self) -> None:
        if self.outage_kind == "refused":
            await self.standin.start(port=self.standin.port)
        if self.outage_kind == "silent":
            self.silent.end()
        self.outage_kind = ""
        self.outage.end()

    def hold_answers(self, count: int) -> None:
        self._answers_to_hold = count
        self._released.clear()
        self.held.begin()

    def release_answers(self) -> None:
        self._released.set()
        self.held.end()

    def create(self, image_id: bytes, letter_case: int, data: bytes, **fields: object) -> None:
        self.standin.add(id=format_id(image_id, letter_case), data=data, **fields)
        self.lives[image_id] = ImageLife(letter_case, time.monotonic(), data=data)

    def delete(self, image_id: bytes) -> None:
        self.standin.delete(format_id(image_id, self.lives[image_id].letter_case))
        self.lives[image_id].died = time.monotonic()

    def set_status(self, image_id: bytes, status: str) -> None:
        life = self.lives[image_id]
        self.standin.update(format_id(image_id, life.letter_case), status=status)
        life.status = status
        life.statuses.add(status)

    def has(self, image_id: bytes) -> bool:
        return image_id in self.lives and self.lives[image_id].died == math.inf

    def current_images(self) -> list[bytes]:
        return [image_id for image_id in self.lives if self.has(image_id)]

    def notification(self, image_id: bytes, kind: str) -> bytes:
        """The notification that this server sends about an image now."""
        message = {
            "event_type": f"image.{kind}",
            "message_id": str(uuid.uuid4()),
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
            "payload": {
                "id": format_id(image_id, self.lives[image_id].letter_case),
                "status": "deleted" if kind == "delete" else self.lives[image_id].status,
                "deleted": kind == "delete",
            },
        }
        return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


@dataclass
class Registration:
    """A period in which a location was registered with these fields.

    It begins between `since` and `confirmed_at`."""

    number: int
    server: ModelServer
    state: State
    since: float
    confirmed_at: float
    until: float = math.inf

    @property
    def in_service(self) -> bool:
        return self.state is not State.MAINTENANCE

    def life(self, image_id: bytes) -> ImageLife | None:
        return self.server.lives.get(image_id)


@dataclass
class World:
    """All servers and all locations."""

    servers: list[ModelServer]
    registrations: dict[str, list[Registration]] = field(default_factory=dict)
    being_registered: dict[str, Registration] = field(default_factory=dict)
    """By name, where a registration has begun: gateways may know of it already."""
    being_removed: set[str] = field(default_factory=set)
    """Names of locations whose removal has begun: likewise."""

    def current(self) -> dict[str, Registration]:
        """The registered locations by name."""
        last = {name: registrations[-1] for name, registrations in self.registrations.items()}
        return {
            name: registration
            for name, registration in last.items()
            if registration.until == math.inf
        }

    def during(self, since: float) -> dict[str, list[Registration]]:
        """The registrations of each location that may have been valid at some moment since then."""
        found = {
            name: [registration for registration in registrations if registration.until >= since]
            for name, registrations in self.registrations.items()
        }
        for name, registration in self.being_registered.items():
            found.setdefault(name, []).append(registration)
        return found

    def serving(self, since: float) -> dict[str, Registration]:
        """The locations that have been in service all the time since then."""
        return {
            name: registration
            for name, registration in self.current().items()
            if registration.in_service
            and registration.confirmed_at <= since
            and name not in self.being_registered.keys() | self.being_removed
        }

    def change(self, name: str, registration: Registration | None) -> None:
        """A location has become `registration`, or been removed, just now."""
        registrations = self.registrations.setdefault(name, [])
        if registrations and registrations[-1].until == math.inf:
            registrations[-1].until = time.monotonic()
        if registration:
            registrations.append(registration)

    def owners(self, image_id: bytes) -> set[str]:
        """The locations in service that have an image now."""
        return {n for n, s in self.current().items() if s.in_service and s.server.has(image_id)}

    def ids(self) -> list[bytes]:
        """All images that any server ever had."""
        return list(dict.fromkeys(image_id for server in self.servers for image_id in server.lives))
