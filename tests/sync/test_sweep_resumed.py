"""A sweep whose process was killed is resumed from its last checkpoint, without a loss."""

from __future__ import annotations

from typing import Any

import pytest

from resolver.errors import LocationUnavailable
from resolver.glance import GlanceServer
from resolver.models import Location, Progress, Sweep
from resolver.standin import StandIn
from resolver.sync.sweep import Sweeper
from tests.support.sweeping import Sweeping

EACH_PAGE = 0.0
"""Seconds between checkpoints: the sweep can be resumed after every page."""


class Killed(Exception):
    """As if the process had ended here."""


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
    return Sweeper(
        sweeping.index,
        GlanceServer(sweeping.session, location),
        found,
        sweeping.scopes,
        guard=0.2,
        checkpoint_seconds=EACH_PAGE,
    )


async def resumed(sweeping: Sweeping, location: Location) -> tuple[Sweep, int]:
    """The resumed sweep, and how many pages it still read."""
    pages = 0

    async def report(_: Progress) -> None:
        nonlocal pages
        pages += 1

    progress = (await sweeping.index.records.progress()).get(location.number)
    assert progress is not None
    again = sweeper(sweeping, location, await versions(sweeping, location))
    return await again.run(report, resume=progress), pages


def mixed(**options: Any) -> StandIn:
    """Visible and hidden images, some with upper-case ids."""
    server = StandIn(page_cap=20, **options)
    server.fill(150, seed=3)
    for number in range(50):
        server.add(name=f"h{number}", hidden=number % 2 == 0)
    for number in range(5):
        server.add(id=f"ABCDEF{number:02X}-0000-4000-8000-00000000ABCD")
    return server


@pytest.mark.parametrize("after", [0, 1, 3, 6, 10])
@pytest.mark.parametrize("options", [{}, {"v1": True, "v2": False}, {"old": True}])
async def test_a_resumed_sweep_misses_no_image(
    sweeping: Sweeping, after: int, options: dict[str, Any]
) -> None:
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
    assert pages <= whole + 4 - after  # earlier pages are not read again


async def test_images_found_missing_before_the_checkpoint_are_released(sweeping: Sweeping) -> None:
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


@pytest.mark.parametrize(("lost", "is_resumed"), [("before", True), ("since", False)])
async def test_after_a_loss_only_sweeps_from_before_it_begin_again(
    sweeping: Sweeping, lost: str, is_resumed: bool
) -> None:
    """What Redis lost while a sweep was under way may be what that sweep has claimed."""
    index = sweeping.index

    async def lose() -> None:
        await index.client.command("HINCRBY", "glr:{reg}:meta", "losses", 1)

    async with mixed() as server:
        location = await sweeping.register(server)
        if lost == "before":
            await lose()
        await killed_after(sweeping, location, 5)
        progress = (await index.records.progress())[location.number]
        if lost == "since":
            await lose()
        sweep, _ = await resumed(sweeping, location)
        assert (sweep.started == progress.started) is is_resumed
        assert sweep.images == len(server)
        assert sweep.losses == 1


async def test_an_old_checkpoint_is_not_resumed(sweeping: Sweeping) -> None:
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


async def test_a_server_that_cannot_resume_is_listed_from_the_start(sweeping: Sweeping) -> None:
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


async def test_the_shrink_guard_counts_only_claims_of_earlier_sweeps(
    sweeping: Sweeping,
) -> None:
    """With a checkpoint for each page, many images are claimed before their bucket is read."""
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
            await sweeping.sweep(location, checkpoint_seconds=EACH_PAGE)
        assert before <= await sweeping.claimed(location)


async def test_what_a_checkpoint_claims_hides_no_missing_image(sweeping: Sweeping) -> None:
    """The claims of a bucket were counted before: one that is missing, and none of the new image
    that is claimed before its bucket is compared."""
    bucket = "00000000-0000-4000-8000-00000000"
    missing, new, last = f"{bucket}0001", f"{bucket}0002", "ffffffff-0000-4000-8000-000000000001"
    async with StandIn(page_cap=1) as server, StandIn() as other:
        for text in (missing, last):
            server.add(id=text)
        for number in range(10, 20):  # enough that listed images are looked up
            other.add(id=f"{bucket}00{number}")
        location = await sweeping.register(server)
        for each in (location, await sweeping.register(other, "two")):
            await sweeping.sweep(each)
        server.delete(missing)
        server.add(id=new)
        await sweeping.sweep(location, checkpoint_seconds=EACH_PAGE)
        assert await sweeping.claimed(location) == {new, last}
