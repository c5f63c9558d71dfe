"""What answers in place of a Redis or of a Sentinel costs one question, and holds no connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from resolver.errors import IndexUnavailable
from resolver.index import RedisTimeouts, open_index
from tests.support.wait import wait_until

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

PUSH = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n"


class Endless:
    """A server that answers a first request with the same bytes for as long as they are read."""

    def __init__(self, content: bytes) -> None:
        self._content = content * (65_536 // len(content))

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.read(65_536):
                while not writer.is_closing():
                    writer.write(self._content)
                    await writer.drain()
        writer.transport.abort()


@asynccontextmanager
async def listening(server: Handler) -> AsyncIterator[str]:
    """Host and port."""
    listener = await asyncio.start_server(server, "127.0.0.1", 0)
    async with listener:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"


CONTENTS = {
    "integers": b":1\r\n",
    "no line": b"a",
    "moved": b"-MOVED 1 127.0.0.1:1\r\n",
    "pushes": PUSH,
    "nested": b"*1\r\n",
    "attributes": b"|1\r\n+a\r\n:1\r\n",
    "streamed": b"$?\r\n",
}
FORMS = ("redis://{}/0", "redis+cluster://{}", "redis+sentinel://{}/main")
# hiredis 3.5 crashes when it makes exceptions of redis-py of some replies, as for Sentinels.
CASES = [(f, c) for f in FORMS for c in CONTENTS if (f, c) != (FORMS[2], "moved")]


@pytest.mark.parametrize(("form", "content"), CASES)
async def test_replies_without_end_are_an_outage(form: str, content: str) -> None:
    timeouts = RedisTimeouts(connect=0.5, reply=0.5)
    async with (
        listening(Endless(CONTENTS[content])) as address,
        open_index(form.format(address), create=False, timeouts=timeouts) as index,
    ):
        for _ in range(2):
            with pytest.raises(IndexUnavailable):
                await index.ping()


async def test_connections_to_sentinels_are_closed_when_the_time_to_close_has_passed() -> None:
    """This process was busy, or a server hangs."""
    connections: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        while await reader.read(65_536):
            writer.write(b"*0\r\n")  # it knows no master
        connections.discard(writer)
        writer.close()

    timeouts = RedisTimeouts(connect=0.5, reply=0.5)
    async with listening(answer) as address:
        url = f"redis+sentinel://{address},{address}/main"
        async with open_index(url, create=False, timeouts=timeouts) as index:
            with pytest.raises(IndexUnavailable):
                await index.ping()
            assert len(connections) >= 2
            asyncio.get_running_loop().call_soon(time.sleep, 0.6)
        await wait_until(lambda: not connections)
        assert index is not None  # it is not closed because nobody uses it any more
