"""The registry in Redis: locations, what was learnt of them, and sweeps asked for or under way."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from resolver.errors import Conflict
from resolver.index.audit import opening
from resolver.index.keys import Keys
from resolver.index.redis.client import pairs
from resolver.index.redis.redis_errors import translate_decode_errors
from resolver.index.scripts import load
from resolver.models import (
    Api,
    Change,
    Check,
    Health,
    Location,
    Poll,
    Progress,
    State,
    Status,
    SubscriptionStatus,
    Sweep,
)

if TYPE_CHECKING:
    from resolver.index.redis.client import RedisClient

T = TypeVar("T")

LOAD = load("load", reading=True)
PUT = load("put_location", "version", "audit")
REMOVE = load("remove_location", "version", "audit")
SET_STATUS = load("set_status", "version")
SERVED = load("sweep_served")


@dataclass(frozen=True, slots=True)
class Record:
    """A location and what is known of it."""

    location: Location
    status: Status
    stored: str = ""
    """The record as Redis has it: a change is made only if it still is this."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole registry as of one version."""

    version: int
    records: Mapping[str, Record]
    """By name, in order of name."""
    identity: str = ""
    """Of the index that it is of; empty where that has lost its data, or is new."""
    removed: frozenset[str] = frozenset()
    """Names of locations that somebody removed. One that is neither there nor here was lost."""


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _location(name: str, stored: str) -> Location:
    number, _, text = stored.partition(" ")
    fields = json.loads(text)
    fields["api"] = Api(fields["api"])
    fields["state"] = State(fields["state"])
    return Location(name=name, number=int(number), **fields)


def _check(text: bytes) -> Check:
    fields = json.loads(text)
    fields["health"] = Health(fields["health"])
    fields["versions"] = tuple(fields["versions"])
    fields["changes"] = tuple(
        Change(**{**change, "health": Health(change["health"])})
        for change in fields.get("changes", ())
    )
    return Check(**fields)


def _sweep(text: bytes) -> Sweep:
    return Sweep(**json.loads(text))


def _poll(text: bytes) -> Poll:
    return Poll(**json.loads(text))


def _feed(text: bytes) -> SubscriptionStatus:
    return SubscriptionStatus(**json.loads(text))


def _progress(text: bytes) -> Progress:
    fields = json.loads(text)
    fields["markers"] = tuple(fields["markers"])
    return Progress(**fields)


NOTED_BATCH = 1000
"""Members added to a set by one command."""

GONE, ODD = b"-", b"+"
"""First byte of an id that was noted."""


class SweepRequest(NamedTuple):
    """A sweep that was asked for."""

    confirm_shrink: bool
    at: float
    """When: a sweep begun before it does not serve it."""
    stored: bytes
    """The request as Redis has it."""


class SweepFindings(NamedTuple):
    """Ids noted while a sweep is under way."""

    missing_ids: dict[bytes, int]
    """Claimed and not listed, to the letter case claimed."""
    uppercase_ids: dict[bytes, int]
    """Listed, and spelt so."""


class Records:
    """The registry of one index."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._version = keys.version.encode()
        self._parsed: dict[tuple[Any, ...], Any] = {}
        """What the texts of the last `load` say. Most are as they were when the registry is read
        anew: all of 200 locations in a quarter of the time, during which no request is answered."""
        self.changes = 0
        """Grows when the version has changed, or may have, since it was read."""
        client.on_invalidation(self._changed)

    def _changed(self, keys: Sequence[bytes] | None) -> None:
        if keys is None or self._version in keys:
            self.changes += 1

    @translate_decode_errors()
    async def load(self) -> Snapshot:
        """All locations and their status, of one moment.

        Raises:
            IndexUnavailable: when Redis does not answer.
        """
        keys = self._keys
        version, locations, statuses, identity, removed = await self._client.run(
            LOAD,
            [keys.version, keys.locations, keys.status, keys.meta, keys.removed],
            foreground=True,
        )
        status = pairs(statuses)
        before, self._parsed = self._parsed, {}

        def parsed(parse: Callable[..., T], *texts: Any) -> T:
            key = (parse, *texts)
            found: T = before.get(key) or parse(*texts)
            self._parsed[key] = found
            return found

        records = {}
        for raw_name, image_id in sorted(pairs(locations).items()):
            name, stored = raw_name.decode(), image_id.decode()
            location = parsed(_location, name, stored)
            check, sweep, poll, feed = (
                status.get(b"%d:%s" % (location.number, what))
                for what in (b"check", b"sweep", b"poll", b"feed")
            )
            records[name] = Record(
                location,
                Status(
                    check=parsed(_check, check) if check else None,
                    sweep=parsed(_sweep, sweep) if sweep else Sweep(),
                    poll=parsed(_poll, poll) if poll else Poll(),
                    subscription=parsed(_feed, feed) if feed else None,
                ),
                stored,
            )
        gone = frozenset(name.decode() for name in removed)
        return Snapshot(int(version), records, identity.decode(), gone)

    async def put(self, location: Location, before: Record | None, by: str = "") -> Location:
        """Writes a location if its record still is ``before``; returns it with its number. The
        audit log says who it was ``by``.

        A location whose URL changed is another server: it gets a new number, so that no claim
        made for the old one counts.

        Raises:
            Conflict: somebody else changed it meanwhile.
            IndexUnavailable: when Redis does not answer.
        """
        fields = asdict(location)
        name = fields.pop("name")
        del fields["number"]
        moved = before is not None and before.location.url != location.url
        keys = self._keys
        number = await self._client.run(
            PUT,
            [
                keys.version,
                keys.locations,
                keys.status,
                keys.numbers,
                keys.retired,
                keys.progress,
                keys.wanted,
                keys.audit,
                keys.removed,
            ],
            [
                name,
                before.stored if before else "",
                _dump(fields),
                int(moved),
                opening(by, "change" if before else "add", name),
            ],
        )
        if not number:
            raise Conflict(f"location {name!r} was changed by somebody else meanwhile: look again")
        return replace(location, number=number)

    async def skip_numbers_through(self, number: int) -> None:
        """In an index that lost locations: gives none of these numbers, which others remember."""
        given = int(await self._client.command("GET", self._keys.numbers) or 0)
        if given < number:  # two who do this at once leave some out, which does no harm
            await self._client.command("INCRBY", self._keys.numbers, number - given)

    async def remove(self, name: str, by: str = "") -> bool:
        """Removes a location in one write; its claims stop counting with it. False: none there."""
        keys = self._keys
        return bool(
            await self._client.run(
                REMOVE,
                [
                    keys.version,
                    keys.locations,
                    keys.status,
                    keys.retired,
                    keys.progress,
                    keys.wanted,
                    keys.audit,
                    keys.removed,
                ],
                [name, opening(by, "remove", name)],
            )
        )

    @translate_decode_errors()
    async def check(self, number: int) -> Check | None:
        """What the last look at a location told, those told quietly too."""
        text = await self._client.command("HGET", self._keys.status, f"{number}:check")
        return _check(text) if text else None

    @translate_decode_errors()
    async def poll(self, number: int) -> Poll:
        """How the last poll of a location ended, those told quietly too."""
        text = await self._client.command("HGET", self._keys.status, f"{number}:poll")
        return Poll(**json.loads(text)) if text else Poll()

    async def set_check(
        self, number: int, check: Check, of: Location | None = None, *, quiet: bool = False
    ) -> None:
        """What a look told. Not kept if the location was removed, or is no longer ``of``.

        ``quiet``: nothing that answers depend on has changed, so the version stays and no process
        reads the registry anew for it.
        """
        await self._set_status("check", number, asdict(check), of, quiet=quiet)

    async def set_sweep(self, number: int, sweep: Sweep, of: Location | None = None) -> None:
        """How a sweep ended. Not kept if the location was removed, or is no longer ``of``."""
        await self._set_status("sweep", number, asdict(sweep), of)

    async def set_poll(self, number: int, poll: Poll, of: Location, *, quiet: bool = False) -> None:
        """How a poll ended; the rest as `set_check`."""
        await self._set_status("poll", number, asdict(poll), of, quiet=quiet)

    async def set_subscription(
        self, number: int, subscription: SubscriptionStatus, of: Location, *, quiet: bool = False
    ) -> None:
        """How its notifications are; the rest as `set_check`."""
        await self._set_status("feed", number, asdict(subscription), of, quiet=quiet)

    async def _set_status(
        self,
        what: str,
        number: int,
        fields: dict[str, Any],
        of: Location | None,
        *,
        quiet: bool = False,
    ) -> None:
        keys = self._keys
        same = [of.name, f'"created":{_dump(of.created)},'] if of else []
        await self._client.run(
            SET_STATUS,
            [keys.version, keys.status, keys.retired, keys.locations],
            [what, number, _dump(fields), int(quiet), *same],
        )

    @translate_decode_errors()
    async def progress(self) -> dict[int, Progress]:
        """Sweeps under way, by location number."""
        reply = await self._client.command("HGETALL", self._keys.progress)
        return {int(number): _progress(text) for number, text in pairs(reply).items()}

    async def set_progress(
        self,
        number: int,
        progress: Progress,
        missing_ids: Mapping[bytes, int] | None = None,
        uppercase_ids: Mapping[bytes, int] | None = None,
    ) -> None:
        """Keeps how far a sweep is, with the ids (to their letter case) that it noted since last:
        those missing from the listing and those listed in upper case."""
        noted = [
            mark + image_id + letter_case.to_bytes(4, "big")
            for mark, ids in ((GONE, missing_ids), (ODD, uppercase_ids))
            for image_id, letter_case in (ids or {}).items()
        ]
        commands: list[tuple[Any, ...]] = [
            ("SADD", self._keys.noted(number), *noted[i : i + NOTED_BATCH])
            for i in range(0, len(noted), NOTED_BATCH)
        ]
        # Last, so that progress kept never lacks what was noted on the way to it.
        commands.append(("HSET", self._keys.progress, number, _dump(asdict(progress))))
        await self._client.pipeline(commands)

    @translate_decode_errors()
    async def sweep_findings(self, number: int) -> SweepFindings:
        """What the sweep under way has noted so far."""
        found: dict[bytes, dict[bytes, int]] = {GONE: {}, ODD: {}}
        cursor = 0
        while True:
            reply = await self._client.command(
                "SSCAN", self._keys.noted(number), cursor, "COUNT", NOTED_BATCH
            )
            for entry in reply[1]:
                found[entry[:1]][entry[1:17]] = int.from_bytes(entry[17:], "big")
            if not (cursor := int(reply[0])):
                return SweepFindings(found[GONE], found[ODD])

    async def pin_claim(self, number: int, image_id: bytes) -> None:
        """An operator claims this image now: a sweep under way may not undo that."""
        await self._client.command("SADD", self._keys.kept(number), image_id)

    @translate_decode_errors()
    async def pinned_claims(self, number: int) -> set[bytes]:
        """What operators have claimed since the sweep under way began."""
        return set(await self._client.command("SMEMBERS", self._keys.kept(number)))

    async def begin_progress(self, number: int, progress: Progress) -> None:
        """A sweep begins, with nothing of an earlier one."""
        await self.end_progress(number)
        await self.set_progress(number, progress)

    async def end_progress(self, number: int) -> None:
        """The sweep is over."""
        await self._client.pipeline(
            [
                ("HDEL", self._keys.progress, number),
                ("UNLINK", self._keys.noted(number)),
                ("UNLINK", self._keys.kept(number)),
            ]
        )

    async def request_sweep(self, number: int, *, confirm_shrink: bool = False) -> None:
        """Asks the indexers to sweep a location now."""
        request = _dump(
            {"at": time.time(), "confirm_shrink": confirm_shrink, "id": secrets.token_hex(4)}
        )
        await self._client.command("HSET", self._keys.wanted, number, request)

    @translate_decode_errors()
    async def requested_sweeps(self) -> dict[int, SweepRequest]:
        """Sweeps asked for, by location number."""
        reply = await self._client.command("HGETALL", self._keys.wanted)
        wanted = {}
        for number, text in pairs(reply).items():
            fields = json.loads(text)
            wanted[int(number)] = SweepRequest(fields["confirm_shrink"], fields["at"], text)
        return wanted

    async def finish_sweep_request(self, number: int, request: SweepRequest) -> None:
        """That sweep has ended. One asked for since stays asked for."""
        await self._client.run(SERVED, [self._keys.wanted], [number, request.stored])

    @translate_decode_errors()
    async def retired(self) -> list[int]:
        """Numbers of removed locations whose claims may still lie in the buckets."""
        return sorted(int(n) for n in await self._client.command("SMEMBERS", self._keys.retired))

    async def forget_retired(self, numbers: list[int]) -> None:
        """Their claims are all gone."""
        for number in numbers:
            await self.end_progress(number)
        await self._client.command("SREM", self._keys.retired, *numbers)
