"""What clients that mean no good cost, and what others notice of them.

``python -m benchmarks.hostile`` plays storms, each against a gateway of its own on a real Redis.
Meanwhile a client in another process asks for a known image every 2 ms, on one connection. For each
storm: the gateway's resident memory before, at its highest and afterwards, its processor time, and
how long that client waited.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.common import (
    RedisServer,
    arguments,
    err,
    machine,
    out,
    cpu_seconds,
    sorted_ids,
    table,
    text_id,
)
from benchmarks.serve import fill, gateway

IMAGES = 200_000
PATIENCE = 5
"""RESOLVER_CLIENT_TIMEOUT, so that a storm is over soon."""
BULK = 10_000
TOKEN = "benchmark"

Storm = Callable[["Attacker"], Awaitable[None]]


def resident(pid: int) -> float:
    """Megabytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def honest(port: int, ids: list[str], stop: Any, found: Any) -> None:
    """Asks for known images until it is told to stop; gives the seconds that each took."""
    taken: list[float] = []
    with socket.create_connection(("127.0.0.1", port)) as one:
        while not stop.is_set():
            image = ids[len(taken) % len(ids)]
            begun = time.perf_counter()
            one.sendall(f"GET /v2/images/{image} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
            if not (answer := one.recv(65536)).startswith(b"HTTP/1.1 307 "):
                raise RuntimeError(f"{image}: {answer!r}")
            taken.append(time.perf_counter() - begun)
            time.sleep(0.002)
    found.put(sorted(taken))


class Attacker:
    def __init__(self, port: int, ids: list[str], *, small: bool) -> None:
        self.port = port
        self.ids = ids
        self.small = small

    def number(self, most: int) -> int:
        return most // 20 if self.small else most

    @asynccontextmanager
    async def lines(self, count: int, **options: Any) -> AsyncIterator[list[socket.socket]]:
        """So many connections."""
        loop = asyncio.get_running_loop()
        lines: list[socket.socket] = []
        try:
            for _ in range(count):
                one = socket.socket()
                one.setblocking(False)
                if size := options.get("receive_buffer"):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
                lines.append(one)
                await loop.sock_connect(one, ("127.0.0.1", self.port))
            yield lines
        finally:
            for one in lines:
                one.close()

    @staticmethod
    def put(one: socket.socket, data: bytes) -> None:
        with suppress(OSError):
            one.send(data)

    def bulk(self) -> bytes:
        body = "\n".join(self.ids[:BULK]).encode()
        head = f"POST /resolve HTTP/1.1\r\nHost: g\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


async def quiet(_: Attacker) -> None:
    await asyncio.sleep(PATIENCE)


async def silent(attacker: Attacker) -> None:
    async with attacker.lines(attacker.number(10_000)):
        await asyncio.sleep(PATIENCE + 3)


async def idle(attacker: Attacker) -> None:
    """After a request each, so that they may stay."""
    async with attacker.lines(attacker.number(10_000)) as lines:
        for number, one in enumerate(lines):
            attacker.put(one, b"GET /livez HTTP/1.1\r\nHost: g\r\n\r\n")
            if number % 100 == 0:
                await asyncio.sleep(0.01)
        await asyncio.sleep(PATIENCE + 3)


async def dripping(attacker: Attacker, count: int, first: bytes, then: bytes) -> None:
    async with attacker.lines(attacker.number(count)) as lines:
        for one in lines:
            attacker.put(one, first)
        for _ in range(PATIENCE + 3):
            for number, one in enumerate(lines):
                attacker.put(one, then)
                if number % 500 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(1)


async def heads(attacker: Attacker) -> None:
    await dripping(attacker, 9_000, b"GET /livez HTTP/1.1\r\nX-A: ", b"x")


async def large_heads(attacker: Attacker) -> None:
    field = b"X-A: " + b"x" * 16_000 + b"\r\n"
    await dripping(attacker, 2_000, b"GET /livez HTTP/1.1\r\n" + 2 * field, b"x")


async def bodies(attacker: Attacker) -> None:
    await dripping(
        attacker,
        2_000,
        b"POST /resolve HTTP/1.1\r\nHost: g\r\nContent-Length: 400000\r\n\r\n",
        b"1",
    )


async def large_bodies(attacker: Attacker) -> None:
    request = attacker.bulk()
    async with attacker.lines(attacker.number(400)) as lines:
        loop = asyncio.get_running_loop()
        for one in lines:
            with suppress(OSError):
                await loop.sock_sendall(one, request[:-1])
        await asyncio.sleep(PATIENCE + 3)


async def unread_bulks(attacker: Attacker) -> None:
    request = attacker.bulk()
    async with attacker.lines(attacker.number(400), receive_buffer=4096) as lines:
        loop = asyncio.get_running_loop()
        for one in lines:
            with suppress(OSError):
                await loop.sock_sendall(one, request)
        for _ in range(PATIENCE + 3):
            for one in lines:
                with suppress(OSError):
                    one.recv(1)
            await asyncio.sleep(1)


async def unread_exports(attacker: Attacker) -> None:
    request = f"GET /index/export HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    async with attacker.lines(attacker.number(100), receive_buffer=4096) as lines:
        for one in lines:
            attacker.put(one, request.encode())
        await asyncio.sleep(PATIENCE + 3)


async def unread_redirects(attacker: Attacker) -> None:
    ahead = "".join(
        f"GET /v2/images/{image} HTTP/1.1\r\nHost: g\r\n\r\n" for image in attacker.ids[:500]
    ).encode()
    async with attacker.lines(attacker.number(100), receive_buffer=4096) as lines:
        until = time.monotonic() + PATIENCE + 3
        while time.monotonic() < until:
            for one in lines:
                attacker.put(one, ahead)
            await asyncio.sleep(0.1)


async def unknown_ids(attacker: Attacker) -> None:
    until = time.monotonic() + PATIENCE
    async with attacker.lines(64) as lines:
        loop, number = asyncio.get_running_loop(), 0

        async def ask(one: socket.socket) -> None:
            nonlocal number
            while time.monotonic() < until:
                number += 1
                image = f"ffffffff-0000-4000-8000-{number:012d}"
                request = f"GET /v2/images/{image} HTTP/1.1\r\nHost: g\r\n\r\n"
                await loop.sock_sendall(one, request.encode())
                await loop.sock_recv(one, 65536)

        await asyncio.gather(*map(ask, lines))


async def come_and_go(attacker: Attacker) -> None:
    """Connections that are opened and closed, half of them behind a malformed request."""
    until, number = time.monotonic() + PATIENCE, 0
    while time.monotonic() < until:
        async with attacker.lines(50) as lines:
            for one in lines:
                number += 1
                if number % 2:
                    attacker.put(one, b"\0" * 100)
        await asyncio.sleep(0.01)


STORMS: dict[str, tuple[str, Storm]] = {
    "none": ("none", quiet),
    "silent": ("10,000 connections that say nothing", silent),
    "idle": ("10,000 that ask once and stay", idle),
    "heads": ("9,000 heads, a byte a second", heads),
    "large-heads": ("2,000 heads of 32 kB without end", large_heads),
    "bodies": ("2,000 bodies, a byte a second", bodies),
    "large-bodies": ("400 bulk bodies but for a byte", large_bodies),
    "answers": ("400 bulk answers, read a byte a second", unread_bulks),
    "exports": ("100 exports that nobody reads", unread_exports),
    "ahead": ("100 that ask ahead and read nothing", unread_redirects),
    "unknown": ("64 that ask for unknown ids", unknown_ids),
    "junk": ("connections that come, send junk and go", come_and_go),
}


async def play(
    port: int, pid: int, attacker: Attacker, storm: Storm
) -> tuple[float, float, float, float, list[float]]:
    stop, found = multiprocessing.Event(), multiprocessing.Queue()
    client = multiprocessing.Process(
        target=honest, args=(port, attacker.ids[:1000], stop, found), daemon=True
    )
    client.start()
    await asyncio.sleep(0.5)
    before, used, most = resident(pid), cpu_seconds(pid), 0.0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, resident(pid))
            await asyncio.sleep(0.05)

    async with AsyncExitStack() as stack:
        watching = asyncio.create_task(watch())
        stack.callback(watching.cancel)
        await storm(attacker)
    used = cpu_seconds(pid) - used
    stop.set()
    taken = await asyncio.to_thread(found.get, True, 30)
    client.join()
    await asyncio.sleep(1)
    return before, most, resident(pid), used, taken


async def measure(redis: RedisServer, parts: Sequence[str], *, small: bool) -> None:
    ids = sorted_ids(IMAGES // 20 if small else IMAGES)
    settings = {"CLIENT_TIMEOUT": str(PATIENCE), "ADMIN_TOKENS": TOKEN, "PROBE_TIMEOUT": "1"}
    columns = ("storm", "MB before", "most", "after", "CPU s", "p50 ms", "p99", "max")
    rows = make_table("What a client that asks for known images notices", *columns)
    for name in parts:
        title, storm = STORMS[name]
        err.print(title)
        with gateway(redis.url, None, settings=settings) as (port, pid):
            if not rows.row_count:
                await fill(redis, ids, strings=False)
            attacker = Attacker(port, [text_id(raw) for raw in ids], small=small)
            before, most, after, used, taken = await play(port, pid, attacker, storm)
        waits = taken[len(taken) // 2], taken[len(taken) * 99 // 100], taken[-1]
        rows.add_row(
            title,
            *(f"{value:.0f}" for value in (before, most, after)),
            f"{used:.1f}",
            *(f"{1000 * value:.1f}" for value in waits),
        )
    out.print(rows)


def main() -> None:
    given = parse_arguments(__doc__, parts=list(STORMS))
    out.print(f"benchmarks.hostile: {describe_machine()}")
    with RedisServer() as redis:
        asyncio.run(measure(redis, given.parts, small=given.small))


if __name__ == "__main__":
    main()
