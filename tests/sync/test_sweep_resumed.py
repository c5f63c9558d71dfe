"""A sweep whose process was killed goes on from its last checkpoint, and loses nothing by it."""

from __future__ import annotations

from typing import Any

import pytest

from resolver.errors import LocationUnavailable
from resolver.glance import GlanceServer
from resolver.models import Location, Progress, Sweep
from resolver.standin import StandIn
from resolver.sync import sweep as sweep_module
from resolver.sync.sweep import Sweeper
from tests.support.sweeping import Sweeping


class Killed(Exception):
    """As if the process had ended here."""


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint a page, so that every page is one to be killed behind."""
    monkeypatch.setattr(sweep_module, "CHECKPOINT", 0.0)


async def killed_after(sweeping: Sweeping, location: Location, pages: int) -> None:
    seen = 0

    async def report(_: Progress) -> None:
        nonlocal seen
        seen += 1
        if seen > pages:
            raise Killed

    with pytest.raises(Killed):
        await sweeper(sweeping, location, await versions(sweeping, location)).run(report)


async def versions(sweeping: Sweeping, location: Location) -> tuple[str, ...]:
    return await GlanceServer(sweeping.session, location).versions()


def sweeper(sweeping: Sweeping, location: Location, found: tuple[str, ...]) -> Sweeper:
    return Sweeper(sweeping.index, GlanceServer(sweeping.session, location), found, guard=0.2)


async def resumed(sweeping: Sweeping, location: Location) -> tuple[Sweep, int]:
    """The sweep gone on with, and how many pages it still took."""
    pages = 0

    async def report(_: Progress) -> None:
        nonlocal pages
        pages += 1

    progress = (await sweeping.index.records.progress()).get(location.number)
    assert progress is not None
    again = sweeper(sweeping, location, await versions(sweeping, location))
    return await again.run(report, resume=progress), pages


def mixed(**options: Any) -> StandIn:
    """Visible and hidden images in turn, some spelt in upper case."""
    server = StandIn(page_cap=20, **options)
    server.fill(150, seed=3)
    for number in range(50):
        server.add(name=f"h{number}", hidden=number % 2 == 0)
    for number in range(5):
        server.add(id=f"ABCDEF{number:02X}-0000-4000-8000-00000000ABCD")
    return server


@pytest.mark.parametrize("after", [0, 1, 3, 6, 10])
@pytest.mark.parametrize("options", [{}, {"v1": True, "v2": False}, {"old": True}])
async def test_nothing_is_left_out(sweeping: Sweeping, after: int, options: dict[str, Any]) -> None:
    async with mixed(**options) as server:
        location = await sweeping.register(server)
        await killed_after(sweeping, location, after)
        sweep, pages = await resumed(sweeping, location)
        expected = {image.id for image in server.images()}
        assert await sweeping.claimed(location) == expected
        assert sweep.images == len(expected)
        assert sweep.released == 0
        assert await sweeping.index.records.progress() == {}
    whole = -(-len(expected) // 20)
    assert pages <= whole + 4 - after  # what was done is not done again


async def test_what_was_found_gone_before_is_released_after(sweeping: Sweeping) -> None:
    async with mixed() as server:
        location = await sweeping.register(server)
        await sweeping.sweep(location)
        ids = sorted(image.id for image in server.images() if image.id.islower())
        for text in (ids[2], ids[-3]):
            server.delete(text)
        await killed_after(sweeping, location, 5)
        sweep, _ = await resumed(sweeping, location)
        assert sweep.released == 2
        assert await sweeping.claimed(location) == {image.id for image in server.images()}


async def test_a_checkpoint_long_ago_is_not_gone_on_with(sweeping: Sweeping) -> None:
    """What it saw first says too little of now."""
    async with mixed() as server:
        location = await sweeping.register(server)
        await killed_after(sweeping, location, 5)
        early = (await sweeping.index.records.progress())[location.number]
        old = Progress(
            started=early.started, front=early.front, markers=early.markers, at=early.at - 10_000
        )
        await sweeping.index.records.set_progress(location.number, old)
        sweep, _ = await resumed(sweeping, location)
        assert sweep.images == len(server)
        assert (sweep.started or 0) > early.started


async def test_a_server_that_cannot_go_on_is_listed_anew(sweeping: Sweeping) -> None:
    async with mixed() as server:
        location = await sweeping.register(server)
        await killed_after(sweeping, location, 5)
        early = (await sweeping.index.records.progress())[location.number]
        lost = Progress(
            started=early.started,
            front=early.front,
            markers=("0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d",) * len(early.markers),
            at=early.at,
        )
        await sweeping.index.records.set_progress(location.number, lost)
        sweep, _ = await resumed(sweeping, location)
        assert sweep.images == len(server)
        assert await sweeping.claimed(location) == {image.id for image in server.images()}


async def test_the_guard_counts_what_was_claimed_before_not_by_this_sweep(
    sweeping: Sweeping,
) -> None:
    """With a checkpoint a page, much is claimed before its bucket is read."""
    async with StandIn(page_cap=20) as server:
        server.fill(5, seed=1)
        location = await sweeping.register(server)
        await sweeping.sweep(location)
        before = await sweeping.claimed(location)
        for text in before:
            server.update(text, deleted=True)
        for number in range(300):
            server.add(name=f"other-{number}")
        server.add(id="ABCDEF00-0000-4000-8000-00000000ABCD")
        with pytest.raises(LocationUnavailable, match="lacks 5 where the index has 5 images"):
            await sweeping.sweep(location)
        assert before <= await sweeping.claimed(location)
