"""Counts what one request touches: files and functions of the package, commands in Redis.

    python -m benchmarks.trips

Functions that run on the event loop's thread, from the request until its response has arrived; the
least of ten requests. Commands are those that Redis counts, those in scripts among them, and the
PING that ends each batch.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, NamedTuple

import redis

from resolver import logs
from resolver.gateway.server import serving
from resolver.models import parse_id
from resolver.services import open_services
from resolver.settings import Settings
from tests.support.redis import RedisServer

TOKEN = "trips-token"
REPETITIONS = 10
IDS = [f"5ca1ab1e-0000-4000-8000-{number:012x}" for number in range(4 * REPETITIONS)]

Action = Callable[[], Awaitable[Any]]


class Trip(NamedTuple):
    calls: int
    files: int
    commands: int


def commands_run(server: redis.Redis) -> int:
    return sum(int(row["calls"]) for row in server.info("commandstats").values())


async def count(server: redis.Redis, action: Action) -> Trip:
    trips = []
    for _ in range(REPETITIONS):
        await asyncio.sleep(0.05)  # until what the request before left behind is done
        called: list[str] = []

        def profile(frame: FrameType, event: str, _: Any, called: list[str] = called) -> None:
            if event == "call" and "/resolver/" in frame.f_code.co_filename:
                called.append(frame.f_code.co_filename)

        before = commands_run(server)
        sys.setprofile(profile)
        try:
            await action()
        finally:
            sys.setprofile(None)
        commands = commands_run(server) - before - 1  # the INFO before
        trips.append(Trip(len(called), len(set(called)), commands))
    return min(trips)


def get(connection: socket.socket, path: str) -> None:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: trips\r\n\r\n".encode())
    connection.recv(65536)


def put(port: int, name: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = json.dumps({"url": f"http://127.0.0.1:9/{name}"})  # where nothing listens
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    connection.request("PUT", f"/locations/{name}", body, headers)
    assert connection.getresponse().status == 201


async def main() -> None:
    redis_server = RedisServer().start()
    settings = Settings(
        redis_url=redis_server.url,
        role="gateway",
        port=0,
        probe=False,
        admin_tokens=(f"ops={TOKEN}",),
    )
    logs.configure(level="error", log_format="text")
    trips: dict[str, Trip] = {}
    async with open_services(settings) as services, serving(services) as url:
        await services.registry.put("one", {"url": "http://one.example:9292"})
        for text in IDS:
            await services.registry.claim("one", parse_id(text), 0)
        port = int(url.rpartition(":")[2])
        server = redis.Redis.from_url(redis_server.url)
        connection = socket.create_connection(("127.0.0.1", port))
        ids = iter(IDS)
        for path in ("/v2/images/{}", "/resolve/{}"):
            known = path.format(next(ids))
            get_known = partial_thread(get, connection, known)
            await get_known()
            trips[f"GET {path.format('<ID>')}, owners cached"] = await count(server, get_known)

            async def get_next(path: str = path) -> None:
                await asyncio.to_thread(get, connection, path.format(next(ids)))

            trips[f"GET {path.format('<ID>')}, owners in Redis"] = await count(server, get_next)
        names = (f"new{number}" for number in range(REPETITIONS))

        async def put_next() -> None:
            await asyncio.to_thread(put, port, next(names))

        trips["PUT /locations/<NAME>"] = await count(server, put_next)
    redis_server.kill()
    print("| request | files | functions | commands in Redis |\n|---|---|---|---|")
    for label, trip in trips.items():
        print(f"| `{label}` | {trip.files} | {trip.calls} | {trip.commands} |")


def partial_thread(function: Callable[..., None], *arguments: Any) -> Action:
    async def run() -> None:
        await asyncio.to_thread(function, *arguments)

    return run


if __name__ == "__main__":
    asyncio.run(main())
