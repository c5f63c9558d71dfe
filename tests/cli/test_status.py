"""`status` and `members`: what the status page shows, in a terminal."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from resolver import __version__
from resolver.cli.ages import age
from resolver.models import Progress, Sweep
from tests.cli.test_commands import Run, gateway, run
from tests.cli.test_serve import command
from tests.gateway.conftest import TOKEN, Gateway, start

__all__ = ["gateway", "run", "start"]

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (3, "3 s"), (119, "119 s"), (743, "12 min"), (9000, "2 h"), (400_000, "5 days")],
)
def test_ages(seconds: int, text: str) -> None:
    assert age((NOW - timedelta(seconds=seconds)).isoformat(), NOW) == text
    assert age(None) == ""


async def test_without_problems_the_exit_status_is_0(run: Run, gateway: Gateway) -> None:
    await gateway.location("one")
    status, out, _ = await run("status")
    assert status == 0
    assert f"glance-resolver {__version__} (gateway) at {gateway.url}: 1 location, 1 up" in out
    assert "nothing is wrong" in out


async def test_problems_and_what_to_do(run: Run, gateway: Gateway) -> None:
    number = await gateway.location("one")
    now = time.time()
    failed = Sweep(started=now, ended=now, sees_all=True, error="x", error_code="refused")
    await gateway.services.index.records.set_sweep(number, failed)
    progress = Progress(started=now - 10, at=now, images=5000, front="80000000-…")
    await gateway.services.index.records.begin_progress(number, progress)
    await gateway.services.process_watch.announce()
    status, out, _ = await run("status")
    assert status == 3
    assert "sweep-failing, for 0 s: The latest sweep" in out
    assert "-> `glance-resolver locations check one` says why" in out
    assert "5,000 images" in out
    status, out, _ = await run("status", "--json")
    assert status == 3
    answer = json.loads(out)
    assert answer["status"]["problems"][0]["code"] == "sweep-failing"
    assert answer["locations"][0]["name"] == "one"
    assert len(answer["members"]) == 1


async def test_without_a_token_status_shows_public_facts_only(run: Run, gateway: Gateway) -> None:
    await gateway.location("one")
    status, out, _ = await run("status", token=None)
    assert status == 0
    assert "nothing is wrong" in out
    assert "with an admin token (--token), locations and processes are shown too" in out


async def test_members(run: Run, gateway: Gateway) -> None:
    await gateway.services.process_watch.announce()
    status, out, _ = await run("members")
    assert status == 0
    head, row = (line.split("\t") for line in out.splitlines())
    assert head == ["HOST", "PID", "ROLE", "VERSION", "RUNNING FOR"]
    assert row[2:4] == ["gateway", __version__]
    _, out, _ = await run("members", "--json")
    assert json.loads(out)[0]["role"] == "gateway"
    status, _, err = await run("members", token=None)
    assert status == 1
    assert "RESOLVER_ADMIN_TOKENS" in err


async def test_watch_reports_changes(gateway: Gateway) -> None:
    process = await command(
        *("status", "--watch", "--json", "--interval", "0.2"),
        RESOLVER_URL=gateway.url,
        RESOLVER_TOKEN=TOKEN,
    )
    assert process.stdout is not None
    first = json.loads(await process.stdout.readline())
    assert first["locations"] == []
    await gateway.location("one")
    async with asyncio.timeout(30):
        while not json.loads(await process.stdout.readline())["locations"]:
            pass
    process.send_signal(2)
    assert await process.wait() == 0
