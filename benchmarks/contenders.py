"""What the index is compared with: the same Redis commands sent directly, and other layouts."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from typing import Any, Self

import hiredis
import redis.asyncio

from benchmarks.common import text_id

Command = tuple[Any, ...]

OWNER = b"\x02"
"""Location 1 as the index encodes it (see `resolver.index.codec`)."""


def bucket_sets(ids: Iterable[bytes]) -> list[Command]:
    """Commands that store what an index of 16 bits has for ids of location 1."""
    return [
        ("HSET", b"glr:m:" + image_id[:2].hex().encode(), image_id[2:], OWNER) for image_id in ids
    ]


def bucket_gets(ids: Iterable[bytes]) -> list[Command]:
    return [("HGET", b"glr:m:" + image_id[:2].hex().encode(), image_id[2:]) for image_id in ids]


def string_sets(ids: Iterable[bytes]) -> list[Command]:
    return [("SET", text_id(image_id), b"1") for image_id in ids]


def string_gets(ids: Iterable[bytes]) -> list[Command]:
    return [("GET", text_id(image_id)) for image_id in ids]


def one_hash_sets(ids: Iterable[bytes]) -> list[Command]:
    return [("HSET", "images", text_id(image_id), b"1") for image_id in ids]


class RedisPyPipeline:
    """The asyncio pipeline of redis-py, without a transaction."""

    def __init__(self, url: str) -> None:
        self._client = redis.asyncio.Redis.from_url(url)

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        replies: list[Any] = await pipe.execute()
        return replies

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._client.aclose()


class HiredisSocket:
    """Commands packed by hiredis, written to a plain socket at once, and replies parsed by hiredis.

    No way in Python is faster: there is no event loop, no deadline and no reconnection.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        self._socket.sendall(b"".join([hiredis.pack_command(command) for command in commands]))
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is False:
                self._reader.feed(self._socket.recv(1 << 18))
            else:
                replies.append(reply)
        return replies

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
