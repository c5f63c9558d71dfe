"""SIGHUP without workers: new settings in the same process, and no request is lost."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from pathlib import Path

import aiohttp
import pytest

from resolver.standin import StandIn
from tests.cli.test_serve import Server, found, get, run, serve
from tests.support.redis import RedisServer
from tests.support.wait import wait_until


async def base_url(server: Server) -> str:
    """Where version documents lead."""
    _, body = await get(f"{server.url}/v2")
    return str(body["versions"][0]["links"][0]["href"].removesuffix("/v2/"))


async def problems(server: Server) -> set[str]:
    """Their codes."""
    _, status = await get(f"{server.url}/status")
    return {problem["code"] for problem in status["problems"]}


async def is_swept(server: Server) -> bool:
    """Whether its one location is covered."""
    _, status = await get(f"{server.url}/status")
    return bool(status["locations"]["covered"])


class Config:
    """The file that RESOLVER_CONFIG names."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.write('public_url = "https://before.example"')

    def write(self, *lines: str) -> None:
        self.file.write_text("".join(f"{line}\n" for line in lines))

    def reload(self, server: Server, *lines: str) -> None:
        """Other settings from now on."""
        self.write(*lines)
        server.process.send_signal(signal.SIGHUP)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path / "resolver.toml")


@pytest.mark.redis
@pytest.mark.parametrize("where", ["memory", "redis"])
async def test_a_reload_keeps_the_index_and_loses_no_request(
    where: str, redis_url: str, config: Config
) -> None:
    environ = {"RESOLVER_CONFIG": str(config.file), "RESOLVER_ACCESS_LOG": "off"}
    if where == "redis":
        environ["RESOLVER_REDIS_URL"] = redis_url
    async with StandIn() as one:
        image = one.add(name="a").id
        async with serve("--location", f"one={one.url}", **environ) as server:
            await wait_until(lambda: found(server, image))
            one.delete(image)  # from now on only the index knows it
            asked = asyncio.create_task(_ask_again_and_again(server, image))
            for number in range(3):
                expected = f"https://after-{number}.example"
                config.reload(server, f'public_url = "{expected}"')
                await wait_until(lambda e=expected: _is_at(server, e))
                await wait_until(lambda n=number: _reloads(server) == n + 1)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                assert await server.process.wait() == 0


async def _is_at(server: Server, url: str) -> bool:
    return await base_url(server) == url


def _reloads(server: Server) -> int:
    return server.output.count("settings read again")


async def _ask_again_and_again(server: Server, image: str) -> None:
    """Fails where a request is not answered as it should."""
    async with aiohttp.ClientSession(server.url) as http:
        while True:
            async with http.get(f"/v2/images/{image}", allow_redirects=False) as reply:
                assert reply.status == 307


async def test_wrong_settings_change_nothing(config: Config) -> None:
    async with serve(RESOLVER_CONFIG=str(config.file)) as server:
        config.reload(server, "bulk_limit = 0")
        await wait_until(lambda: "the old settings stay" in server.output)
        assert "RESOLVER_BULK_LIMIT" in server.output
        assert "reload-refused" in await problems(server)
        assert await base_url(server) == "https://before.example"
        config.reload(server, "port = 1", 'log_level = "debug"')
        await wait_until(lambda: "settings read again" in server.output)
        assert "RESOLVER_PORT changes only with a restart" not in server.output, "--port wins"
        (line,) = [row for row in server.output.splitlines() if "settings read again" in row]
        assert re.findall("RESOLVER_[A-Z_]+", line) == ["RESOLVER_PUBLIC_URL", "RESOLVER_LOG_LEVEL"]
        assert await base_url(server) == server.url
        assert "reload-refused" not in await problems(server)


async def test_a_generated_token_stays_valid_after_a_reload(config: Config) -> None:
    async with serve(RESOLVER_CONFIG=str(config.file)) as server:
        token = re.search(r"admin token for this run: (\S+)", server.output)
        assert token is not None
        server.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: "settings read again" in server.output)
        environ = {"RESOLVER_URL": server.url, "RESOLVER_TOKEN": token[1]}
        status, _, err = await run("locations", "list", "--json", **environ)
        assert status == 0, err


@pytest.mark.redis
async def test_a_reload_can_change_to_another_redis(
    redis_url: str, own_redis: RedisServer, config: Config
) -> None:
    """Also the startup locations are registered there."""
    config.write(f'redis_url = "{redis_url}"')
    async with StandIn() as one:
        image = one.add(name="a").id
        environ = {"RESOLVER_CONFIG": str(config.file), "RESOLVER_PROBE": "off"}
        async with serve("--location", f"one={one.url}", **environ) as server:
            await wait_until(lambda: found(server, image))
            config.reload(server, 'redis_url = "redis://127.0.0.1:1"')
            await wait_until(lambda: "the old settings stay" in server.output)
            config.reload(server, f'redis_url = "{own_redis.url}"')
            await wait_until(lambda: "settings read again" in server.output)
            await wait_until(lambda: found(server, image))
    assert own_redis.ask("HLEN", "glr:{reg}:locations") == 1


@pytest.mark.redis
async def test_a_reload_waits_for_redis(own_redis: RedisServer, config: Config) -> None:
    """A new server would know no image until Redis answers again; the old one knows some."""
    environ = {"RESOLVER_CONFIG": str(config.file), "RESOLVER_REDIS_URL": own_redis.url}
    async with StandIn() as one:
        image = one.add(name="a").id
        async with serve("--location", f"one={one.url}", RESOLVER_PROBE="off", **environ) as server:
            await wait_until(lambda: found(server, image))
            await wait_until(lambda: is_swept(server))  # then nothing more is written
            assert await found(server, image)
            own_redis.kill()
            config.reload(server, 'public_url = "https://after.example"')
            await wait_until(lambda: "the old settings stay" in server.output)
            await wait_until(lambda: found(server, image))
            assert await base_url(server) == "https://before.example"


TOKEN = "a-token-of-this-test"


class LocationsFile:
    """The file of `serve --locations`."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def write(self, **regions: str) -> None:
        """Locations with these regions."""
        locations = {
            name: {"url": f"https://{name}.example", "region": region}
            for name, region in regions.items()
        }
        self.file.write_text(json.dumps({"locations": locations}))  # JSON is YAML


async def regions(server: Server) -> dict[str, str]:
    """Of each registered location."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(server.url, headers=headers) as http:
        reply = await http.get("/locations")
        return {row["name"]: row["region"] for row in (await reply.json())["locations"]}


async def change(server: Server, method: str, name: str, **fields: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(server.url, headers=headers) as http:
        reply = await http.request(method, f"/locations/{name}", json=fields or None)
        assert reply.ok, await reply.text()


@pytest.mark.redis
@pytest.mark.parametrize("workers", [1, 2])
async def test_the_locations_file_is_applied_again(
    workers: int, own_redis: RedisServer, tmp_path: Path
) -> None:
    """As at a start: what it does not have stays, and what an operator removed stays removed."""
    locations = LocationsFile(tmp_path / "locations.yaml")
    locations.write(one="east", two="east", three="east")
    environ = {"RESOLVER_REDIS_URL": own_redis.url, "RESOLVER_ADMIN_TOKENS": TOKEN}
    options = ("--workers", str(workers), "--locations", str(locations.file))
    async with serve(*options, "--role", "gateway", **environ) as server:

        async def are(**expected: str) -> bool:
            return await regions(server) == expected

        await wait_until(lambda: are(one="east", two="east", three="east"))
        await change(server, "DELETE", "three")
        await change(server, "PUT", "by-hand", url="https://by-hand.example")
        locations.write(one="west", three="west", four="west")
        server.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: are(one="west", two="east", four="west", **{"by-hand": ""}))
        assert "startup locations registered" in server.output

        locations.file.write_text("locations: {one: {url: ftp://one.example}}")
        server.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: "the old settings stay" in server.output)
        assert f"locations file {locations.file}: one: " in server.output
        assert await are(one="west", two="east", four="west", **{"by-hand": ""})
