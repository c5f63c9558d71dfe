"""Redis replies of every kind: every call ends in time, and no answer is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resolver.errors import IndexUnavailable
from resolver.index import Index, open_index
from resolver.index.redis.client import RedisTimeouts
from resolver.models import Outcome, format_id
from resolver.resolution import Preferences
from resolver.services import Services, open_services
from resolver.settings import Settings
from resolver.sync.leased_work import WorkKey, WorkKind
from tests.fuzz.conftest import ErrorLog, count_examples, examples
from tests.fuzz.test_ids import JSON
from tests.gateway.conftest import Gateway, Start, start
from tests.support.ids import make_ids
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

__all__ = ["start"]

TIMEOUT_SECONDS = 0.25
TIMEOUTS = RedisTimeouts(connect=TIMEOUT_SECONDS, reply=TIMEOUT_SECONDS)
"""Shorter than those of a real process."""


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def many(sign: bytes) -> Callable[[list[bytes]], bytes]:
    return lambda parts: b"%b%d\r\n" % (sign, len(parts)) + b"".join(parts)


def mapped(parts: list[bytes]) -> bytes:
    return b"%%%d\r\n" % (len(parts) // 2) + b"".join(parts[: len(parts) // 2 * 2])


PLAIN = st.one_of(
    st.builds(bulk, st.binary(max_size=20)),
    st.integers(-(2**64), 2**64).map(b":%d\r\n".__mod__),
    st.sampled_from(
        [
            b"+OK\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"_\r\n",
            b"#t\r\n",
            b",inf\r\n",
            b",nan\r\n",
            b"(99\r\n",
            b"-ERR no\r\n",
            b"-NOSCRIPT no\r\n",
            b"-READONLY no\r\n",
            b"-MOVED 5 127.0.0.1:1\r\n",
            b"-ASK 5 :\r\n",
            b"-MOVED\r\n",
            b"-LOADING\r\n",
            b"!3\r\nERR\r\n",
            b"=5\r\ntxt:a\r\n",
            b">0\r\n",
            b">1\r\n$10\r\ninvalidate\r\n",
            b">2\r\n$10\r\ninvalidate\r\n:7\r\n",
            b">2\r\n$10\r\ninvalidate\r\n*1\r\n:7\r\n",
            b">2\r\n$10\r\ninvalidate\r\n_\r\n",
            b">2\r\n$10\r\ninvalidate\r\n*1\r\n" + bulk(b"glr:b:4:zz"),
            b">1\r\n*0\r\n",
        ]
    ),
)
VALUE = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4).flatmap(
        lambda parts: st.sampled_from(
            [many(b"*")(parts), many(b"~")(parts), many(b">")(parts), mapped(parts)]
        )
    ),
    max_leaves=8,
)
JUNK = st.one_of(
    st.lists(VALUE, min_size=1, max_size=6).map(b"".join),
    st.lists(PLAIN, min_size=1, max_size=6).map(b"".join),
    st.binary(min_size=1, max_size=30),
    # Not b"*1000000000\r\n": hiredis takes the memory for what a header promises.
    st.sampled_from(
        [
            b"*100000\r\n",
            b"*1\r\n" * 50,
            b"$99999999999999999999\r\n",
            b"$5\r\nab",
            b":\r\n",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"%1\r\n*0\r\n+a\r\n",
            b"%2\r\n+a\r\n:1\r\n",
            b"*4\r\n",
        ]
    ),
)


class ScriptedServer:
    """Answers each request with its next reply; the last one is repeated."""

    def __init__(self) -> None:
        self.replies: list[bytes] = []
        self.address = ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while await reader.read(65536) and self.replies:
                reply = self.replies[min(sent, len(self.replies) - 1)]
                sent += 1
                if not reply:
                    break
                writer.write(reply)
                await writer.drain()
        writer.transport.abort()


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    server = await asyncio.start_server(scripted, "127.0.0.1", 0)
    scripted.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield scripted


ID = make_ids(1)[0]
CALLS: dict[str, Callable[[Index], Awaitable[Any]]] = {
    "ping": lambda index: index.ping(),
    "lookup": lambda index: index.claims.lookup([ID]),
    "identity": lambda index: index.identity(),
    "create": lambda index: index.create_if_missing(),
    "claim": lambda index: index.claims.claim(1, [ID]),
    "release": lambda index: index.claims.release(1, [ID]),
    "census": lambda index: index.census(),
    "load": lambda index: index.records.load(),
    "check": lambda index: index.records.check(1),
    "poll": lambda index: index.records.poll(1),
    "progress": lambda index: index.records.progress(),
    "sweep findings": lambda index: index.records.sweep_findings(1),
    "pinned claims": lambda index: index.records.pinned_claims(1),
    "requested sweeps": lambda index: index.records.requested_sweeps(),
    "retired": lambda index: index.records.retired(),
    "record absent": lambda index: index.observations.record_absent(1, [ID]),
    "record present": lambda index: index.observations.record_present(1, {ID: 0}, 0.0),
    "audit": lambda index: index.audit.last(10, ""),
    "requested rebuild": lambda index: index.rebuild.requested(),
    "rebuild progress": lambda index: index.rebuild.progress(),
    "lease": lambda index: index.lease("x", seconds=1).acquire(),
}
OK = b"+OK\r\n"
"""The reply to what redis-py may send first: SELECT."""


@pytest.mark.parametrize(
    "form", ["redis://{}/0", "redis+cluster://{}", "redis+sentinel://{}/main"], ids=str.upper
)
@examples(60)
@example([OK, b"%1\r\n*0\r\n+a\r\n"], "ping")
@example([OK, b">0\r\n"], "ping")
@example([OK, b":5\r\n" * 9], "lookup")
@example([OK, b"$1\r\na\r\n-ERR no\r\n"], "create")
@example([OK, OK, b"$1\r\na\r\n-ERR no\r\n"], "create")
@example([OK, b"$0\r\n\x00\x00-\r\n"], "rebuild progress")
@given(
    st.tuples(st.just(OK) | PLAIN, st.lists(JUNK | st.just(b""), max_size=5)).map(
        lambda some: [some[0], *some[1]]
    ),
    st.sampled_from(sorted(CALLS)),
)
async def test_every_call_ends_in_time_and_fails_as_unavailable(
    loop_errors: ErrorLog, server: ScriptedServer, form: str, replies: list[bytes], call: str
) -> None:
    count_examples(f"redis: {form.partition(':')[0]}")
    # redis-py reads the first replies and those of Sentinels. hiredis 3.5.0 crashes (SIGSEGV) on
    # some nested replies when it makes exceptions of redis-py; our own reader uses none.
    server.replies = (
        [reply for reply in replies if b"-" not in reply] if "sentinel" in form else replies
    )
    begun = time.monotonic()
    async with open_index(form.format(server.address), create=False, timeouts=TIMEOUTS) as index:
        with contextlib.suppress(IndexUnavailable):
            async with asyncio.timeout(20 * TIMEOUT_SECONDS):
                await CALLS[call](index)
    assert time.monotonic() - begun < 30 * TIMEOUT_SECONDS
    loop_errors.check()


class CorruptingProxy(Proxy):
    """Passes replies on, or junk in their place."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.junk: list[bytes | None] = []

    def changed(self, data: bytes) -> bytes:
        junk = self.junk.pop(0) if self.junk else None
        return data if junk is None else junk


WRONG_TYPE = st.one_of(
    # No text and no null, which could be taken for owners or for no owners.
    st.lists(
        st.one_of(
            st.integers(1, 2**64).map(b":%d\r\n".__mod__),
            st.sampled_from(
                [
                    b"-ERR no\r\n",
                    b"*0\r\n",
                    b"*1\r\n*1\r\n:1\r\n",
                    b"%1\r\n+a\r\n:1\r\n",
                    b">0\r\n",
                    b">2\r\n$10\r\ninvalidate\r\n:7\r\n",
                    b"#t\r\n",
                    b",nan\r\n",
                ]
            ),
        ),
        min_size=1,
        max_size=6,
    ).map(b"".join),
    st.binary(min_size=1, max_size=20).filter(lambda data: data[:1] not in b"*$+:-_>~%"),
    st.sampled_from([b"", b"$20\r\nab", b"*5\r\n"]),
)


IDS = make_ids(2)
DEADLINE = 0.25


class GatewayBehindProxy(NamedTuple):
    """A gateway with one image and no cache, and the proxy between it and Redis."""

    gateway: Gateway
    proxy: CorruptingProxy


@pytest.fixture
async def gateway_and_proxy(
    start: Start, redis_server: RedisServer
) -> AsyncIterator[GatewayBehindProxy]:
    redis_server.flush()
    async with CorruptingProxy(redis_server.port) as proxy:
        gateway = await start(
            redis_url=proxy.url, index_bits=4, cache_size=0, stale_for=0, sweep_interval=86_400
        )
        # However long the examples take, the index proves absence: an indexer seems to run, and
        # the one sweep stays fresh.
        lease = gateway.services.index.lease(WorkKey(WorkKind.HEALTH).lease_name, seconds=86_400)
        assert await lease.acquire()
        await gateway.location("one")
        await gateway.claim("one", format_id(IDS[0]))
        yield GatewayBehindProxy(gateway, proxy)


async def answers_are_right(gateway: Gateway) -> bool:
    """Whether every request is answered from the index again."""
    found, _ = await gateway.get(f"/resolve/{format_id(IDS[0])}")
    absent, _ = await gateway.get(f"/resolve/{format_id(IDS[1])}")
    ready, _ = await gateway.get("/readyz")
    return (found.status, absent.status, ready.status) == (200, 404, 200)


@pytest.mark.redis
@examples(4)
@example([b":5\r\n" * 6])
@example([b""])
@example([None, b"", b"-ERR no\r\n"])
@given(st.lists(st.none() | WRONG_TYPE, max_size=12))
async def test_a_gateway_with_corrupted_redis_replies_gives_no_wrong_answer_and_recovers(
    loop_errors: ErrorLog, gateway_and_proxy: GatewayBehindProxy, junk: list[bytes | None]
) -> None:
    count_examples("redis: gateway")
    gateway, proxy = gateway_and_proxy
    proxy.junk = list(junk)
    for _ in range(3):
        for known in (True, False):
            begun = time.monotonic()
            text = format_id(IDS[0] if known else IDS[1])
            response, body = await gateway.get(f"/resolve/{text}")
            assert time.monotonic() - begun < DEADLINE + 10  # a busy machine may be this late
            if response.status == 200:
                assert known
                assert [owner["location"] for owner in body["owners"]] == ["one"]
            else:
                assert response.status in ((503,) if known else (404, 503)), body
    loop_errors.check()
    proxy.junk = []
    await wait_until(lambda: answers_are_right(gateway))


@examples(40)
@example("wanted", b"7", b"{}")
@example("locations", b"one", b"7 {}")
@given(
    st.sampled_from(["wanted", "progress", "locations", "status", "meta"]),
    st.sampled_from([b"7", b"one", b"7:check", b"7:sweep", b"wanted", b"next", b"\xff"]),
    st.binary(max_size=20) | JSON.map(lambda value: json.dumps(value).encode()),
)
async def test_foreign_data_in_the_registry_does_not_stop_the_indexer(
    loop_errors: ErrorLog, services: Services, key: str, field: bytes, value: bytes
) -> None:
    """Nor the gateway. When the data is deleted, everything works as before."""
    count_examples("redis: written by others")
    name = f"glr:{{reg}}:{key}"
    await services.index.client.command("HSET", name, field, value)
    await services.index.client.command("INCR", "glr:{reg}:version")
    with contextlib.suppress(IndexUnavailable):
        await services.indexer.tick()
    with contextlib.suppress(IndexUnavailable):
        await services.resolver.resolve(ID, Preferences())
    await services.index.client.command("HDEL", name, field)
    await services.index.client.command("INCR", "glr:{reg}:version")
    await services.indexer.tick()
    await wait_until(lambda: services.resolver.breaker.error is None)
    assert (await services.resolver.resolve(ID, Preferences())).outcome is Outcome.UNKNOWN
    loop_errors.check()


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with open_services(Settings(index_bits=4, probe=False)) as services:
        yield services
