"""`serve`, `demo` and `healthcheck` as separate processes: what users type and see."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

import aiohttp
import pytest

from resolver.standin import StandIn
from tests.support.process import free_port
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

LISTENS_AT = re.compile(r"listens at (https?://\S+)")


class Server:
    """A running `glance-resolver serve`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.url = ""

    async def read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode())
            if match := LISTENS_AT.search(self.lines[-1]):
                self.url = match[1]

    @property
    def output(self) -> str:
        return "".join(self.lines)


async def command(
    *arguments: str, stderr: int | IO[bytes] = asyncio.subprocess.PIPE, **environ: str
) -> asyncio.subprocess.Process:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RESOLVER_") or name.startswith("RESOLVER_SECRET_")
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "resolver",
        *arguments,
        env={**environment, **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )


async def run(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """Runs a command to its end: (exit status, standard output, standard error)."""
    process = await command(*arguments, **environ)
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@asynccontextmanager
async def serve(
    *arguments: str, options: tuple[str, ...] = ("--port", "0"), **environ: str
) -> AsyncIterator[Server]:
    process = await command("serve", *options, *arguments, **environ)
    server = Server(process)
    reader = asyncio.create_task(server.read())
    try:
        await wait_until(lambda: server.url or process.returncode is not None)
        assert server.url, server.output
        yield server
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reader


async def get(url: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.get(url, allow_redirects=False) as reply:
        is_json = reply.content_type.endswith("json")
        return reply.status, await reply.json(content_type=None) if is_json else reply.headers


async def found(server: Server, image: str) -> bool:
    return (await get(f"{server.url}/resolve/{image}"))[0] == 200


async def test_one_process_sweeps_and_answers() -> None:
    async with StandIn() as one, StandIn(prefix="/image") as two:
        first, second = one.add(name="a").id, two.add(name="b").id
        async with serve("--location", f"one={one.url}", "--location", f"two={two.url}") as server:
            await wait_until(lambda: found(server, second))
            status, headers = await get(f"{server.url}/v2/images/{first}")
            assert (status, headers["Location"]) == (307, f"{one.url}/v2/images/{first}")
            token = re.search(r"admin token for this run: (\S+)", server.output)
            assert token is not None
            status, out, _ = await run(
                "locations", "list", "--json", RESOLVER_URL=server.url, RESOLVER_TOKEN=token[1]
            )
            assert [row["url"] for row in json.loads(out)] == [one.url, two.url]


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_serving_continues_if_the_log_cannot_be_written(log_format: str) -> None:
    """From the start on: every write to standard error fails."""
    port = free_port()
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230 - it never waits
        process = await command(
            "serve", "--port", str(port), stderr=full, RESOLVER_LOG_FORMAT=log_format
        )
        try:

            async def answers() -> bool:
                assert process.returncode is None
                with suppress(aiohttp.ClientError):
                    path = f"/resolve/{uuid.uuid4()}"
                    return (await get(f"http://127.0.0.1:{port}{path}"))[0] == 503
                return False

            await wait_until(answers)
            assert await answers(), "also after the first request was logged"
        finally:
            process.kill()
            await process.wait()


@pytest.mark.redis
async def test_registry_and_index_survive_a_restart(redis_url: str) -> None:
    async with StandIn() as one:
        image = one.add(name="a").id
        environ = {"RESOLVER_REDIS_URL": redis_url, "RESOLVER_PROBE": "off"}
        async with serve("--location", f"one={one.url}", **environ) as server:
            await wait_until(lambda: found(server, image))
        one_url = one.url
    async with serve("--role", "gateway", RESOLVER_REDIS_URL=redis_url) as server:
        status, headers = await get(f"{server.url}/v2/images/{image}")
        assert (status, headers["Location"]) == (307, f"{one_url}/v2/images/{image}")


@pytest.mark.redis
async def test_separate_gateway_and_indexer(redis_url: str) -> None:
    environ = {
        "RESOLVER_REDIS_URL": redis_url,
        "RESOLVER_ADMIN_TOKENS": "ops=secret-1",
        "RESOLVER_PROBE": "off",  # so that an image is found only after a sweep
        "RESOLVER_POLL_INTERVAL": "0",
    }
    async with (
        StandIn() as one,
        serve("--role", "indexer", **environ) as indexer,
        serve("--role", "gateway", **environ) as gateway,
    ):
        image = one.add(name="a").id
        client = {"RESOLVER_URL": gateway.url, "RESOLVER_TOKEN": "secret-1"}
        status, _, err = await run("locations", "add", "one", one.url, **client)
        assert status == 0, err
        await wait_until(lambda: found(gateway, image))
        later = one.add(name="b").id
        status, out, err = await run("locations", "sweep", "one", "--wait", **client)
        assert (status, out) == (0, "one: 2 images, 1 claimed, 0 released\n"), err
        assert await found(gateway, later)
        assert (await get(f"{indexer.url}/readyz"))[0] == 200


async def test_requests_in_flight_are_answered_after_sigterm(tmp_path: Path) -> None:
    async with serve() as server, aiohttp.ClientSession() as http:
        sent = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b'["0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"'
            sent.set()
            await wait_until(lambda: "stopping" in server.output)
            yield b"]"

        request = asyncio.create_task(
            http.post(
                f"{server.url}/resolve", data=body(), headers={"Content-Type": "application/json"}
            )
        )
        await sent.wait()
        await wait_until(lambda: in_flight(server))
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        reply = await request
        assert reply.status == 200
        assert (await reply.json())[0]["outcome"] == "unknown"
        assert await server.process.wait() == 0
        assert time.monotonic() - started < 10
        with pytest.raises(aiohttp.ClientConnectionError):
            await get(f"{server.url}/livez")


async def in_flight(server: Server) -> bool:
    """Whether a request other than this one is being answered."""
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as reply:
        return "glance_resolver_requests_in_flight 2.0" in await reply.text()


@pytest.mark.parametrize(
    ("arguments", "environ", "status", "message"),
    [
        ((), {"RESOLVER_PROT": "1"}, 1, "unknown setting RESOLVER_PROT"),
        ((), {"RESOLVER_BULK_LIMIT": "x"}, 1, "RESOLVER_BULK_LIMIT: "),
        ((), {"RESOLVER_CONFIG": "/nowhere.toml"}, 1, "/nowhere.toml, which is not a file"),
        ((), {"RESOLVER_REDIS_URL": "mysql://x"}, 1, "RESOLVER_REDIS_URL"),
        ((), {"RESOLVER_ADMIN_TOKENS": "a"}, 1, "at least 6"),
        (("--location", "one"), {}, 2, "write NAME=URL"),
        (("--location", "one=ftp://x"), {}, 1, "location one: `url` must begin with http"),
        (("--location", "One=http://x"), {}, 1, "not a location name"),
        (("--locations", "/nowhere.yaml"), {}, 1, "/nowhere.yaml: No such file"),
        (("--role", "gateway"), {}, 1, "RESOLVER_REDIS_URL"),
        (("--port", "99999"), {}, 1, "RESOLVER_PORT"),
        (("--host", "203.0.113.1"), {}, 1, "cannot listen on 203.0.113.1"),
    ],
)
async def test_wrong_settings_are_one_clear_line_at_start(
    arguments: tuple[str, ...], environ: dict[str, str], status: int, message: str
) -> None:
    port = () if "--port" in arguments else ("--port", "0")
    code, _, err = await run("serve", *port, *arguments, **environ)
    assert code == status, err
    assert message in err
    assert "Traceback" not in err
    assert "hidden" not in err


@pytest.mark.redis
@pytest.mark.parametrize(
    "options",
    [
        ("--role", "all"),
        ("--role", "gateway"),
        ("--role", "indexer"),
        ("--role", "all", "--workers", "2"),
    ],
)
async def test_serve_starts_without_redis_and_recovers(
    own_redis: RedisServer, options: tuple[str, ...]
) -> None:
    own_redis.kill()
    text = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
    async with StandIn() as one:
        one.add(id=text)
        arguments = (*options, "--location", f"one={one.url}")
        async with serve(*arguments, RESOLVER_REDIS_URL=own_redis.url) as server:
            status, body = await get(f"{server.url}/readyz")
            assert status == 503
            assert "Redis did not answer" in str(body)
            assert "Traceback" not in server.output
            own_redis.start()

            async def ready() -> bool:
                return (await get(f"{server.url}/readyz"))[0] == 200

            await wait_until(ready, 10)
            if options[1] != "indexer":

                async def found() -> bool:
                    return (await get(f"{server.url}/v2/images/{text}"))[0] == 307

                await wait_until(found, 10)


async def test_demo() -> None:
    status, out, err = await run("demo", "--once", "--port", "0")
    assert status == 0, err
    assert "404 image-absent" in out
    for line in ("307 Location: http://127.0.0.1:", "found    5ca1ab1e-", "invalid  no-uuid"):
        assert line in out
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    shown = readme[readme.index("Two stand-in Glance servers:") :].partition("\n```")[0]
    assert without_chance(out).startswith(without_chance(shown)), "README.md shows another output"


def without_chance(output: str) -> str:
    """The demo's output without what differs between two runs: ids, ports, seconds."""
    output = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", output)
    return re.sub(r"(?<=127\.0\.0\.1:)\d+|(?<=swept in )[\d.]+", "N", output)


async def test_help_imports_no_server_library() -> None:
    """Help must be fast, so large libraries are imported only by the commands that need them."""
    code = (
        "import sys; from resolver.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'aiohttp', 'redis', 'pydantic', 'structlog', 'rich', 'yaml', 'fakeredis'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def test_a_gateway_starts_without_libraries_that_few_need() -> None:
    """Each takes memory of every process, and time at its start."""
    code = (
        "import sys, resolver.cli.serve_command, resolver.gateway.reloading\n"
        "few = {'yaml', 'xml.sax', 'difflib', 'openstack', 'aio_pika', 'fakeredis', 'gunicorn'}\n"
        "sys.exit(', '.join(few & set(sys.modules)) or 0)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
