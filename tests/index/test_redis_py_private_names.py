"""The one private name of redis-py that the index uses is still there, and is the only one."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import redis.asyncio

import resolver.index
from resolver.index.redis.transport import transport_of

ROOT = Path(resolver.index.__file__).parent


async def test_an_open_connection_has_a_transport_that_can_get_another_protocol() -> None:
    received = asyncio.get_running_loop().create_future()

    class Reader(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            received.set_result(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers what redis-py sends when it connects, and echoes everything else."""
        while data := await reader.read(1000):
            commands = data.count(b"CLIENT")
            writer.write(b"+OK\r\n" * commands if commands else data)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        connection = redis.asyncio.Connection(host=host, port=port, protocol=2)
        await connection.connect()
        transport = transport_of(connection)
        assert isinstance(transport, asyncio.Transport)
        transport.set_protocol(Reader())
        transport.write(b"hello")
        async with asyncio.timeout(5):
            assert await received == b"hello"
        await connection.disconnect(nowait=True)


def test_no_other_private_name_of_a_library_is_used() -> None:
    """An attribute with an underscore belongs to the object itself everywhere but there."""
    own = {"self", "cls"}
    found = {
        (str(path.relative_to(ROOT)), node.attr)
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in own)
    }
    assert found == {("redis/transport.py", "_writer")}
