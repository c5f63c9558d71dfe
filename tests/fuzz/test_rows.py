"""Rows of the registry with random contents: each costs itself, and other locations serve."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.index import Index, open_index
from resolver.index.record_codec import record_to_json
from resolver.models import LOCATION_FIELDS, Check, Health, Location, Poll, Sweep
from resolver.registry import FreshnessPolicy, LocationProblems, TableKeeper
from resolver.registry.presentation import location_to_json
from resolver.resolution.ranking import DEFAULT_PREFERENCES, exclusion_reason
from tests.fuzz.conftest import PATIENT, count_examples, examples

REGISTRY = "glr:{reg}:"

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        [10**30, -(10**30), 1e300, "\x00", "a\r\nb: c", "\u202e", "javascript:alert(1)"]
    )
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)

SOUND = json.loads(record_to_json(Location(name="x", url="https://x.example")))
STATUSES = {
    "check": json.loads(record_to_json(Check(at=1.0, health=Health.UP, versions=("v2.5",)))),
    "sweep": json.loads(record_to_json(Sweep(started=1.0, ended=2.0))),
    "poll": json.loads(record_to_json(Poll(ended=1.0))),
}

fields = st.dictionaries(
    st.sampled_from([*LOCATION_FIELDS, "created", "updated", "else"]), JSON, max_size=3
)
numbers = st.integers(2, 9).map(str) | st.sampled_from(
    ["0", "-1", "1e3", "", "524288", "99999999999"]
)
texts = st.binary(max_size=60)
locations = st.one_of(
    texts,
    st.builds(
        lambda number, changed: f"{number} {json.dumps(SOUND | changed)}".encode(), numbers, fields
    ),
)
names = st.sampled_from([b"zwei", b"a b", b"\xff", b"", b"x\r\ny", b"../one"]) | texts.filter(
    b"one".__ne__
)
statuses = st.one_of(
    texts,
    st.sampled_from([*STATUSES]).flatmap(
        lambda what: st.dictionaries(st.sampled_from([*STATUSES[what]]), JSON, max_size=3).map(
            lambda changed: json.dumps(STATUSES[what] | changed).encode()
        )
    ),
)


@pytest.fixture
async def index() -> AsyncIterator[Index]:
    async with open_index("memory:", bits=4, timeouts=PATIENT) as index:
        await index.records.put(Location(name="one", url="https://one.example"), None)
        yield index


@examples(200)
@given(name=names, record=locations, what=st.sampled_from([*STATUSES, "feed"]), status=statuses)
async def test_a_random_row_affects_no_other_row(
    index: Index, name: bytes, record: bytes, what: str, status: bytes
) -> None:
    count_examples("registry: rows")
    client = index.client
    for key, field, value in (
        ("locations", name, record),
        ("status", f"{(record.split() or [b'2'])[0].decode('latin-1')}:{what}", status),
        ("progress", "2", status),
        ("wanted", "2", status),
    ):
        await client.command("HSET", REGISTRY + key, field, value)
    await client.command("LPUSH", REGISTRY + "audit", status)
    await client.command("INCR", REGISTRY + "version")
    tables = TableKeeper(index, FreshnessPolicy(600))
    await tables.fresh()
    progress: dict[int, Any] = await index.records.progress()
    await index.records.requested_sweeps()
    await index.audit.last(5)
    list(LocationProblems(tables).problems())
    for view in tables.table.by_name.values():
        json.dumps(location_to_json(view, progress.get(view.location.number), 3.0)).encode()
        if not exclusion_reason(view, DEFAULT_PREFERENCES):
            assert view.uri(bytes(16)).isprintable()
            assert view.uri(bytes(16)).startswith(("http://", "https://"))
            assert view.location.region.isprintable() or "\u2028" in view.location.region
    assert not exclusion_reason(tables.table.by_name["one"], DEFAULT_PREFERENCES)
    await client.command("HDEL", REGISTRY + "locations", name)
