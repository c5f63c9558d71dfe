"""The one private name of redis-py that the index uses is still there."""

from __future__ import annotations

import asyncio

import redis.asyncio

from resolver.index.redis.transport import transport_of


class Collector(asyncio.Protocol):
    def __init__(self) -> None:
        self.received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.received.set_result(data)


async def test_an_open_connection_has_a_transport_that_accepts_another_protocol() -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers what redis-py sends when it connects, and echoes everything else."""
        while data := await reader.read(1000):
            commands = data.count(b"CLIENT")
            writer.write(b"+OK\r\n" * commands if commands else data)
        writer.close()
        await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        connection = redis.asyncio.Connection(host=host, port=port, protocol=2)
        await connection.connect()
        transport = transport_of(connection)
        assert isinstance(transport, asyncio.Transport)
        collector = Collector()
        transport.set_protocol(collector)
        transport.write(b"hello")
        async with asyncio.timeout(5):
            assert await collector.received == b"hello"
            transport.abort()
            await connection.disconnect(nowait=True)
            await ended.wait()
