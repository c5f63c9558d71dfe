"""What operators run after Redis has lost its data."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from resolver.cli import cli
from tests.cli.test_commands import Run, run
from tests.gateway.conftest import Gateway, Start, start
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

__all__ = ["run", "start"]

pytestmark = pytest.mark.redis

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
FIELDS = {
    "one": {"region": "R1", "auth": {"token_env": "GLANCE_ONE"}},
    "two": {"region": "R2", "state": "draining"},
}


@pytest.fixture
async def gateway(start: Start, own_redis: RedisServer) -> Gateway:
    """It was started without locations, so it cannot register any again by itself."""
    gateway = await start(redis_url=own_redis.url)
    for name, fields in FIELDS.items():
        await gateway.location(name, **fields)
    await gateway.claim("two", ID)
    return gateway


async def lose_everything(gateway: Gateway, own_redis: RedisServer) -> None:
    own_redis.flush()

    async def is_reported() -> bool:
        _, body = await gateway.get("/status")
        return "register them again" in str(body)

    await wait_until(is_reported)


async def check_locations(gateway: Gateway) -> None:
    """They are registered as they were, and nothing is wrong with the index any more."""
    by_name = (await gateway.services.tables.current()).by_name
    assert list(by_name) == list(FIELDS)
    for name, fields in FIELDS.items():
        location = by_name[name].location
        assert {field: getattr(location, field) for field in fields} == fields

    async def is_well() -> bool:
        _, body = await gateway.get("/status")
        return "index-unavailable" not in {problem["code"] for problem in body["problems"]}

    await wait_until(is_well)


async def test_apply_registers_the_locations_of_the_file(
    gateway: Gateway, own_redis: RedisServer, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "locations.yaml"
    file.write_text(
        "locations:\n"
        "  one: {url: 'https://one.example:9292', region: R1, auth: {token_env: GLANCE_ONE}}\n"
        "  two: {url: 'https://two.example:9292', region: R2, state: draining}\n"
    )
    await lose_everything(gateway, own_redis)
    status, out, err = await run("locations", "apply", str(file), "--yes")
    assert status == 0, err
    assert "Redis has lost all locations" in err
    assert out.endswith("2 changes made\n")
    await check_locations(gateway)


async def test_import_restores_everything_in_the_file(
    gateway: Gateway, own_redis: RedisServer, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "index.gz"
    assert (await run("index", "export", str(file)))[0] == 0
    await lose_everything(gateway, own_redis)
    status, out, err = await run("index", "import", str(file), "--with-auth")
    assert status == 0, err
    assert out.endswith("2 locations, registered: one, two\n")
    await check_locations(gateway)
    response, body = await gateway.get(f"/resolve/{ID}")
    assert (response.status, body["source"]) == (200, "index")


async def test_import_says_which_locations_differ_and_updates_them_if_asked(
    gateway: Gateway, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "index.gz"
    assert (await run("index", "export", str(file)))[0] == 0
    assert (await run("locations", "set", "one", "--no-auth", "--region", "R9"))[0] == 0
    status, _, err = await run("index", "import", str(file))
    assert status == 0
    assert "and left so: one (--update-locations changes them)" in err
    status, out, err = await run("index", "import", str(file), "--update-locations", "--with-auth")
    assert (status, err) == (0, "")
    assert out.endswith("registered: none, updated: one\n")
    await check_locations(gateway)


async def test_status_shows_the_problem_without_locations(
    gateway: Gateway, own_redis: RedisServer, run: Run
) -> None:
    """With an admin token, too, though the locations cannot be read then."""
    await lose_everything(gateway, own_redis)
    status, out, err = await run("status")
    assert (status, err) == (3, "")
    assert "index-unavailable" in out
    assert "register them again" in out
    assert "locations and processes cannot be shown: Redis has lost" in out
    assert "one, two" in out, "what was lost"
    assert "locations apply FILE" in out, "what to do"
    port = gateway.url.rpartition(":")[2]
    environ = {"RESOLVER_REDIS_URL": own_redis.url, "RESOLVER_PORT": port}
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["doctor"], env=environ)
    assert result.exit_code == 1, result.output
    rows = {line.split("\t")[0]: line for line in result.stdout.splitlines()}
    assert "one, two" in rows["index"]
    assert "locations apply FILE" in rows["index"]
    assert rows.keys().isdisjoint({"gateway", "indexer", "locations"}), "they run"
    own_redis.kill()
    status, out, err = await run("status")
    assert (status, err) == (3, "")
    assert "cannot be shown" in out


async def test_a_lost_location_is_reported_everywhere_until_it_is_added_or_removed(
    start: Start, own_redis: RedisServer, run: Run
) -> None:
    """The process registers again what it was started with. The others came by `locations add`."""
    startup = {"one": {"url": "https://one.example:9292"}}
    gateway = await start(redis_url=own_redis.url, startup_locations=startup)
    await gateway.location("two")
    await gateway.location("three", vouches=False)
    await gateway.services.tables.current()
    own_redis.flush()

    async def lost() -> list[str]:
        _, body = await gateway.get("/status")
        return sorted(p["location"] for p in body["problems"] if p["code"] == "location-lost")

    await wait_until(lost)
    assert await lost() == ["three", "two"]
    _, body = await gateway.get(f"/resolve/{ID}")
    assert set(body["missing"]) >= {"two", "three"}
    response, _ = await gateway.get("/metrics")
    assert 'glance_resolver_problems{code="location-lost"} 2' in await response.text()
    status, out, _ = await run("index", "stats")
    assert (status, "two: Redis lost its record" in out) == (0, True), out
    status, out, _ = await run("status")
    assert (status, "locations add two URL" in out) == (3, True), out

    async def failed_examinations(needed: set[str]) -> bool:
        result = await asyncio.to_thread(
            CliRunner().invoke, cli, ["doctor"], env={"RESOLVER_REDIS_URL": own_redis.url}
        )
        assert result.exit_code == 1, result.output
        rows = [line.split("\t") for line in result.stdout.splitlines()]
        return needed <= {row[0] for row in rows if row[1] == "no"}

    assert await failed_examinations({"location two", "location three"})
    status, _, err = await run("locations", "remove", "two", "--yes")
    assert status == 0, err
    assert await lost() == ["three"]
    await gateway.location("three")
    assert await lost() == []
    status, _, err = await run("locations", "remove", "never-there", "--yes")
    assert (status, "never-there" in err) == (1, True)
