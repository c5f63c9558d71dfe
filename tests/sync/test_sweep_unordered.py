"""Sweeps of images whose ids are not random: the index has them in another order."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from resolver.errors import LocationUnavailable
from resolver.glance import GlanceServer
from resolver.image_facts import ImageStatus
from resolver.models import Location, Progress, Sweep, format_id, parse_id
from resolver.standin import StandIn
from resolver.sync.sweep import Sweeper
from resolver.sync.sweep_state import expected_images
from tests.support import faults
from tests.support.backends import on_every_backend
from tests.support.faults import Switch
from tests.support.ids import make_ids, make_v1_ids, make_v6_ids, make_v7_ids
from tests.support.sweeping import Sweeping
from tests.sync.conftest import StartServer

V7 = [format_id(image_id) for image_id in make_v7_ids(60)]
OTHERS = [
    format_id(image_id)
    for make in (make_v1_ids, make_v6_ids, make_ids)
    for image_id in make(25, seed=4)
]
PAGE = 20


def fill(server: StandIn, ids: list[str]) -> None:
    for count, image_id in enumerate(ids):
        server.add(id=image_id, hidden=count % 5 == 0)


async def mixed(start_server: StartServer, switch: Switch | None = None) -> StandIn:
    """A server with ids of versions 1, 4, 6 and 7."""
    middlewares = [switch.middleware] if switch else []
    server = await start_server(page_cap=PAGE, middlewares=middlewares)
    fill(server, V7 + OTHERS)
    return server


@on_every_backend
async def test_exactly_the_missing_images_are_released(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    server, other = await mixed(start_server), await mixed(start_server)
    one, two = await sweeping.register(server), await sweeping.register(other, "two")
    for location in (one, two):
        sweep = await sweeping.sweep(location)
        assert (sweep.images, sweep.claimed, sweep.released) == (len(V7 + OTHERS), len(server), 0)
    for image_id in (V7[0], V7[-1], *V7[30:33], *OTHERS[::12]):
        server.delete(image_id)
    server.add(id=format_id(make_v7_ids(1, seed=9)[0]))
    sweep = await sweeping.sweep(one)
    assert (sweep.claimed, sweep.released) == (1, 5 + 7)
    assert await sweeping.claimed(one) == set(server.ids())
    assert await sweeping.claimed(two) == set(other.ids())
    sweep = await sweeping.sweep(one)
    assert (sweep.claimed, sweep.released) == (0, 0)


async def test_facts_in_the_listing_are_stored(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    server, other = await mixed(start_server), await mixed(start_server)
    one, two = await sweeping.register(server), await sweeping.register(other, "two")
    await sweeping.sweep(one)
    server.update(V7[3], status="deactivated")
    server.update(V7[4], data=b"other bytes")
    await sweeping.sweep(one)
    assert (await sweeping.sweep(two)).conflicts == 0, "the bytes of the first are not stored yet"
    await sweeping.sweep(one)
    assert (await sweeping.sweep(two)).conflicts == 1
    ((owner, _),) = (await sweeping.index.claims.lookup([parse_id(V7[3])])).owners
    assert (owner.number, owner.status) == (one.number, ImageStatus.DEACTIVATED)


async def test_ids_in_upper_case_stay_claimed(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    server = await start_server(page_cap=PAGE)
    ids = [text.upper() if count % 3 else text for count, text in enumerate(V7)]
    fill(server, ids)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    server.delete(ids[0])
    server.delete(ids[1])
    assert (await sweeping.sweep(location)).released == 2
    assert await sweeping.claimed(location) == set(server.ids())


async def test_a_server_that_does_not_sort(
    sweeping: Sweeping, start_server: StartServer, switch: Switch
) -> None:
    server = await mixed(start_server, switch)
    location = await sweeping.register(server)
    switch.fault = faults.on_pages(faults.images(lambda images: images[::-1]))
    await sweeping.sweep(location)
    server.delete(V7[5])
    assert (await sweeping.sweep(location)).released == 1
    assert await sweeping.claimed(location) == set(server.ids())


FEW_BYTES = 16 * 15
"""Of listed ids in memory: fewer than a page has, so that the rest lies in a file."""


async def test_more_ids_than_memory_is_for_lie_in_a_file(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    server = await mixed(start_server)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    gone = [V7[0], V7[-1], *V7[30:33], *OTHERS[::12]]
    for image_id in gone:
        server.delete(image_id)
    sweep = await sweeping.sweep(location, max_memory_bytes=FEW_BYTES)
    assert (sweep.claimed, sweep.released) == (0, len(gone))
    assert await sweeping.claimed(location) == set(server.ids())


async def test_a_file_that_cannot_be_written_releases_nothing(
    sweeping: Sweeping,
    start_server: StartServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = await mixed(start_server)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    before = await sweeping.claimed(location)
    server.delete(V7[0])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(LocationUnavailable, match="set TMPDIR to a directory") as caught:
        await sweeping.sweep(location, max_memory_bytes=FEW_BYTES)
    assert caught.value.problem_code == "internal-error"
    assert await sweeping.claimed(location) == before
    assert (await sweeping.sweep(location)).released == 1, "in memory it needs no file"


async def test_the_shrink_guard_counts_unordered_ids(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    server = await start_server(page_cap=PAGE)
    fill(server, V7)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    for image_id in V7[10:30]:
        server.delete(image_id)
    with pytest.raises(LocationUnavailable, match="lacks 20 where the index has 60 images"):
        await sweeping.sweep(location)
    assert await sweeping.claimed(location) == set(V7)
    assert (await sweeping.sweep(location, confirm_shrink=True)).released == 20


class Killed(Exception):
    """As if the process had ended here."""


async def sweep_until(
    sweeping: Sweeping, location: Location, pages: int | None, resume: Progress | None = None
) -> Sweep:
    """A sweep with a checkpoint after each page, which is killed after so many."""
    seen = 0

    async def report(_: Progress) -> None:
        nonlocal seen
        seen += 1
        if seen == pages:
            raise Killed

    server = GlanceServer(sweeping.session, location)
    sweeper = Sweeper(
        sweeping.index,
        server,
        await server.versions(),
        sweeping.scopes,
        guard=0.2,
        checkpoint_seconds=0.0,
    )
    return await sweeper.run(report, resume=resume)


async def checkpoint(sweeping: Sweeping, location: Location) -> Progress:
    return (await sweeping.index.records.progress())[location.number]


@pytest.mark.parametrize("pages", [1, 2, 4, 6])
async def test_a_sweep_that_was_killed_is_resumed(
    sweeping: Sweeping, start_server: StartServer, pages: int
) -> None:
    """It claims all, and releases nothing that is there. Of what is gone, it finds what comes after
    the checkpoint; the next sweep finds the rest."""
    server = await mixed(start_server)
    location = await sweeping.register(server)
    await sweep_until(sweeping, location, None)
    gone = sorted([*V7[::20], *OTHERS[::25]])
    for image_id in gone:
        server.delete(image_id)
    with pytest.raises(Killed):
        await sweep_until(sweeping, location, pages)
    progress = await checkpoint(sweeping, location)
    sweep = await sweep_until(sweeping, location, None, progress)
    assert sweep.images == len(server)
    left = await sweeping.claimed(location)
    assert set(server.ids()) <= left
    assert {image_id for image_id in gone if image_id > progress.front}.isdisjoint(left)
    await sweep_until(sweeping, location, None)
    assert await sweeping.claimed(location) == set(server.ids())


async def test_a_listing_that_failed_forgets_nothing_that_it_found_missing(
    sweeping: Sweeping, start_server: StartServer, switch: Switch
) -> None:
    server = await mixed(start_server, switch)
    location = await sweeping.register(server)
    await sweep_until(sweeping, location, None)
    gone = sorted([*V7[::20], *OTHERS[::25]])
    for image_id in gone:
        server.delete(image_id)
    switch.fault = faults.on_pages(faults.status(503), later=True)
    with pytest.raises(LocationUnavailable):
        await sweep_until(sweeping, location, None)
    switch.fault = None
    progress = await checkpoint(sweeping, location)
    assert any(image_id < progress.front for image_id in gone)
    sweep = await sweep_until(sweeping, location, None, progress)
    assert sweep.released == len(gone)
    assert await sweeping.claimed(location) == set(server.ids())


async def test_ids_that_begin_with_a_time_do_not_suggest_a_huge_listing(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    """All of them come in the first hundredth of the listing, in UUID order."""
    server = await start_server()
    fill(server, [format_id(image_id) for image_id in make_v7_ids(2000)])
    server.fill(1500, seed=2)
    location = await sweeping.register(server)
    await sweeping.sweep(location)
    expected = [expected_images(progress) for progress in sweeping.progress]
    assert max(expected) < 1.5 * len(server)
    assert expected[-1] == len(server)
