"""Sweeps, polls, notifications and probes bring the status and the bytes of images along, without a
further request, and write only what differs."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from resolver.glance import parse_notice
from resolver.image_facts import ImageFacts, ImageStatus, differ
from resolver.models import Location, Owner, Poll, Sweep, format_id, parse_id
from resolver.standin import StandIn
from resolver.sync.deletion_log import DeletionLog, apply_notices
from tests.support.ids import make_ids
from tests.support.sweeping import Sweeping
from tests.sync.conftest import StartServer

ACTIVE, PENDING, DEACTIVATED, DEAD = ImageStatus
A, B, C, UPPER = [format_id(image_id) for image_id in make_ids(4)]
UPPER = UPPER.upper()
SERVERS: dict[str, dict[str, Any]] = {
    "v2": {},
    "v1": {"v1": True, "v2": False},
    "both": {"v1": True},
    "old": {"old": True},
}


async def owners(sweeping: Sweeping, text: str) -> dict[int, Owner]:
    (found,) = (await sweeping.index.claims.lookup([parse_id(text)])).owners
    return {owner.number: owner for owner in found}


async def statuses(sweeping: Sweeping, number: int) -> dict[str, ImageStatus | None]:
    return {text: (await owners(sweeping, text))[number].status for text in (A, B, C, UPPER)}


async def conflict(sweeping: Sweeping, text: str) -> bool:
    found = (await owners(sweeping, text)).values()
    return differ([owner.content for owner in found if owner.content is not None])


def add_images(server: StandIn) -> None:
    server.add(id=A)
    server.add(id=B, status="queued")
    server.add(id=C, status="deactivated")
    server.add(id=UPPER, status="killed")


EXPECTED = {A: ACTIVE, B: PENDING, C: DEACTIVATED, UPPER: DEAD}


async def poll_since(sweeping: Sweeping, location: Location, since: float) -> Poll:
    return await sweeping.poll(location, Poll(ended=since, mark=since), Sweep(started=since))


Read = Callable[[Sweeping, Location], Awaitable[Any]]
READS: dict[str, Read] = {
    "sweep": lambda sweeping, location: sweeping.sweep(location),
    "poll": lambda sweeping, location: poll_since(sweeping, location, time.time() - 3600),
}


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("read", READS)
async def test_a_listing_brings_the_status_of_each_image(
    sweeping: Sweeping, start_server: StartServer, kind: str, read: str
) -> None:
    server = await start_server(**SERVERS[kind])
    add_images(server)
    location = await sweeping.register(server)
    await READS[read](sweeping, location)
    assert await statuses(sweeping, location.number) == EXPECTED
    server.update(A, status="deactivated")
    server.update(C, status="active")
    await READS[read](sweeping, location)
    changed = EXPECTED | {A: DEACTIVATED, C: ACTIVE}
    assert await statuses(sweeping, location.number) == changed


@pytest.mark.parametrize(("kind", "other"), [("v2", "v2"), ("v1", "old"), ("old", "old")])
async def test_two_owners_are_compared_once_both_were_swept_again(
    sweeping: Sweeping, start_server: StartServer, kind: str, other: str
) -> None:
    one, two = await start_server(**SERVERS[kind]), await start_server(**SERVERS[other])
    locations = [await sweeping.register(one, "one"), await sweeping.register(two, "two")]
    one.add(id=A, data=b"the same")
    two.add(id=A, data=b"the same")
    one.add(id=B, data=b"one thing")
    two.add(id=B, data=b"another")
    counts = [(await sweeping.sweep(location)).conflicts for location in (*locations, *locations)]
    assert counts == [0, 0, 1, 1]
    assert [await conflict(sweeping, text) for text in (A, B)] == [False, True]
    for owner in (await owners(sweeping, A)).values():
        assert owner.content is not None
    two.update(B, data=b"one thing")
    assert (await sweeping.sweep(locations[1])).conflicts == 0
    assert not await conflict(sweeping, B)


async def test_hashes_of_different_kinds_are_not_compared(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    """Old Glance has no `os_hash_value`."""
    locations = []
    for name, kind in (("one", "v2"), ("two", "old")):
        server = await start_server(**SERVERS[kind])
        server.add(id=A, data=name.encode())
        locations.append(await sweeping.register(server, name))
    for location in (*locations, *locations):
        await sweeping.sweep(location)
    assert not await conflict(sweeping, A)


async def writes(sweeping: Sweeping) -> int:
    """Hashes changed since the statistics were reset."""
    info = await sweeping.index.client.command("INFO", "commandstats")
    text = info.decode() if isinstance(info, bytes) else str(info)
    calls = [line for line in text.splitlines() if line.startswith("cmdstat_hset:")]
    return int(calls[0].split("calls=")[1].split(",")[0]) if calls else 0


@pytest.mark.redis
@pytest.mark.parametrize("index_url", ["redis"], indirect=True)
async def test_a_sweep_writes_only_what_differs(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    locations = []
    for name in ("one", "two"):
        server = await start_server()
        server.fill(300, seed=3)
        server.add(id=A, data=name.encode())
        locations.append(await sweeping.register(server, name))
    for location in (*locations, locations[0]):
        await sweeping.sweep(location)
    await sweeping.index.client.command("CONFIG", "RESETSTAT")
    for location in locations:
        sweep = await sweeping.sweep(location)
        assert (sweep.images, sweep.claimed) == (301, 0)
    # The progress of each sweep: none of the claims.
    assert await writes(sweeping) <= 2 * len(locations)
    server.update(A, status="deactivated")
    sweep = await sweeping.sweep(locations[1])
    assert sweep.claimed == 0, "a status that changed is no new claim"
    assert (await owners(sweeping, A))[locations[1].number].status is DEACTIVATED


def notification(event: str, **payload: Any) -> bytes:
    message = {"event_type": event, "timestamp": "2026-01-01 00:00:00", "payload": payload}
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


MD5 = "9a0364b9e99bb480dd25e1f0284c8555"


async def apply(sweeping: Sweeping, *bodies: bytes) -> None:
    notices = [notice for body in bodies if (notice := parse_notice(body))]
    assert len(notices) == len(bodies)
    await apply_notices(sweeping.index, 1, DeletionLog(), notices)


async def test_notifications_bring_the_status(sweeping: Sweeping) -> None:
    await apply(sweeping, notification("image.create", id=A, status="queued", checksum=None))
    assert (await owners(sweeping, A))[1].status is PENDING
    await apply(
        sweeping,
        notification("image.upload", id=A, status="active", checksum=MD5, size=7),
        notification("image.activate", id=A, status="active", checksum=MD5, size=7),
    )
    assert (await owners(sweeping, A))[1].status is ACTIVE


@pytest.mark.parametrize(
    "payload",
    [
        {"status": 5, "checksum": MD5},
        {"status": "new in 2030", "checksum": 7, "size": "x"},
        {"status": None, "os_hash_value": "zz" * 20, "os_hash_algo": "sha512"},
        {"os_hash_value": MD5 * 4, "os_hash_algo": "sha3_512", "checksum": "abc", "size": 1},
        {"checksum": MD5, "size": -1},
        {"checksum": MD5, "size": True},
    ],
)
def test_unusual_members_are_ignored(payload: dict[str, Any]) -> None:
    assert ImageFacts.of(payload) == ImageFacts()


@pytest.mark.parametrize("size", ["", "-1", "1.5", "\u0661", "9" * 5000])
def test_unusual_sizes_of_v1_are_ignored(size: str) -> None:
    headers = {"X-Image-Meta-Status": "active", "X-Image-Meta-Size": size}
    headers["X-Image-Meta-Checksum"] = "d41d8cd98f00b204e9800998ecf8427e"
    assert ImageFacts.of_headers(headers) == ImageFacts(ACTIVE)
