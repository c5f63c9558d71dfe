"""The order of owners: properties that hold for all inputs."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.image_facts import ImageStatus
from resolver.models import Health, State
from resolver.resolution import Preferences
from resolver.resolution.ranking import ImageOwner, exclusion_reason, rank, rank_reasons
from tests.support.ids import make_ids
from tests.support.location_views import make_view

STATES = [State.ACTIVE, State.DRAINING]
HEALTH = [Health.UP, Health.UNKNOWN, Health.DOWN]
REGIONS = ["", "r1", "r2", "r3"]
NAMES = [f"l{n}" for n in range(8)]
image_ids = st.binary(min_size=16, max_size=16)


@st.composite
def owner_lists(draw: st.DrawFn) -> list[ImageOwner]:
    """Owners of an image, in any order."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=8))
    return [
        ImageOwner(
            make_view(
                name,
                number=number,
                region=draw(st.sampled_from(REGIONS)),
                public_url=draw(st.sampled_from(["", "https://public.example"])),
                state=draw(st.sampled_from([*STATES, State.ACTIVE, State.MAINTENANCE])),
                priority=draw(st.integers(0, 2)),
                weight=draw(st.integers(0, 3)),
                health=draw(st.sampled_from([*HEALTH, None])),
            ),
            0,
            draw(st.sampled_from([None, *ImageStatus])),
        )
        for number, name in enumerate(names, 1)
    ]


some_preferences = st.builds(
    Preferences,
    region=st.sampled_from(REGIONS),
    exclude=st.frozensets(st.sampled_from([*NAMES, "none"]), max_size=2),
    https=st.booleans(),
    network_region=st.sampled_from(REGIONS),
)
homes = st.sampled_from(REGIONS)


@given(owner_lists(), image_ids, some_preferences, homes)
def test_ranking_offers_every_owner_that_is_not_excluded_and_no_other(
    owners: list[ImageOwner], image_id: bytes, preferences: Preferences, home: str
) -> None:
    offered = {c.view.name for c in rank(owners, image_id, preferences, home)}
    assert offered == {
        c.view.name
        for c in owners
        if c.view.name not in preferences.exclude and c.view.location.state is not State.MAINTENANCE
    }
    assert offered == {c.view.name for c in owners if not exclusion_reason(c.view, preferences)}


@settings(max_examples=400)
@given(owner_lists(), image_ids, some_preferences, homes)
def test_ranking_follows_the_documented_criteria(
    owners: list[ImageOwner], image_id: bytes, preferences: Preferences, home: str
) -> None:
    """The first criterion in which two owners differ decides; the weighted choice is the last."""

    def criteria(owner: ImageOwner) -> list[int]:
        location = owner.view.location
        return [
            [*ImageStatus].index(owner.status or ImageStatus.ACTIVE),
            int(preferences.https and not location.public_url),
            STATES.index(location.state),
            int(bool(preferences.region) and location.region != preferences.region),
            int(preferences.network_region not in ("", location.region)),
            int(bool(home) and location.region != home),
            HEALTH.index(owner.view.health),
            location.priority,
            int(location.weight == 0),  # weight 0: chosen only if there is no other
        ]

    for better, worse in pairwise(rank(owners, image_id, preferences, home)):
        assert criteria(better) <= criteria(worse)


@given(owner_lists(), image_ids, some_preferences, homes, st.randoms())
def test_ranking_does_not_depend_on_the_input_order(
    owners: list[ImageOwner],
    image_id: bytes,
    preferences: Preferences,
    home: str,
    rng: random.Random,
) -> None:
    shuffled = rng.sample(owners, len(owners))
    assert rank(shuffled, image_id, preferences, home) == rank(owners, image_id, preferences, home)


@given(owner_lists(), image_ids, some_preferences, homes, st.data())
def test_removing_an_owner_keeps_the_order_of_the_others(
    owners: list[ImageOwner],
    image_id: bytes,
    preferences: Preferences,
    home: str,
    data: st.DataObject,
) -> None:
    gone = data.draw(st.sampled_from(owners)) if owners else None
    ranked = [c for c in rank(owners, image_id, preferences, home) if c is not gone]
    assert rank([c for c in owners if c is not gone], image_id, preferences, home) == ranked


@given(owner_lists(), image_ids, homes)
def test_the_only_owner_is_offered_unless_in_maintenance(
    owners: list[ImageOwner], image_id: bytes, home: str
) -> None:
    for owner in owners:
        hidden = owner.view.location.state is State.MAINTENANCE
        assert rank([owner], image_id, Preferences(), home) == ([] if hidden else [owner])


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return make_ids(20_000, seed=7)


def first_choices(owners: list[ImageOwner], images: list[bytes]) -> list[str]:
    return [rank(owners, image_id, Preferences())[0].view.name for image_id in images]


@pytest.mark.slow
def test_owners_get_images_in_proportion_to_their_weights(images: list[bytes]) -> None:
    weights = {"a": 1, "b": 2, "c": 5, "d": 2, "e": 0}
    owners = [ImageOwner(make_view(n, weight=w)) for n, w in weights.items()]
    shares = Counter(first_choices(owners, images))
    for name, weight in weights.items():
        assert shares[name] / len(images) == pytest.approx(weight / 10, abs=0.01)
    assert shares["e"] == 0


@pytest.mark.slow
def test_removing_one_of_ten_owners_moves_only_its_images(images: list[bytes]) -> None:
    owners = [ImageOwner(make_view(name)) for name in "abcdefghij"]
    before = first_choices(owners, images)
    after = first_choices(owners[:-1], images)
    moved = [old for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"j"}
    assert len(moved) == before.count("j")
    assert len(moved) / len(images) == pytest.approx(0.1, abs=0.01)


def test_more_weight_moves_images_only_to_that_owner(images: list[bytes]) -> None:
    owners = [ImageOwner(make_view(name)) for name in "abcd"]
    before = first_choices(owners, images)
    heavier = ImageOwner(make_view("d", weight=2))
    after = first_choices([*owners[:-1], heavier], images)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"d"}
    assert len(moved) / len(images) == pytest.approx(2 / 5 - 1 / 4, abs=0.01)


def test_owners_without_weight_have_an_order_too() -> None:
    owners = [ImageOwner(make_view(name, weight=0)) for name in "abc"]
    for image_id in make_ids(5):
        assert rank(owners[::-1], image_id, Preferences()) == rank(owners, image_id, Preferences())


def test_exclusion_reasons_name_the_cause() -> None:
    full = make_view("full", state=State.MAINTENANCE, reason="disk swap")
    bare = make_view("bare", state=State.MAINTENANCE)
    assert exclusion_reason(full, Preferences()) == "in maintenance: disk swap"
    assert exclusion_reason(bare, Preferences()) == "in maintenance"
    excluded = Preferences(exclude=frozenset({"one"}))
    assert "excluded" in exclusion_reason(make_view("one"), excluded)


def test_rank_reasons_name_every_criterion() -> None:
    owner = ImageOwner(make_view("one", region="r1", priority=7, weight=3))
    preferences = Preferences(region="r1", https=True, network_region="r3")
    reasons = ", ".join(rank_reasons(owner, preferences, "r2"))
    for part in (
        "image of a status that is not known",
        "state active",
        "in region r1",
        "http, as the client uses https",
        "not in the region of the client's network r3",
        "not in the home region r2",
        "health up",
    ):
        assert part in reasons
    assert "priority 7, weight 3" in reasons
