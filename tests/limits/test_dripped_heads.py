"""A head that arrives byte by byte is read once, not again with each byte."""

from __future__ import annotations

import asyncio
import time

import pytest

from resolver.gateway.net.request_head import (
    MAX_HEAD_BYTES,
    MAX_TARGET_BYTES,
    MAX_UNREAD_BYTES,
    MalformedError,
    is_incomplete_head,
    parse_head,
)
from tests.gateway.conftest import Gateway
from tests.support.http_connection import connected

LINE = b"GET /v2/images/0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d HTTP/1.1\r\nHost: g\r\n"
LARGE = LINE + b"X: " + b"a" * 16_000 + b"\r\nY: b\r\n" * 2_000


def seconds_to_check(size: int) -> float:
    """The least processor time to check one byte more of a head of this size."""
    head, least = LARGE[:size], float("inf")
    for _ in range(20):
        started = time.thread_time()
        for _ in range(20):
            assert parse_head(head, size - 1) is None
        least = min(least, time.thread_time() - started)
    return least / 20


def test_a_byte_of_a_large_head_costs_about_what_one_of_a_small_head_does() -> None:
    assert seconds_to_check(len(LARGE) - 1) < 10 * seconds_to_check(200)


@pytest.mark.parametrize("head", [LINE + b"A: b\r\n\r\n", LINE + b"\r\n"])
def test_a_head_is_found_wherever_it_was_cut(head: bytes) -> None:
    expected = parse_head(head)
    assert expected is not None
    for cut in range(len(head)):
        assert parse_head(head[:cut]) is None
        found = parse_head(head, cut)
        assert found is not None
        assert found.encode() == expected.encode()


@pytest.mark.parametrize("wrong", [b"A: b\n", b"A: b\r", b"A: \rb", b"\nA"])
def test_wrong_line_ends_are_found_wherever_the_head_was_cut(wrong: bytes) -> None:
    head = LINE + wrong + b"c: d"
    wrong_at = len(LINE) + len(wrong)
    for cut in range(len(LINE), wrong_at):
        try:
            assert parse_head(head[:cut]) is None
        except MalformedError:
            continue
        with pytest.raises(MalformedError):
            parse_head(head, cut)
        with pytest.raises(MalformedError):
            is_incomplete_head(bytearray(head), cut)


def test_a_head_goes_on_until_its_end_or_its_limit() -> None:
    assert not is_incomplete_head(bytearray(b"GET /v2 HTT"), 5), "its line is not known"
    assert is_incomplete_head(bytearray(LINE + b"A: b"), len(LINE))
    assert not is_incomplete_head(bytearray(LINE + b"\r\n"), len(LINE)), "this is the end"
    with pytest.raises(MalformedError, match="header fields"):
        is_incomplete_head(bytearray(LINE + b"A: b\r\n" * 200), len(LINE))


async def test_a_dripped_head_is_answered(gateway: Gateway) -> None:
    await gateway.location("one")
    async with connected(gateway.url) as connection:
        for byte in b"GET /healthcheck HTTP/1.1\r\nHost: g\r\n\r\n" * 2:
            connection.writer.write(bytes([byte]))
            await connection.writer.drain()
        for _ in range(2):
            assert (await connection.response()).status == 200


async def test_a_target_without_end_is_refused_soon_after_its_limit(gateway: Gateway) -> None:
    """Although parts in which no line ends are looked at together."""
    async with connected(gateway.url) as connection:
        await connection.send(b"GET /")
        answer, sent = asyncio.create_task(connection.response()), 0
        while not answer.done() and sent < MAX_HEAD_BYTES:
            await connection.send(100 * b"x")
            sent += 100
            await asyncio.sleep(0.001)
        assert (await answer).status == 414
        assert sent < MAX_TARGET_BYTES + 4 * MAX_UNREAD_BYTES
