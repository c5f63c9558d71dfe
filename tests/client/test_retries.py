"""Requests that are sent again, and when."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from glance_resolver_client import Found, GatewayUnavailableError, Retries, Unknown
from glance_resolver_client.retries import Backoff, retry_after

from tests.client.conftest import Connect
from tests.client.servers import Scripted, found, owner, scripted
from tests.support.process import free_port

ID = "5ca1ab1e-0000-4000-8000-00000000c0de"
FOUND = found(ID, [owner("one", f"http://one.example/v2/images/{ID}")])
AT_ONCE = (("Retry-After", "0"),)
BUSY = Scripted(503, {"code": "busy", "detail": "too many requests"}, AT_ONCE)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_requests_are_retried(connect: Connect, status: int) -> None:
    refusals = [Scripted(status, headers=AT_ONCE)] * 2
    async with scripted(*refusals, FOUND) as server:
        answer = await connect(server.url, retries=Retries(2)).call("resolve", ID)
        assert isinstance(answer, Found)
        assert len(server.requests) == 3


async def test_retries_are_bounded(connect: Connect) -> None:
    async with scripted(BUSY) as server:
        with pytest.raises(GatewayUnavailableError, match="too many requests") as caught:
            await connect(server.url, retries=Retries(2)).collect("resolve_many", [ID])
        assert (caught.value.status, caught.value.code) == (503, "busy")
        assert len(server.requests) == 3


async def test_a_retry_waits_for_retry_after(connect: Connect) -> None:
    wait = (("Retry-After", "1"),)
    async with scripted(Scripted(503, headers=wait), FOUND) as server:
        before = time.monotonic()
        await connect(server.url, retries=Retries(1)).call("resolve", ID)
        assert time.monotonic() - before >= 1


async def test_a_retry_waits_no_longer_than_allowed(connect: Connect) -> None:
    wait = (("Retry-After", "3600"),)
    async with scripted(Scripted(503, {"code": "busy"}, wait)) as server:
        with pytest.raises(GatewayUnavailableError) as caught:
            await connect(server.url, retries=Retries(5, max_wait=10)).call("resolve", ID)
        assert caught.value.retry_after == 3600
        assert len(server.requests) == 1


async def test_an_unknown_answer_is_retried(connect: Connect) -> None:
    document = {"id": ID, "outcome": "unknown", "missing": ["two"], "owners": [], "conflict": False}
    unknown = Scripted(503, document, AT_ONCE)
    async with scripted(unknown, FOUND) as server:
        client = connect(server.url, retries=Retries(1))
        assert isinstance(await client.call("resolve", ID), Found)
    async with scripted(unknown) as server:
        client = connect(server.url, retries=Retries(1))
        assert await client.call("resolve", ID) == Unknown(ID, ("two",), retry_after=0)
        assert len(server.requests) == 2


async def test_other_errors_are_not_retried(connect: Connect) -> None:
    async with scripted(Scripted(500, {"code": "internal-error"})) as server:
        with pytest.raises(Exception, match="500"):
            await connect(server.url, retries=Retries(2)).call("resolve", ID)
        assert len(server.requests) == 1


async def test_no_gateway(connect: Connect) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(GatewayUnavailableError, match=url):
        await connect(url).call("resolve", ID)


def test_pauses_grow_and_are_bounded_in_sum() -> None:
    backoff = Backoff(Retries(attempts=10, max_wait=5))
    pauses = []
    while (pause := backoff.next_pause(None)) is not None:
        pauses.append(pause)
    assert 2 <= len(pauses) < 10
    assert sum(pauses) <= 5
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("7", 7), (formatdate(0), 0)),
        *(("", None), ("-1", None), ("soon", None), ("٣", None)),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_read(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text}) == seconds


def test_retry_after_may_be_a_date() -> None:
    wait = retry_after({"retry-after": formatdate(time.time() + 100, usegmt=True)})
    assert wait is not None
    assert 90 < wait <= 100
