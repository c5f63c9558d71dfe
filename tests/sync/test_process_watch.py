"""Each process announces itself, and notices processes of other versions."""

from __future__ import annotations

import asyncio
import json
import os
import socket

import pytest

from resolver import __version__
from resolver.index import Index, open_index
from resolver.index.members import MAX_MEMBERS
from resolver.index.processes import ANNOUNCED_SECONDS, MAX_PROCESSES
from resolver.sync import ProcessWatch
from resolver.sync.process_watch import ANNOUNCE_INTERVAL_SECONDS
from tests.support.redis import RedisServer
from tests.support.wait import wait_until


def test_one_announcement_may_fail() -> None:
    assert 2 * ANNOUNCE_INTERVAL_SECONDS < ANNOUNCED_SECONDS


async def test_a_process_is_listed_while_it_runs(index: Index) -> None:
    watch = ProcessWatch(index, "gateway")
    running = asyncio.create_task(watch.run())
    await wait_until(index.processes.list)
    (listed,) = await index.processes.list()
    assert (listed.role, listed.version) == ("gateway", __version__)
    assert (listed.host, listed.pid) == (socket.gethostname(), os.getpid())
    running.cancel()
    await asyncio.wait([running])
    assert await index.processes.list() == []


async def test_an_announcement_again_is_no_second_process(index: Index) -> None:
    one, two = ProcessWatch(index, "all"), ProcessWatch(index, "indexer")
    for _ in range(3):
        await one.announce()
        await two.announce()
    assert [process.role for process in await index.processes.list()] == ["all", "indexer"]


async def test_several_versions_are_a_problem_until_one_is_left(index: Index) -> None:
    old, new = (ProcessWatch(index, "all", version=version) for version in ("1.0", "1.1"))
    await new.announce()
    assert list(new.problems()) == []
    await old.announce()
    await new.announce()
    for watch in (old, new):
        await watch.announce()
        (problem,) = watch.problems()
        assert problem.code == "mixed-versions"
        assert "1.0, 1.1" in problem.text
        assert "glance-resolver members" in problem.action


@pytest.mark.redis
async def test_the_problem_ends_when_the_old_version_has_expired(own_redis: RedisServer) -> None:
    async with open_index(own_redis.url) as index:
        old, new = (ProcessWatch(index, "all", version=version) for version in ("1.0", "1.1"))
        await old.announce()
        await new.announce()
        assert [problem.code for problem in new.problems()] == ["mixed-versions"]
        own_redis.ask("ZADD", "glr:{reg}:versions", 1, "1.0")
        await new.announce()
        assert list(new.problems()) == []


ANNOUNCEMENT = {
    "id": "x",
    "role": "all",
    "version": "1.0",
    "host": "h",
    "pid": 1,
    "since": 1.5,
}


@pytest.mark.parametrize(
    "announcement",
    [
        b"not JSON",
        b'{"id": "x"}',
        b"[" * 2000,
        *(
            json.dumps({**ANNOUNCEMENT, **fields}).encode()
            for fields in (
                {"version": [1, 1]},
                {"version": "1" * 300},
                {"version": "1" * 5_000_000},
                {"host": "a\r\nb"},
                {"role": None},
                {"id": 5},
                {"pid": "1"},
                {"pid": True},
                {"pid": 10**300},
                {"since": float("nan")},
                {"since": 1e300},
                {"since": "1"},
            )
        ),
    ],
    ids=lambda row: row[:90].decode(),
)
async def test_unreadable_announcements_are_left_out(index: Index, announcement: bytes) -> None:
    await ProcessWatch(index, "all").announce()
    key = "glr:{reg}:processes"
    await index.client.command("ZADD", key, 2e10, json.dumps(ANNOUNCEMENT))
    await index.client.command("ZADD", key, 2e10, announcement)
    assert len(await index.processes.list()) == 2


async def test_no_more_announcements_are_read_than_there_can_be(index: Index) -> None:
    texts = (json.dumps({**ANNOUNCEMENT, "pid": n}) for n in range(MAX_PROCESSES + 1))
    rows = (argument for text in texts for argument in (2e10, text))
    await index.client.command("ZADD", "glr:{reg}:processes", *rows)
    assert len(await index.processes.list()) == MAX_PROCESSES


async def test_hostile_versions_are_left_out(index: Index) -> None:
    key, watch = "glr:{reg}:versions", ProcessWatch(index, "all", version="1.0")
    for version in (b"\xff", b"a\r\nb", b"1" * 300, b"1" * 5_000_000):
        await index.client.command("ZADD", key, 2e10, version)
    await watch.announce()
    (problem,) = watch.problems()  # of the first, which becomes text
    assert problem.text.endswith(": 1.0, \ufffd.")
    await index.client.command("ZADD", key, *(x for n in range(1000) for x in (2e10, f"2.{n}")))
    await watch.announce()
    (problem,) = watch.problems()
    assert len(problem.text) < 1000


async def test_an_indexer_finds_its_place_among_hostile_members(index: Index) -> None:
    key, member = "glr:{reg}:indexers", index.indexer_membership(seconds=60)
    for name in (b"\xff", b"1" * 5_000_000):
        await index.client.command("ZADD", key, 2e10, name)
    assert await member.announce() == (0, 1)
    early = (x for n in range(MAX_MEMBERS + 1) for x in (1.9e10, f"{n:016x}"))
    await index.client.command("ZADD", key, *early)
    position, count = await member.announce()
    assert 0 <= position < count <= MAX_MEMBERS + 1


@pytest.mark.redis
async def test_without_redis_nothing_changes(own_redis: RedisServer) -> None:
    async with open_index(own_redis.url) as index:
        watch = ProcessWatch(index, "all")
        await watch.announce()
        own_redis.kill()
        await watch.announce()
        assert list(watch.problems()) == []


@pytest.mark.redis
async def test_a_process_that_is_gone_expires(own_redis: RedisServer) -> None:
    """Its time is in the key, so that no process must be there to see it."""
    async with open_index(own_redis.url) as index:
        await ProcessWatch(index, "all").announce()
        key = "glr:{reg}:processes"
        (name,) = own_redis.ask("ZRANGE", key, 0, -1)
        own_redis.ask("ZADD", key, 1, name)
        assert await index.processes.list() == []
        await ProcessWatch(index, "all").announce()
        assert own_redis.ask("ZCARD", key) == 1, "it was dropped, too"
