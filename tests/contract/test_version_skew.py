"""Programs of several versions on one index: what a newer one wrote is read, kept and written back;
what cannot be read costs one row; what may only be read is not written."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import MISSING, fields, replace
from typing import Any

import pytest

from resolver.errors import IndexReadOnly, IndexUnavailable
from resolver.index import Index, open_index
from resolver.index.index_format import FORMAT
from resolver.index.record_codec import FORMAT_1_FIELDS, record_to_json
from resolver.models import (
    Change,
    Check,
    Health,
    Location,
    Owner,
    Poll,
    Progress,
    SubscriptionStatus,
    Sweep,
)
from tests.support.ids import make_ids

IDS = make_ids(20)
REGISTRY = "glr:{reg}:"
META = REGISTRY + "meta"
ONE = Location(name="one", url="http://one.example", created=1.5)


async def stored(index: Index, key: str, field: str) -> dict[str, Any]:
    """The JSON of a row."""
    text = (await index.client.command("HGET", REGISTRY + key, field)).decode()
    found: dict[str, Any] = json.loads(text[text.index("{") :])
    return found


async def add_field(index: Index, key: str, field: str) -> None:
    """As a newer version writes the row."""
    text = (await index.client.command("HGET", REGISTRY + key, field)).decode()
    head, _, rest = text.partition("{")
    await index.client.command("HSET", REGISTRY + key, field, f'{head}{{"newer":[1,{{}}],{rest}')


NEWER = [1, {}]


async def test_a_location_keeps_the_fields_of_a_newer_version(index: Index) -> None:
    await index.records.put(ONE, None)
    await add_field(index, "locations", "one")
    record = (await index.records.load()).records["one"]
    assert record.location.unknown == {"newer": NEWER}
    await index.records.put(replace(record.location, region="r"), record)
    row = await stored(index, "locations", "one")
    assert (row["newer"], row["region"]) == (NEWER, "r")


async def test_a_status_keeps_the_fields_of_a_newer_version(index: Index) -> None:
    number = (await index.records.put(ONE, None)).number
    records = index.records
    await records.set_check(number, Check(at=1))
    await records.set_sweep(number, Sweep(started=1))
    await records.set_poll(number, Poll(ended=1), ONE)
    await records.set_subscription(number, SubscriptionStatus(since=1), ONE)
    for what in ("check", "sweep", "poll", "feed"):
        await add_field(index, "status", f"{number}:{what}")
    status = (await records.load()).records["one"].status
    assert status.check is not None
    assert status.subscription is not None
    await records.set_check(number, replace(status.check, at=2))
    await records.set_sweep(number, replace(status.sweep, started=2))
    await records.set_poll(number, replace(status.poll, ended=2), ONE)
    await records.set_subscription(number, replace(status.subscription, since=2), ONE)
    for what, field in (
        ("check", "at"),
        ("sweep", "started"),
        ("poll", "ended"),
        ("feed", "since"),
    ):
        row = await stored(index, "status", f"{number}:{what}")
        assert (row["newer"], row[field]) == (NEWER, 2)


async def test_progress_keeps_the_fields_of_a_newer_version(index: Index) -> None:
    await index.records.set_progress(1, Progress(started=1))
    await add_field(index, "progress", "1")
    progress = (await index.records.progress())[1]
    await index.records.set_progress(1, replace(progress, images=5))
    row = await stored(index, "progress", "1")
    assert (row["newer"], row["images"]) == (NEWER, 5)


@pytest.mark.parametrize("kind", FORMAT_1_FIELDS, ids=lambda kind: kind.__name__)
def test_a_program_of_format_1_reads_records_with_only_its_fields(kind: type) -> None:
    """It refuses a record with a field that it does not know: a younger one is stored only where
    it differs from its default."""
    required = {"at": 1.0, "health": Health.UP, "started": 1.0, "name": "one", "url": "http://one"}
    without_default = {
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }
    record = kind(**{name: required[name] for name in without_default})
    assert json.loads(record_to_json(record)).keys() == FORMAT_1_FIELDS[kind]


def test_nested_records_keep_unknown_fields() -> None:
    check = Check(at=1, changes=(Change(at=2, health=Health.UP, unknown={"newer": 1}),))
    (change,) = json.loads(record_to_json(check))["changes"]
    assert change == {"at": 2, "health": "up", "reason": "", "newer": 1}


async def status_of_two(index: Index) -> Any:
    return (await index.records.load()).records["two"].status


async def audited(index: Index) -> list[str]:
    return [entry.what for entry in await index.audit.last(10)]


Read = Callable[[Index], Awaitable[Any]]

UNREADABLE_ROWS: dict[str, tuple[tuple[Any, ...], Read, Any]] = {
    "check": (("HSET", "status", "1:check", "{}"), lambda i: i.records.check(1), None),
    "check of another type": (
        ("HSET", "status", "1:check", '{"at":"then","health":"up","versions":[]}'),
        lambda i: i.records.check(1),
        None,
    ),
    "poll": (("HSET", "status", "1:poll", "[]"), lambda i: i.records.poll(1), Poll()),
    "progress": (
        ("HSET", "progress", "1", "{"),
        lambda i: i.records.progress(),
        {2: Progress(started=1)},
    ),
    "progress of no number": (
        ("HSET", "progress", "x", '{"started":1}'),
        lambda i: i.records.progress(),
        {2: Progress(started=1)},
    ),
    "findings": (("SADD", "noted:1", "?"), lambda i: i.records.sweep_findings(1), ({}, {})),
    "retired": (("SADD", "retired", "x"), lambda i: i.records.retired(), []),
    "audit": (("LPUSH", "audit", "{}"), audited, ["add", "add"]),
}


@pytest.mark.parametrize("name", UNREADABLE_ROWS)
async def test_an_unreadable_row_affects_no_other_row(index: Index, name: str) -> None:
    for location in ("one", "two"):
        await index.records.put(replace(ONE, name=location), None)
    await index.records.set_check(2, Check(at=1))
    await index.records.set_progress(2, Progress(started=1))
    (verb, key, *rest), read, expected = UNREADABLE_ROWS[name]
    await index.client.command(verb, REGISTRY + key, *rest)
    assert await read(index) == expected
    assert (await status_of_two(index)).check == Check(at=1)


async def test_an_unreadable_sweep_request_still_requests_a_sweep(index: Index) -> None:
    await index.client.command("HSET", REGISTRY + "wanted", "1", "{}")
    request = (await index.records.requested_sweeps())[1]
    assert request.confirm_shrink is False
    await index.records.finish_sweep_request(1, request)
    assert await index.records.requested_sweeps() == {}


@pytest.mark.parametrize(
    "record",
    ["", "x", "7", "7 {}", "7 []", '7 {"api":"v9","state":"active","url":"http://x"}', "\udcff"],
)
async def test_an_unreadable_location_is_listed_apart(index: Index, record: str) -> None:
    await index.records.put(ONE, None)
    await index.client.command(
        "HSET", REGISTRY + "locations", "bad", record.encode(errors="surrogateescape")
    )
    snapshot = await index.records.load()
    assert list(snapshot.records) == ["one"]
    assert list(snapshot.unreadable) == ["bad"]
    assert await index.records.remove("bad")
    assert not (await index.records.load()).unreadable


async def test_an_unreadable_status_counts_as_not_known(index: Index) -> None:
    number = (await index.records.put(ONE, None)).number
    await index.client.command("HSET", REGISTRY + "status", f"{number}:sweep", '{"images":"x"}')
    record = (await index.records.load()).records["one"]
    assert (record.status.sweep, record.unreadable) == (Sweep(), ("sweep",))


async def meta(index: Index, *names: str) -> list[int | None]:
    values = await index.client.command("HMGET", META, *names)
    return [None if value is None else int(value) for value in values]


async def test_an_index_of_format_1_is_upgraded_while_in_use(index: Index) -> None:
    await index.claims.claim(1, IDS)
    await index.client.command("HDEL", META, "newest", "writers")
    await index.client.command("HSET", META, "format", 1)
    identity = await index.identity()
    assert await meta(index, "format", "writers", "newest") == [
        1,
        1 if FORMAT > 1 else None,
        FORMAT if FORMAT > 1 else None,
    ]
    assert (await index.claims.lookup(IDS)).owners == [(Owner(1),)] * len(IDS)
    assert await index.identity() == identity


async def test_a_newer_index_that_this_version_may_write_keeps_its_format(index: Index) -> None:
    await index.client.command("HSET", META, "newest", FORMAT + 3)
    await index.identity()
    assert await index.claims.claim(1, IDS) == len(IDS)
    assert await meta(index, "newest") == [FORMAT + 3]


async def test_an_index_that_must_not_be_read_any_more_is_not_read(index: Index) -> None:
    await index.claims.claim(1, IDS)
    await index.client.command("HSET", META, "format", FORMAT + 1)
    with pytest.raises(IndexUnavailable, match=f"format {FORMAT + 1}"):
        await index.claims.lookup(IDS)


WRITES: dict[str, Callable[[Index], Awaitable[Any]]] = {
    "claim": lambda index: index.claims.claim(1, IDS),
    "release": lambda index: index.claims.release(1, IDS),
    "purge": lambda index: index.claims.purge([1]),
    "put": lambda index: index.records.put(replace(ONE, name="two"), None),
    "remove": lambda index: index.records.remove("one"),
    "check": lambda index: index.records.set_check(1, Check(at=1)),
    "request": lambda index: index.records.request_sweep(1),
    "pin": lambda index: index.records.pin_claim(1, IDS[0]),
    "lease": lambda index: index.lease("x", seconds=1).acquire(),
    "rebuild": lambda index: index.rebuild.request(10),
    "audit": lambda index: index.audit.record("ann", "x"),
    "absent": lambda index: index.observations.record_absent(1, IDS),
}


@pytest.mark.parametrize("write", WRITES)
async def test_a_read_only_index_is_read_and_not_written(index: Index, write: str) -> None:
    await index.records.put(ONE, None)
    await index.claims.claim(1, IDS)
    before = await index.records.load()
    await index.client.command("HSET", META, "writers", FORMAT + 1)
    await index.identity()
    with pytest.raises(IndexReadOnly, match=f"format {FORMAT + 1} or newer") as error:
        await WRITES[write](index)
    assert "upgrade this process" in error.value.detail
    assert (await index.claims.lookup(IDS)).owners == [(Owner(1),)] * len(IDS)
    assert await index.records.load() == before
    assert (await index.census()).images == len(IDS)
    (problem,) = index.problems()
    assert problem.code == "version-skew"


async def test_an_index_is_written_again_when_its_format_allows_it(
    index: Index, index_url: str
) -> None:
    await index.client.command("HSET", META, "writers", FORMAT + 1)
    await index.identity()
    assert index.read_only_because
    if index_url != "memory:":  # which no other process shares
        async with open_index(index_url) as other:
            with pytest.raises(IndexReadOnly):
                await other.claims.claim(1, IDS)
            other.client.read_only_because = ""  # as a newer program
            await other.client.command("HSET", META, "writers", FORMAT)
        await index.identity()
        assert not index.read_only_because
        assert await index.claims.claim(1, IDS) == len(IDS)
