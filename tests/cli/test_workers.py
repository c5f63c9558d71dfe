"""`serve --workers N`: several processes behind one address."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.cli.test_serve import Server, get, in_flight, run, serve
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
    return {int(pid) for pid in text.split()}


def alive(pids: set[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def claim(server: Server) -> None:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http,
        http.put(f"{server.url}/locations/one/images/{ID}") as reply,
    ):
        assert reply.status == 201


async def redirects(server: Server) -> int:
    """Redirects counted by all workers together, in one scrape."""
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as reply:
        text = await reply.text()
    found = re.search(
        r'^glance_resolver_requests_total\{.*status="307"\} (\S+)', text, re.MULTILINE
    )
    return int(float(found[1])) if found else 0


def address(server: Server) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


class Client:
    """Sends requests on one connection until the gateway closes it, then on another."""

    def __init__(self, server: Server) -> None:
        self._address = address(server)
        self.answered = 0
        self.stop = False

    async def run(self) -> None:
        while not self.stop:
            reader, writer = await asyncio.open_connection(*self._address)
            keep_alive = True
            while keep_alive and not self.stop:
                writer.write(f"GET /v2/images/{ID} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 307 ")
                self.answered += 1
                keep_alive = b"Connection: close" not in head
                await asyncio.sleep(0.001)
            writer.close()
            await writer.wait_closed()


async def under_load(server: Server, work: Callable[[], None], done: Callable[[], bool]) -> int:
    """Does something while clients send requests, which must all be answered. Returns their
    number."""
    clients = [Client(server) for _ in range(16)]
    tasks = [asyncio.create_task(client.run()) for client in clients]

    def answered() -> int:
        return sum(client.answered for client in clients)

    await wait_until(lambda: all(client.answered > 20 for client in clients))
    work()
    await wait_until(done)
    before = answered()
    await wait_until(lambda: answered() > before + 500)
    for client in clients:
        client.stop = True
    await asyncio.gather(*tasks)
    return answered()


async def test_one_scrape_counts_all_workers(environ: dict[str, str]) -> None:
    async with serve(*WORKERS, **environ) as server:
        assert "2 workers" in server.output
        await claim(server)
        for _ in range(20):
            assert (await get(f"{server.url}/v2/images/{ID}"))[0] == 307
        for _ in range(4):  # different workers answer
            assert await redirects(server) == 20
        text = (await run("config", "--json", **environ))[1]
        assert '"workers": 1' in text


async def test_a_worker_that_dies_is_replaced_and_its_counts_stay(environ: dict[str, str]) -> None:
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
        for _ in range(10):  # connections to a dead worker wait for its replacement
            assert (await get(f"{server.url}/v2/images/{ID}"))[0] == 307
        assert await redirects(server) == 30


async def test_a_replacement_does_not_create_an_empty_index(
    environ: dict[str, str], redis_server: RedisServer
) -> None:
    """Redis has lost its data, and no locations were given at start: an operator must act."""
    async with serve("--workers", "2", "--role", "gateway", **environ) as server:
        await wait_until(lambda: len(workers(server)) == 2)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with aiohttp.ClientSession(server.url, headers=headers) as http:
            put = http.put("/locations/one", json={"url": "https://one.example"})
            async with put as reply:
                assert reply.status == 201
        await asyncio.sleep(1.5)  # until both workers have read it; they do so every second
        redis_server.flush()
        for victim in workers(server):
            os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: server.output.count("started without locations") >= 2)
        await asyncio.sleep(1)  # in which they would create it
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
        (line,) = [row for row in server.output.splitlines() if "settings read again" in row]
        assert "RESOLVER_PUBLIC_URL" in line
        _, body = await get(f"{server.url}/v2")
        assert body["versions"][0]["links"][0]["href"].startswith("https://after.example/")
        config.write_text("bulk_limit = 0\n")
        again = workers(server)
        server.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: "the old settings stay" in server.output)
        assert workers(server) == again
        _, status = await get(f"{server.url}/status")
        assert "reload-refused" in {problem["code"] for problem in status["problems"]}
        _, body = await get(f"{server.url}/v2")
        assert body["versions"][0]["links"][0]["href"].startswith("https://after.example/")


async def test_sigterm_ends_all_processes(environ: dict[str, str]) -> None:
    async with serve(*WORKERS, **environ) as server:
        await claim(server)
        await wait_until(lambda: len(workers(server)) == 2)
        pids = workers(server)
        async with aiohttp.ClientSession() as http:  # an idle connection delays nothing
            await http.get(f"{server.url}/livez")
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(8):
                assert await server.process.wait() == 0
        assert not alive(pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_requests_in_flight_are_answered_after_a_signal_to_all_processes(
    environ: dict[str, str], number: int
) -> None:
    """^C on a terminal signals the whole group, and so do some service managers."""
    async with serve(*WORKERS, **environ) as server:
        await claim(server)
        await wait_until(lambda: len(workers(server)) == 2)
        reader, writer = await asyncio.open_connection(*address(server))
        writer.write(b"POST /resolve HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n")
        await wait_until(lambda: in_flight(server))
        for pid in (server.process.pid, *workers(server)):
            os.kill(pid, number)
        await wait_until(lambda: refuses_connections(server))
        writer.write(f'["{ID}"]'.encode())
        assert (await reader.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(8):
            assert await server.process.wait() == 0


async def refuses_connections(server: Server) -> bool:
    try:
        _, writer = await asyncio.open_connection(*address(server))
    except ConnectionRefusedError:
        return True
    writer.transport.abort()
    return False


async def test_a_second_sigint_aborts_requests(environ: dict[str, str]) -> None:
    async with serve(*WORKERS, **environ) as server:
        await claim(server)
        await wait_until(lambda: len(workers(server)) == 2)
        _, writer = await asyncio.open_connection(*address(server))
        writer.write(b"POST /resolve HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n")
        await wait_until(lambda: in_flight(server))
        server.process.send_signal(signal.SIGINT)
        await wait_until(lambda: refuses_connections(server))
        server.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(4):  # RESOLVER_SHUTDOWN_TIMEOUT is 10 s
            assert await server.process.wait() == 0
        writer.close()


async def test_a_worker_without_an_arbiter_exits(environ: dict[str, str]) -> None:
    async with serve(*WORKERS, **environ) as server:
        await wait_until(lambda: len(workers(server)) == 2)
        pids = workers(server)
        server.process.kill()
        await server.process.wait()
        await wait_until(lambda: not alive(pids))


async def test_an_address_in_use_is_an_error(environ: dict[str, str]) -> None:
    async with serve(*WORKERS, **environ) as server:
        port = server.url.rpartition(":")[2]
        status, _, err = await run("serve", "--port", port, "--workers", "2", **environ)
        assert status == 1
        assert f"cannot listen on 127.0.0.1 port {port}" in err


async def test_the_memory_index_allows_one_worker() -> None:
    status, _, err = await run("serve", "--port", "0", "--workers", "2")
    assert status == 1
    assert "needs a Redis to share" in err


async def test_the_folder_of_a_killed_arbiter_is_removed_by_the_next(
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
            assert left.exists(), "its processes are alive"
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


async def test_a_temporary_folder_with_a_path_that_is_too_long_is_an_error(
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
