"""Bodies in chunks: what they cost does not depend on how small a client makes them."""

from __future__ import annotations

import pytest

from resolver.gateway.net.body_framing import FREE_CHUNKS, MIN_CHUNK_BYTES, ChunkedBody
from resolver.gateway.net.request_head import MalformedError
from tests.gateway.conftest import Start
from tests.support.http_connection import connected

END = b"0\r\n\r\n"


def chunks(size: int, count: int) -> bytes:
    return (b"%x\r\n%b\r\n" % (size, b" " * size)) * count


def take_in_pieces(data: bytes, piece: int) -> bytes:
    """The data of a body that arrives in pieces of some bytes."""
    framing, passed_on = ChunkedBody(), b""
    for start in range(0, len(data), piece):
        plain, rest = framing.take(data[start : start + piece])
        assert not rest
        while plain and plain != END:
            head, _, plain = plain.partition(b"\r\n")
            size = int(head, 16)
            passed_on += plain[:size]
            assert plain[size : size + 2] == b"\r\n"
            plain = plain[size + 2 :]
    assert framing.complete
    return passed_on


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 100, 10_000])
def test_the_data_is_the_same_however_it_arrives(piece: int) -> None:
    data = b"3;a=b\r\nabc\r\n" + chunks(40, 20) + b"1\r\n\r\r\n" + b"2\r\n\r\n\r\n" + END
    assert take_in_pieces(data, piece) == b"abc" + b" " * 800 + b"\r" + b"\r\n"


def test_what_comes_at_once_is_passed_on_as_one_chunk() -> None:
    plain, rest = ChunkedBody().take(chunks(37, 5000) + END + b"GET")
    assert plain == b"%x\r\n%b\r\n0\r\n\r\n" % (37 * 5000, b" " * 37 * 5000)
    assert rest == b"GET"


@pytest.mark.parametrize("size", [1, MIN_CHUNK_BYTES - 1])
def test_many_small_chunks_are_refused(size: int) -> None:
    ChunkedBody().take(chunks(size, FREE_CHUNKS))
    with pytest.raises(MalformedError, match="small chunks"):
        ChunkedBody().take(chunks(size, 17 * FREE_CHUNKS))


@pytest.mark.parametrize("target", ["/resolve", "/v2/images/0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"])
async def test_the_client_gets_an_error(start: Start, target: str) -> None:
    gateway = await start()
    async with connected(gateway.url) as connection:
        head = f"POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        await connection.send(head.encode() + chunks(1, 50_000) + END)
        response = await connection.response()
        assert response.status == 400
        assert b"too many small chunks" in response.body
