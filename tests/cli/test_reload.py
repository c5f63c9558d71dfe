"""SIGHUP without workers: new settings in the same process, and no request is lost."""

from __future__ import annotations

import asyncio
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
        assert await base_url(server) == "https://before.example"
        config.reload(server, "port = 1", 'log_level = "debug"')
        await wait_until(lambda: "settings read again" in server.output)
        assert "RESOLVER_PORT changes only with a restart" not in server.output, "--port wins"
        assert await base_url(server) == server.url


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
