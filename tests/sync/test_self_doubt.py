"""When the health checker suspects itself."""

from __future__ import annotations

import pytest

from resolver.models import Check, Health, State
from resolver.sync.health import DOWN_AFTER_FAILURES
from resolver.sync.self_doubt import SelfDoubt, WatchedLocation
from tests.support.location_views import make_view

FAILING_SINCE, CHECKED_AT = 100.0, 101.0


def watch(
    number: int,
    *,
    failures: int = 0,
    health: Health = Health.UP,
    state: State = State.ACTIVE,
    checked_at: float = CHECKED_AT,
) -> WatchedLocation:
    return WatchedLocation(
        make_view(f"l{number}", number=number, state=state),
        check=Check(at=1, health=health, failures=failures),
        checked_at=checked_at,
        failing_since=FAILING_SINCE if failures else 0.0,
    )


def watched(*locations: WatchedLocation) -> tuple[SelfDoubt, WatchedLocation]:
    """The self-doubt about these locations, and the first, which fails."""
    return SelfDoubt(dict(enumerate(locations, 1))), locations[0]


def failing(number: int) -> WatchedLocation:
    return watch(number, failures=DOWN_AFTER_FAILURES)


@pytest.mark.parametrize(
    ("failed", "well", "is_doubted"),
    [(1, 0, False), (1, 1, False), (2, 0, True), (2, 1, True), (2, 2, False), (3, 2, True)],
)
def test_failures_of_more_than_half_at_once_are_doubted(
    failed: int, well: int, is_doubted: bool
) -> None:
    doubt, location = watched(
        *(failing(number) for number in range(failed)),
        *(watch(10 + number) for number in range(well)),
    )
    assert bool(doubt.doubt(location).reason) is is_doubted


def test_a_location_that_was_not_checked_since_is_checked_first() -> None:
    unchecked = watch(2, checked_at=FAILING_SINCE - 1)
    doubt, location = watched(failing(1), unchecked, watch(3), watch(4))
    reason, check_first = doubt.doubt(location)
    assert "until the other locations were checked" in reason
    assert check_first == (unchecked,)


@pytest.mark.parametrize("ignored", [{"health": Health.DOWN}, {"state": State.MAINTENANCE}])
def test_locations_down_or_in_maintenance_do_not_count(ignored: dict[str, State | Health]) -> None:
    others = [watch(number, failures=9, **ignored) for number in (2, 3, 4)]  # type: ignore[arg-type]
    doubt, location = watched(failing(1), *others)
    assert doubt.doubt(location) == ("", ())


def test_a_location_in_maintenance_is_not_part_of_self_doubt() -> None:
    location = watch(1, failures=DOWN_AFTER_FAILURES, state=State.MAINTENANCE)
    doubt, _ = watched(location, failing(2), failing(3))
    assert doubt.doubt(location).reason == ""


def test_no_location_goes_down_while_failures_are_doubted() -> None:
    doubt, _ = watched(failing(1), failing(2))
    assert doubt.withholds_down()


def test_self_doubt_does_not_hide_locations_already_down() -> None:
    doubt, _ = watched(watch(1, failures=9, health=Health.DOWN), watch(2))
    assert not doubt.withholds_down()
