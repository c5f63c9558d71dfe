"""`serve --workers N`: several processes that look like one."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.cli.test_serve import Server, get, run, serve
from tests.support.redis import RedisServer
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
TOKEN = "secret-1"
WORKERS = ("--workers", "2", "--role", "gateway", "--location", "one=https://one.example")


@pytest.fixture
def environ(redis_url: str) -> dict[str, str]:
    return {"RESOLVER_REDIS_URL": redis_url, "RESOLVER_ADMIN_TOKENS": TOKEN}


def workers(server: Server) -> set[int]:
    pid = server.process.pid
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(one) for one in text.split()}


def alive(pids: set[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def claim(server: Server) -> None:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http,
        http.put(f"{server.url}/locations/one/images/{ID}") as reply,
    ):
        assert reply.status == 201


async def redirects(server: Server) -> int:
    """How many redirects all workers have counted, by one scrape."""
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as reply:
        text = await reply.text()
    found = re.search(
        r'^glance_resolver_requests_total\{.*status="307"\} (\S+)', text, re.MULTILINE
    )
    return int(float(found[1])) if found else 0


class Client:
    """Asks again and again on one connection, and on another where it is told to."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._address = host, int(port)
        self.answered = 0
        self.stop = False

    async def run(self) -> None:
        while not self.stop:
            reader, writer = await asyncio.open_connection(*self._address)
            keep = True
            while keep and not self.stop:
                writer.write(f"GET /v2/images/{ID} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 307 ")
                self.answered += 1
                keep = b"Connection: close" not in head
                await asyncio.sleep(0.001)
            writer.close()
            await writer.wait_closed()


async def under_load(server: Server, work: Callable[[], None], done: Callable[[], bool]) -> int:
    """Does something while clients ask; each must get all its answers. Returns how many came."""
    clients = [Client(server.url) for _ in range(16)]
    asking = [asyncio.create_task(one.run()) for one in clients]
    await wait_until(lambda: all(one.answered > 20 for one in clients))
    work()
    await wait_until(done)
    before = sum(one.answered for one in clients)
    await wait_until(lambda: sum(one.answered for one in clients) > before + 500)
    for one in clients:
        one.stop = True
    await asyncio.gather(*asking)
    return sum(one.answered for one in clients)


async def test_all_answer_and_are_scraped_as_one(environ: dict[str, str]) -> None:
    async with serve(*WORKERS, **environ) as server:
        assert "2 workers" in server.output
        await claim(server)
        for _ in range(20):
            assert (await get(f"{server.url}/v2/images/{ID}"))[0] == 307
        for _ in range(4):  # whichever is asked
            assert await redirects(server) == 20
        text = (await run("config", "--json", **environ))[1]
        assert '"workers": 1' in text


async def test_one_that_dies_is_replaced_and_its_counts_stay(environ: dict[str, str]) -> None:
    async with serve(*WORKERS, **environ) as server:
        await claim(server)
        await wait_until(lambda: len(workers(server)) == 2)
        for _ in range(20):
            await get(f"{server.url}/v2/images/{ID}")
        assert await redirects(server) == 20
        before = workers(server)
        for victim in before:
            os.kill(victim, signal.SIGKILL)
            await wait_until(lambda gone=victim: len(workers(server) - {gone}) == 2)
        assert not workers(server) & before
        for _ in range(10):  # those that came for a dead one wait for its successor
            assert (await get(f"{server.url}/v2/images/{ID}"))[0] == 307
        assert await redirects(server) == 30


async def test_one_that_is_replaced_makes_no_empty_index(
    environ: dict[str, str], redis_server: RedisServer
) -> None:
    """Redis has lost its data, and nobody was given locations: an operator must register them."""
    async with serve("--workers", "2", "--role", "gateway", **environ) as server:
        await wait_until(lambda: len(workers(server)) == 2)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(server.url, headers=headers) as http:
            put = http.put("/locations/one", json={"url": "https://one.example"})
            async with put as reply:
                assert reply.status == 201
        await asyncio.sleep(1.5)  # both have seen it
        redis_server.flush()
        for victim in workers(server):
            os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: server.output.count("started without locations") >= 2)
        await asyncio.sleep(1)
        with redis_server.client() as client:
            assert client.keys("*meta*") == []


async def test_reload_loses_no_request(environ: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "resolver.toml"
    config.write_text('public_url = "https://before.example"\n')
    async with serve(*WORKERS, **environ, RESOLVER_CONFIG=str(config)) as server:
        await claim(server)
        await wait_until(lambda: len(workers(server)) == 2)
        before = workers(server)

        def reload() -> None:
            config.write_text('public_url = "https://after.example"\n')
            server.process.send_signal(signal.SIGHUP)

        def done() -> bool:
            return len(workers(server)) == 2 and not workers(server) & before

        answered = await under_load(server, reload, done)
        assert await redirects(server) == answered
        _, body = await get(f"{server.url}/v2")
        assert body["versions"][0]["links"][0]["href"].startswith("https://after.example/")
        config.write_text("bulk_limit = 0\n")
        again = workers(server)
        server.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: len(workers(server)) == 2 and not workers(server) & again)
        await wait_until(lambda: "the settings stay as they were" in server.output)
        _, body = await get(f"{server.url}/v2")
        assert body["versions"][0]["links"][0]["href"].startswith("https://after.example/")


async def test_sigterm_ends_all(environ: dict[str, str]) -> None:
    async with serve(*WORKERS, **environ) as server:
        await claim(server)
        await wait_until(lambda: len(workers(server)) == 2)
        pids = workers(server)
        async with aiohttp.ClientSession() as http:  # an idle connection holds nothing up
            await http.get(f"{server.url}/livez")
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(8):
                assert await server.process.wait() == 0
        assert not alive(pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals_to_all_let_requests_in_flight_be_answered(
    environ: dict[str, str], number: int
) -> None:
    """As ^C on a terminal does, or a service manager that signals the whole group."""
    async with serve(*WORKERS, **environ) as server:
        await claim(server)
        await wait_until(lambda: len(workers(server)) == 2)
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /resolve HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.3)
        for pid in (server.process.pid, *workers(server)):
            os.kill(pid, number)
        await asyncio.sleep(0.3)
        writer.write(f'["{ID}"]'.encode())
        assert (await reader.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(8):
            assert await server.process.wait() == 0


async def test_an_orphan_ends_by_itself(environ: dict[str, str]) -> None:
    async with serve(*WORKERS, **environ) as server:
        await wait_until(lambda: len(workers(server)) == 2)
        pids = workers(server)
        server.process.kill()
        await server.process.wait()
        await wait_until(lambda: not alive(pids))


async def test_an_address_in_use_is_said(environ: dict[str, str]) -> None:
    async with serve(*WORKERS, **environ) as server:
        port = server.url.rpartition(":")[2]
        status, _, err = await run("serve", "--port", port, "--workers", "2", **environ)
        assert status == 1
        assert f"cannot listen on 127.0.0.1 port {port}" in err


async def test_memory_takes_one_worker() -> None:
    status, _, err = await run("serve", "--port", "0", "--workers", "2")
    assert status == 1
    assert "needs a Redis to share" in err


async def test_what_a_killed_arbiter_leaves_is_removed_by_the_next(
    environ: dict[str, str], short_path: Path
) -> None:
    environ = {**environ, "TMPDIR": str(short_path)}

    def folders() -> list[Path]:
        return list(short_path.iterdir())

    async with serve(*WORKERS, **environ) as server:
        await wait_until(lambda: len(workers(server)) == 2)
        pids = workers(server)
        (left,) = folders()
        async with serve(*WORKERS, **environ) as other:
            assert left.exists(), "its processes live"
            server.process.kill()
            await server.process.wait()
            await wait_until(lambda: not alive(pids))
            assert left.exists()
            other.process.terminate()
            await other.process.wait()
            assert folders() == [left]
        async with serve(*WORKERS, **environ):
            (own,) = folders()
            assert own != left


async def test_a_temporary_folder_of_too_long_a_path_is_said(
    environ: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / ("x" * 80)
    folder.mkdir()
    status, _, err = await run(
        "serve", "--port", "0", "--workers", "2", **environ, TMPDIR=str(folder)
    )
    assert status == 1
    assert "set TMPDIR to another" in err
    assert os.listdir(folder) == []
