"""What one request with an admin token can make a gateway work for, by mistake or on purpose."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import time
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.errors import InvalidLocation, InvalidRequest, TooLarge
from resolver.gateway.api.batch_body import (
    MAX_BATCH_BYTES,
    MAX_BATCH_LOCATIONS,
    MAX_VALUE_CHARACTERS,
    read_batch,
)
from resolver.registry.export_format import FIRST_LINE, InvalidExport, Reader
from resolver.registry.validation import parse_location
from tests.gateway.conftest import ADMIN, Start
from tests.support.turns import check_turns

TURN_LIMIT_SECONDS = 0.008
"""5 ms, and the first reading of a machine's memory."""

SIZE = MAX_BATCH_BYTES


def members() -> str:
    return ",".join(f'"{number}":1' for number in range(SIZE // 10))


HOSTILE_BATCHES = {
    "lists": lambda: "[" + ",".join(["[]"] * (SIZE // 3)) + "]",
    "lists to put": lambda: '{"put":[' + ",".join(["[]"] * (SIZE // 3)) + "]}",
    "members": lambda: "{" + members() + "}",
    "locations": lambda: '{"put":{' + ",".join(f'"{n}":{{}}' for n in range(SIZE // 12)) + "}}",
    "fields": lambda: '{"put":{"a":{' + members() + "}}}",
    "networks": lambda: '{"put":{"a":{"networks":[' + ",".join(["{}"] * (SIZE // 3)) + "]}}}",
    "removals": lambda: '{"remove":[' + ",".join(f'"{n}"' for n in range(SIZE // 10)) + "]}",
    "lists to remove": lambda: '{"remove":[' + ",".join(["[]"] * (SIZE // 3)) + "]}",
    "depth": lambda: "[" * SIZE,
    "objects in depth": lambda: '{"put":' * (SIZE // 7),
    "a text": lambda: '{"put":"' + "\\n" * (SIZE // 2) + '"}',
    "a name": lambda: '{"' + "a" * SIZE + '":1}',
    "a number": lambda: '{"put":' + "1" * SIZE + "}",
    "spaces": lambda: '{"put"' + " " * (SIZE // 4) + ":1}",
}
"""Made where they are needed: together they take 400 MB, and every worker reads this file."""


@pytest.mark.parametrize("kind", HOSTILE_BATCHES)
async def test_a_batch_of_hostile_shape_is_refused_within_milliseconds(kind: str) -> None:
    """Read as one document, it took up to 600 ms; with its fields looked at, minutes."""
    body = HOSTILE_BATCHES[kind]()
    await check_turns(
        TURN_LIMIT_SECONDS,
        lambda: read_batch(body),
        *(ValueError, RecursionError, InvalidRequest, TooLarge),
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
batches = st.dictionaries(
    st.sampled_from(["put", "remove", "dry_run"]) | st.text(max_size=5),
    json_values
    | st.lists(st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True))
    | st.dictionaries(st.text(max_size=5), json_values, max_size=4),
    max_size=4,
)


@given(batches, st.sampled_from([None, 1]), st.booleans())
async def test_a_batch_is_read_as_any_json(
    batch: dict[str, Any], indent: int | None, is_ascii: bool
) -> None:
    text = json.dumps(batch, indent=indent, ensure_ascii=is_ascii)
    removals = batch.get("remove")
    if isinstance(removals, list) and not all(
        isinstance(name, str) and not set(name) & set("[]{}") for name in removals
    ):
        with contextlib.suppress(ValueError):
            assert await read_batch(text) == batch
        return
    assert await read_batch(text) == batch


@given(st.text(alphabet='{}[]":,pu1 \\', max_size=20))
async def test_what_is_no_json_is_no_batch(text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    try:
        batch: object = await read_batch(text)
    except (ValueError, InvalidRequest):
        batch = None
    assert batch == (value if isinstance(value, dict) else None) or "remove" in text


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ('{"put": {"a": {"url": "https://a.example"}}} x', 400, "not JSON"),
        ('{"put": {"a": {}, "a": {}}}', 400, "twice"),
        ('{"put": {"a": {"region": "a", "region": "b"}}}', 400, "twice"),
        ('{"put": {}, "put": {}}', 400, "twice"),
        ('{"remove": ["a", ["b"]]}', 400, "not JSON"),
        ('{"remove": {"a": 1}}', 400, "send {"),
        ('{"put": {"a": "' + "b" * MAX_VALUE_CHARACTERS + '"}}', 413, "longer than 65536"),
        (
            json.dumps({"put": {f"l{n}": {} for n in range(MAX_BATCH_LOCATIONS + 1)}}),
            *(413, "10000 locations"),
        ),
        (json.dumps({"remove": ["a"] * (MAX_BATCH_LOCATIONS + 1)}), 413, "10000 locations"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_wrong_batch_is_refused(start: Start, body: str, status: int, detail: str) -> None:
    gateway = await start()
    response, problem = await gateway.call(
        "POST", "/locations", headers={**ADMIN, "Content-Type": "application/json"}, data=body
    )
    assert (response.status, response.content_type) == (status, "application/problem+json")
    assert detail in problem["detail"]


def test_the_error_for_unknown_fields_names_few() -> None:
    """To find what each of 7,000 may mean took 170 ms, and the answer had 40 kB."""
    fields = {f"wieght{number}": 1 for number in range(7000)}
    best = 1.0
    for _ in range(5):
        started = time.thread_time()
        with pytest.raises(InvalidLocation, match=r"wieght4 .* and 6995 more: a location has") as e:
            parse_location("a", fields)
        best = min(best, time.thread_time() - started)
    assert best < 0.01
    assert len(str(e.value)) < 1000


LOCATION = 'location {0} {{"name":"l{0}","url":"http://a"}}\n'
HEAD = FIRST_LINE + LOCATION.format(0).encode()
SEALED = HEAD + f"sum sha256={hashlib.sha256(HEAD).hexdigest()}\n".encode()
HOSTILE_EXPORTS = {
    "a line": lambda: FIRST_LINE + b"x" * SIZE,
    "a location": lambda: FIRST_LINE + b'location 0 {"name":"' + b"a" * SIZE + b'"}\n',
    "lists": lambda: FIRST_LINE + b'location 0 {"networks":[' + b"[]," * 40_000 + b"[]]}\n",
    "members": lambda: FIRST_LINE + b"location 0 {%s}\n" % members()[:120_000].encode(),
    "locations": lambda: FIRST_LINE + "".join(LOCATION.format(n) for n in range(20_000)).encode(),
    "newlines": lambda: FIRST_LINE + b"\n" * SIZE,
    "newlines in a block": lambda: SEALED + b"\n" * SIZE,
    "images": lambda: SEALED + "".join(f"{uuid.UUID(int=n)} 0\n" for n in range(50_000)).encode(),
    "owners": lambda: (
        SEALED + f"{uuid.UUID(int=1)} ".encode() + b"0," * 60_000 + b"0\nsum sha256=0\n"
    ),
    "almost checksums": lambda: SEALED + b"\nsum" * (SIZE // 4),
}


@pytest.mark.parametrize("kind", HOSTILE_EXPORTS)
async def test_an_import_of_hostile_shape_is_refused_within_milliseconds(kind: str) -> None:
    """16 MiB of locations took 4.6 s in one turn, a block of 2 MiB 60 ms."""

    export = HOSTILE_EXPORTS[kind]()

    async def read_export() -> None:
        reader = Reader()
        async for _ in reader.feed_in_turns(export):
            pass
        reader.close()

    await check_turns(TURN_LIMIT_SECONDS, read_export, InvalidExport)


HOSTILE_PARTS = {
    "a line": lambda: [b"x" * 100_000_000],
    "newlines": lambda: [b"\n" * 100_000_000],
    "empty parts": lambda: [b""] * 5000,
    "long and empty parts": lambda: [b"x" * 100_000_000, b""] * 2,
}


@pytest.mark.parametrize("kind", HOSTILE_PARTS)
async def test_a_compressed_import_of_hostile_shape_keeps_nobody_waiting(
    start: Start, kind: str
) -> None:
    gateway = await start()
    body = b"".join(gzip.compress(part) for part in (FIRST_LINE, *HOSTILE_PARTS[kind]()))
    headers = {**ADMIN, "Content-Encoding": "gzip"}

    async def post() -> None:
        await gateway.call("POST", "/index/import", headers=headers, data=body)

    await check_turns(0.02, post)
    response, problem = await gateway.call("POST", "/index/import", headers=headers, data=body)
    assert (response.status, problem["code"]) == (400, "invalid-export")
    assert problem["line"] == 2
