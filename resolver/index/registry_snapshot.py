"""The registry as of one version, and how a later one follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, TypeVar

from resolver.index.record_codec import ParseCache, UnreadableRecord, parse_location, parse_record
from resolver.index.redis.replies import pairs, parses_reply
from resolver.location_fields import is_location_name
from resolver.models import Check, Location, Poll, Status, SubscriptionStatus, Sweep
from resolver.turns import in_turns

T = TypeVar("T")

NUMBER_FIELD = b"location:"
"""A field of the index's meta is this and the name of a location; see ``location_numbers.lua``."""


TURN_SECONDS = 0.01
"""How long records are parsed before other tasks get a turn. A thousand locations, most of which
have not changed, take less."""

MAX_SHOWN_CHARACTERS = 40
"""Of a name that no location may have."""


@dataclass(frozen=True, slots=True)
class Record:
    """A location and what is known of it."""

    location: Location
    status: Status
    stored: str = ""
    """The record as Redis has it: a change is made only if it still is this."""
    unreadable: tuple[str, ...] = ()
    """Parts of the status that this version cannot read. They count as not known."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole registry as of one version."""

    version: int
    records: Mapping[str, Record]
    """By name, in the order of names."""
    identity: str = ""
    """Of the index that it belongs to; empty where the index is lost, or not created yet."""
    removed: frozenset[str] = frozenset()
    """Names of locations that somebody removed. A location that is neither in ``records`` nor here
    was lost."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Names of locations whose records this version cannot read, each with the reason. They are not
    in ``records``, and may have any image."""
    lost: frozenset[str] = frozenset()
    """Names of locations that were registered, and whose records Redis has lost."""
    servers: str = ""
    """The state of the servers when it was recorded last; see `resolver.index.server_state`."""
    losses: int = 0
    """How often Redis may have lost claims: see `resolver.index.server_watch`."""
    complete: bool = True
    """False where Redis has lost the version or other things that can be written again."""
    changed: frozenset[str] | None = None
    """Names of locations that differ from the snapshot that this one was made from; None where it
    was read as a whole."""


async def parse_snapshot(reply: Any, cache: ParseCache) -> Snapshot:
    """The snapshot in the reply of ``load_registry.lua``. Other tasks get turns, however many rows
    something else has written.

    Raises:
        IndexUnavailable: the reply has another form.
    """
    locations, status, meta = _hashes(reply)
    records: dict[str, Record] = {}
    unreadable: dict[str, str] = {}
    async for name_bytes, stored_bytes in in_turns(sorted(locations.items()), TURN_SECONDS):
        name = _shown_name(name_bytes)
        try:
            stored = stored_bytes.decode()
            location = cache.parsed(parse_location, name, stored)
        except (UnreadableRecord, UnicodeDecodeError) as error:
            unreadable[name] = str(error)
            continue
        records[name] = _parse_status(status, location, stored, cache)
    unreadable |= _with_number_of_another(records, meta)
    readable = {name: record for name, record in records.items() if name not in unreadable}
    return _snapshot(reply, meta, readable, unreadable)


def has_number_twice(records: Mapping[str, Record]) -> bool:
    """Whether two locations have one number: something else has written a row."""
    return len({record.location.number for record in records.values()}) < len(records)


def _with_number_of_another(
    records: Mapping[str, Record], meta: Mapping[bytes, bytes]
) -> dict[str, str]:
    """Locations that share a number, with the reason why they cannot be used. The one that was
    given the number is used."""
    if not has_number_twice(records):
        return {}
    uses = Counter(record.location.number for record in records.values())
    shared = {n: r.location.number for n, r in records.items() if uses[r.location.number] > 1}
    given = {
        name for name, number in shared.items() if meta.get(_number_field(name)) == b"%d" % number
    }
    wrong = {}
    for name, number in shared.items():
        others = [other for other in shared if other != name and shared[other] == number]
        if name not in given or not given.isdisjoint(others):
            wrong[name] = f"its number {number} is that of {others[0]}, too"
    return wrong


def _number_field(name: str) -> bytes:
    return NUMBER_FIELD + name.encode()


@parses_reply
def _hashes(reply: Any) -> tuple[dict[bytes, bytes], dict[bytes, bytes], dict[bytes, bytes]]:
    """The locations, their status and the meta."""
    _, locations, status, meta, _ = reply
    return pairs(locations), pairs(status), pairs(meta)


@parses_reply
def _snapshot(
    reply: Any,
    meta: Mapping[bytes, bytes],
    records: Mapping[str, Record],
    unreadable: Mapping[str, str],
) -> Snapshot:
    version, *_, removed_reply = reply
    removed = frozenset(_names(removed_reply))
    numbered = set(
        _names(field[len(NUMBER_FIELD) :] for field in meta if field.startswith(NUMBER_FIELD))
    )
    return Snapshot(
        int(version),
        records,
        meta.get(b"identity", b"").decode(),
        removed,
        unreadable,
        frozenset(numbered - records.keys() - unreadable.keys() - removed),
        meta.get(b"servers", b"").decode(),
        int(meta.get(b"losses", 0)),
        complete=records.keys() <= numbered and bool(int(version) or not records),
    )


def _shown_name(stored: bytes) -> str:
    """The name in a row. One that no location may have, which something else has written, becomes
    text that can be shown: some of it, and a digest that makes it unique."""
    name = stored.decode(errors="replace")
    if is_location_name(name):
        return name
    digest = blake2b(stored, digest_size=4).hexdigest()
    return f"?{ascii(name)[1:-1][:MAX_SHOWN_CHARACTERS]}?{digest}"


def _names(stored: Iterable[bytes]) -> Iterator[str]:
    """Those of these names that a location may have. No other was registered or removed."""
    names = (name.decode(errors="replace") for name in stored)
    return filter(is_location_name, names)


def _parse_status(
    status: Mapping[bytes, bytes], location: Location, stored: str, cache: ParseCache
) -> Record:
    unreadable: list[str] = []

    def read(what: bytes, kind: type[T]) -> T | None:
        text = status.get(b"%d:%s" % (location.number, what))
        try:
            return cache.parsed(parse_record, kind, text) if text else None
        except UnreadableRecord:
            unreadable.append(what.decode())
            return None

    known = Status(
        check=read(b"check", Check),
        sweep=read(b"sweep", Sweep) or Sweep(),
        poll=read(b"poll", Poll) or Poll(),
        subscription=read(b"feed", SubscriptionStatus),
    )
    return Record(location, known, stored, tuple(unreadable))


@parses_reply
def apply_changes(known: Snapshot, reply: Any) -> Snapshot:
    """The snapshot that follows from ``known`` and the reply of ``load_changes.lua``."""
    version, servers, losses, rows = reply
    records, unreadable = dict(known.records), dict(known.unreadable)
    removed, lost = set(known.removed), set(known.lost)
    changed: set[str] = set()
    is_new = False
    cache = ParseCache()
    for name_bytes, stored, *statuses, is_removed in rows:
        name = _shown_name(name_bytes)
        changed.add(name)
        unreadable.pop(name, None)
        lost.discard(name)
        removed.discard(name)
        if stored is None:
            records.pop(name, None)
            (removed if is_removed else lost).add(name)
            continue
        try:
            text = stored.decode()
            location = parse_location(name, text)
        except (UnreadableRecord, UnicodeDecodeError) as error:
            unreadable[name] = str(error)
            records.pop(name, None)
            continue
        is_new |= name not in records
        fields = (b"check", b"sweep", b"poll", b"feed")
        status = {
            b"%d:%s" % (location.number, what): value
            for what, value in zip(fields, statuses, strict=True)
            if value is not None
        }
        records[name] = _parse_status(status, location, text, cache)
    if is_new:  # it came last, and records are in the order of names
        records = dict(sorted(records.items()))
    return replace(
        known,
        version=int(version),
        records=records,
        removed=frozenset(removed),
        unreadable=unreadable,
        lost=frozenset(lost),
        servers=(servers or b"").decode(),
        losses=int(losses or 0),
        changed=frozenset(changed),
    )
