"""What hostile clients cost the gateway, and how much they slow down other clients.

``python -m benchmarks.hostile`` runs attacks, each against a gateway of its own with a real Redis.
Meanwhile a client in another process requests a known image every 2 ms on one connection. For each
attack it prints the gateway's resident memory (before, at most and afterwards), its processor time,
and the latencies of that client.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NamedTuple

from benchmarks.common import (
    err,
    make_table,
    out,
    parse_arguments,
    percentile,
    sorted_ids,
    text_id,
)
from benchmarks.gateway_process import fill_index, run_gateway
from benchmarks.machine import cpu_seconds, describe_machine, resident_mib
from benchmarks.redis_server import RedisServer

IMAGES = 200_000
CLIENT_TIMEOUT_SECONDS = 5
"""RESOLVER_CLIENT_TIMEOUT: short, so that an attack is over soon."""

ATTACK_SECONDS = CLIENT_TIMEOUT_SECONDS + 3
"""Long enough to see the timeout at work."""

BULK_IDS = 10_000
TOKEN = "benchmark"

SMALL_DIVISOR = 20
"""With ``--small`` there are that many times fewer images and connections."""

PIPELINED_REQUESTS = 500
CLIENT_PAUSE_SECONDS = 0.002
MEMORY_POLL_SECONDS = 0.05
SMALL_BUFFER_BYTES = 4096

Attack = Callable[["Attacker"], Awaitable[None]]


def run_client(port: int, ids: list[str], stop: Any, results: Any) -> None:
    """The process of the client that others must not slow down. Requests known images until the
    event ``stop`` is set, and puts the sorted latencies, in seconds, into the queue ``results``."""
    latencies: list[float] = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while not stop.is_set():
            image = ids[len(latencies) % len(ids)]
            started = time.perf_counter()
            connection.sendall(f"GET /v2/images/{image} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
            if not (answer := connection.recv(65536)).startswith(b"HTTP/1.1 307 "):
                raise RuntimeError(f"{image}: {answer!r}")
            latencies.append(time.perf_counter() - started)
            time.sleep(CLIENT_PAUSE_SECONDS)
    results.put(sorted(latencies))


class Attacker:
    """What attacks need: connections to the gateway, and requests."""

    def __init__(self, port: int, ids: list[str], *, small: bool) -> None:
        """``ids``: known images."""
        self.port = port
        self.ids = ids
        self.small = small

    def scaled(self, count: int) -> int:
        """A number of connections, smaller with ``--small``."""
        return count // SMALL_DIVISOR if self.small else count

    @asynccontextmanager
    async def connect(
        self, count: int, *, receive_buffer: int | None = None
    ) -> AsyncIterator[list[socket.socket]]:
        """Opens connections, and closes them at the end. ``receive_buffer`` in bytes."""
        loop = asyncio.get_running_loop()
        connections: list[socket.socket] = []
        try:
            for _ in range(count):
                connection = socket.socket()
                connection.setblocking(False)
                if receive_buffer is not None:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
                connections.append(connection)
                await loop.sock_connect(connection, ("127.0.0.1", self.port))
            yield connections
        finally:
            for connection in connections:
                connection.close()

    def bulk_request(self) -> bytes:
        body = "\n".join(self.ids[:BULK_IDS]).encode()
        head = f"POST /resolve HTTP/1.1\r\nHost: g\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


def send(connection: socket.socket, data: bytes) -> None:
    """Sends what the kernel takes at once. The gateway may have closed the connection."""
    with suppress(OSError):
        connection.send(data)


async def send_all(connections: list[socket.socket], data: bytes) -> None:
    """Sends data on each connection completely, unless the gateway closes it."""
    loop = asyncio.get_running_loop()
    for connection in connections:
        with suppress(OSError):
            await loop.sock_sendall(connection, data)


async def no_attack(_: Attacker) -> None:
    await asyncio.sleep(CLIENT_TIMEOUT_SECONDS)


async def silent_connections(attacker: Attacker) -> None:
    async with attacker.connect(attacker.scaled(10_000)):
        await asyncio.sleep(ATTACK_SECONDS)


async def idle_connections(attacker: Attacker) -> None:
    """Each sends one request first, so it may stay for the keep-alive time."""
    async with attacker.connect(attacker.scaled(10_000)) as connections:
        for number, connection in enumerate(connections):
            send(connection, b"GET /livez HTTP/1.1\r\nHost: g\r\n\r\n")
            if number % 100 == 0:
                await asyncio.sleep(0.01)
        await asyncio.sleep(ATTACK_SECONDS)


async def drip(attacker: Attacker, count: int, first: bytes, each_second: bytes) -> None:
    """Sends the beginning of a request on each connection, then a little every second."""
    async with attacker.connect(attacker.scaled(count)) as connections:
        for connection in connections:
            send(connection, first)
        for _ in range(ATTACK_SECONDS):
            for number, connection in enumerate(connections):
                send(connection, each_second)
                if number % 500 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(1)


async def slow_heads(attacker: Attacker) -> None:
    await drip(attacker, 9_000, b"GET /livez HTTP/1.1\r\nX-A: ", b"x")


async def large_heads(attacker: Attacker) -> None:
    field = b"X-A: " + b"x" * 16_000 + b"\r\n"
    await drip(attacker, 2_000, b"GET /livez HTTP/1.1\r\n" + 2 * field, b"x")


async def slow_bodies(attacker: Attacker) -> None:
    head = b"POST /resolve HTTP/1.1\r\nHost: g\r\nContent-Length: 400000\r\n\r\n"
    await drip(attacker, 2_000, head, b"1")


async def incomplete_bulk_bodies(attacker: Attacker) -> None:
    request = attacker.bulk_request()
    async with attacker.connect(attacker.scaled(400)) as connections:
        await send_all(connections, request[:-1])
        await asyncio.sleep(ATTACK_SECONDS)


async def slowly_read_bulks(attacker: Attacker) -> None:
    request = attacker.bulk_request()
    count = attacker.scaled(400)
    async with attacker.connect(count, receive_buffer=SMALL_BUFFER_BYTES) as connections:
        await send_all(connections, request)
        for _ in range(ATTACK_SECONDS):
            for connection in connections:
                with suppress(OSError):
                    connection.recv(1)
            await asyncio.sleep(1)


async def unread_exports(attacker: Attacker) -> None:
    request = f"GET /index/export HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    count = attacker.scaled(100)
    async with attacker.connect(count, receive_buffer=SMALL_BUFFER_BYTES) as connections:
        for connection in connections:
            send(connection, request.encode())
        await asyncio.sleep(ATTACK_SECONDS)


async def unread_redirects(attacker: Attacker) -> None:
    pipelined = "".join(
        f"GET /v2/images/{image} HTTP/1.1\r\nHost: g\r\n\r\n"
        for image in attacker.ids[:PIPELINED_REQUESTS]
    ).encode()
    count = attacker.scaled(100)
    async with attacker.connect(count, receive_buffer=SMALL_BUFFER_BYTES) as connections:
        deadline = time.monotonic() + ATTACK_SECONDS
        while time.monotonic() < deadline:
            for connection in connections:
                send(connection, pipelined)
            await asyncio.sleep(0.1)


async def unknown_ids(attacker: Attacker) -> None:
    deadline = time.monotonic() + CLIENT_TIMEOUT_SECONDS
    async with attacker.connect(64) as connections:
        loop, number = asyncio.get_running_loop(), 0

        async def request_unknown(connection: socket.socket) -> None:
            nonlocal number
            while time.monotonic() < deadline:
                number += 1
                image = f"ffffffff-0000-4000-8000-{number:012d}"
                request = f"GET /v2/images/{image} HTTP/1.1\r\nHost: g\r\n\r\n"
                await loop.sock_sendall(connection, request.encode())
                await loop.sock_recv(connection, 65536)

        await asyncio.gather(*map(request_unknown, connections))


async def short_connections(attacker: Attacker) -> None:
    """Opens and closes connections; half of them send a malformed request."""
    deadline, number = time.monotonic() + CLIENT_TIMEOUT_SECONDS, 0
    while time.monotonic() < deadline:
        async with attacker.connect(50) as connections:
            for connection in connections:
                number += 1
                if number % 2:
                    send(connection, b"\0" * 100)
        await asyncio.sleep(0.01)


ATTACKS: dict[str, tuple[str, Attack]] = {
    "none": ("none", no_attack),
    "silent": ("10,000 connections that send nothing", silent_connections),
    "idle": ("10,000 connections with one request each", idle_connections),
    "heads": ("9,000 heads, a byte a second", slow_heads),
    "large-heads": ("2,000 heads of 32 kB without end", large_heads),
    "bodies": ("2,000 bodies, a byte a second", slow_bodies),
    "large-bodies": ("400 bulk bodies that lack one byte", incomplete_bulk_bodies),
    "answers": ("400 bulk answers, read a byte a second", slowly_read_bulks),
    "exports": ("100 exports that nobody reads", unread_exports),
    "ahead": ("100 that pipeline requests and read nothing", unread_redirects),
    "unknown": ("64 connections with unknown ids", unknown_ids),
    "junk": ("short connections, half with junk", short_connections),
}
"""By the name on the command line: the title in the table, and the attack."""


class AttackResult(NamedTuple):
    """Memory in MiB, processor time in seconds, and sorted latencies in seconds."""

    memory_before: float
    memory_peak: float
    memory_after: float
    cpu: float
    latencies: list[float]


async def run_attack(port: int, pid: int, attacker: Attacker, attack: Attack) -> AttackResult:
    stop = multiprocessing.Event()
    results: multiprocessing.Queue[list[float]] = multiprocessing.Queue()
    client = multiprocessing.Process(
        target=run_client, args=(port, attacker.ids[:1000], stop, results), daemon=True
    )
    client.start()
    await asyncio.sleep(0.5)  # the client has sent some requests
    memory_before, cpu_before, memory_peak = resident_mib(pid), cpu_seconds(pid), 0.0

    async def watch_memory() -> None:
        nonlocal memory_peak
        while True:
            memory_peak = max(memory_peak, resident_mib(pid))
            await asyncio.sleep(MEMORY_POLL_SECONDS)

    async with AsyncExitStack() as stack:
        watcher = asyncio.create_task(watch_memory())
        stack.callback(watcher.cancel)
        await attack(attacker)
    cpu = cpu_seconds(pid) - cpu_before
    stop.set()
    latencies = await asyncio.to_thread(results.get, True, 30)
    client.join()
    await asyncio.sleep(1)  # the gateway has closed the attacker's connections
    return AttackResult(memory_before, memory_peak, resident_mib(pid), cpu, latencies)


async def measure(redis: RedisServer, names: Sequence[str], *, small: bool) -> None:
    ids = sorted_ids(IMAGES // SMALL_DIVISOR if small else IMAGES)
    settings = {
        "CLIENT_TIMEOUT": str(CLIENT_TIMEOUT_SECONDS),
        "ADMIN_TOKENS": TOKEN,
        "PROBE_TIMEOUT": "1",
    }
    columns = ("attack", "MiB before", "most", "after", "CPU s", "p50 ms", "p99", "max")
    rows = make_table("Latency of a client that requests known images", *columns)
    for name in names:
        title, attack = ATTACKS[name]
        err.print(title)
        with run_gateway(redis.url, None, settings=settings) as (port, pid):
            if not rows.row_count:  # the gateway has registered the location
                await fill_index(redis, ids, strings=False)
            attacker = Attacker(port, [text_id(image_id) for image_id in ids], small=small)
            result = await run_attack(port, pid, attacker, attack)
        memory = (result.memory_before, result.memory_peak, result.memory_after)
        latencies = [percentile(result.latencies, share) for share in (0.5, 0.99, 1.0)]
        rows.add_row(
            title,
            *(f"{value:.0f}" for value in memory),
            f"{result.cpu:.1f}",
            *(f"{1000 * seconds:.1f}" for seconds in latencies),
        )
    out.print(rows)


def main() -> None:
    options = parse_arguments(__doc__, parts=list(ATTACKS))
    out.print(f"benchmarks.hostile: {describe_machine()}")
    with RedisServer() as redis:
        asyncio.run(measure(redis, options.parts, small=options.small))


if __name__ == "__main__":
    main()
