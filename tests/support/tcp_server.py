"""A server on loopback whose connections a test handles itself."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from resolver.task_groups import end_all

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Calls ``serve`` for each connection. Gives the base URL. At the end, all are closed: also
    those that have just come, for which ``serve`` has not begun."""
    serving: set[asyncio.Task[None]] = set()
    writers: set[asyncio.StreamWriter] = set()
    has_ended = False

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if has_ended:  # it was accepted before
            writer.transport.abort()
            return
        writers.add(writer)
        task = asyncio.ensure_future(serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls) as listener:
        port = listener.sockets[0].getsockname()[1]
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        finally:
            has_ended = True
            await end_all(serving)
            for writer in writers:
                writer.transport.abort()
