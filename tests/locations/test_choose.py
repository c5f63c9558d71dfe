"""The order among owners, as laws."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resolver.locations import Wish
from resolver.locations.choose import Candidate, left_out, rank, reasons
from resolver.models import Health, Owner, State
from tests.support.ids import make_ids
from tests.support.places import make_place

STATES = [State.ACTIVE, State.DRAINING]
HEALTH = [Health.UP, Health.UNKNOWN, Health.DOWN]
REGIONS = ["", "r1", "r2", "r3"]
NAMES = [f"l{n}" for n in range(8)]
raws = st.binary(min_size=16, max_size=16)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    """Owners in some order, each another location."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=8))
    return [
        Candidate(
            make_place(
                name,
                number=number,
                region=draw(st.sampled_from(REGIONS)),
                state=draw(st.sampled_from([*STATES, State.ACTIVE, State.MAINTENANCE])),
                priority=draw(st.integers(0, 2)),
                weight=draw(st.integers(0, 3)),
                health=draw(st.sampled_from([*HEALTH, None])),
            ),
            Owner(number),
        )
        for number, name in enumerate(names, 1)
    ]


wishes = st.builds(
    Wish,
    region=st.sampled_from(REGIONS),
    exclude=st.frozensets(st.sampled_from([*NAMES, "none"]), max_size=2),
)
homes = st.sampled_from(REGIONS)


@given(candidates(), raws, wishes, homes)
def test_all_that_may_be_offered_and_nothing_else(
    owners: list[Candidate], raw: bytes, wish: Wish, home: str
) -> None:
    offered = {c.place.name for c in rank(owners, raw, wish, home)}
    assert offered == {
        c.place.name
        for c in owners
        if c.place.name not in wish.exclude and c.place.location.state is not State.MAINTENANCE
    }
    assert offered == {c.place.name for c in owners if not left_out(c, wish)}


@settings(max_examples=400)
@given(candidates(), raws, wishes, homes)
def test_the_order_of_the_contract(
    owners: list[Candidate], raw: bytes, wish: Wish, home: str
) -> None:
    """Of two neighbours, the first that differs in this list decides, before the draw does."""

    def ladder(candidate: Candidate) -> list[int]:
        location = candidate.place.location
        return [
            STATES.index(location.state),
            int(bool(wish.region) and location.region != wish.region),
            int(bool(home) and location.region != home),
            HEALTH.index(candidate.place.health),
            location.priority,
            int(location.weight == 0),  # without weight it is chosen only where it must be
        ]

    for better, worse in pairwise(rank(owners, raw, wish, home)):
        assert ladder(better) <= ladder(worse)


@given(candidates(), raws, wishes, homes, st.randoms())
def test_the_order_given_does_not_matter(
    owners: list[Candidate], raw: bytes, wish: Wish, home: str, rng: random.Random
) -> None:
    shuffled = rng.sample(owners, len(owners))
    assert rank(shuffled, raw, wish, home) == rank(owners, raw, wish, home)


@given(candidates(), raws, wishes, homes, st.data())
def test_one_that_goes_leaves_the_others_in_order(
    owners: list[Candidate], raw: bytes, wish: Wish, home: str, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(owners)) if owners else None
    ranked = [c for c in rank(owners, raw, wish, home) if c is not gone]
    assert rank([c for c in owners if c is not gone], raw, wish, home) == ranked


@given(candidates(), raws, homes)
def test_the_only_owner_is_offered_however_it_is(
    owners: list[Candidate], raw: bytes, home: str
) -> None:
    for owner in owners:
        hidden = owner.place.location.state is State.MAINTENANCE
        assert rank([owner], raw, Wish(), home) == ([] if hidden else [owner])


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    return make_ids(100_000, seed=7)


def first_choices(owners: list[Candidate], images: list[bytes]) -> list[str]:
    return [rank(owners, raw, Wish())[0].place.name for raw in images]


def test_weights_are_shares(images: list[bytes]) -> None:
    weights = {"a": 1, "b": 2, "c": 5, "d": 2, "e": 0}
    owners = [Candidate(make_place(n, weight=w), Owner(1)) for n, w in weights.items()]
    shares = Counter(first_choices(owners, images))
    for name, weight in weights.items():
        assert shares[name] / len(images) == pytest.approx(weight / 10, abs=0.01)
    assert shares["e"] == 0


def test_removing_one_of_ten_moves_its_share_only(images: list[bytes]) -> None:
    owners = [Candidate(make_place(name), Owner(1)) for name in "abcdefghij"]
    before = first_choices(owners, images)
    after = first_choices(owners[:-1], images)
    moved = [old for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"j"}
    assert len(moved) == before.count("j")
    assert len(moved) / len(images) == pytest.approx(0.1, abs=0.01)


def test_more_weight_takes_from_others_and_gives_none(images: list[bytes]) -> None:
    owners = [Candidate(make_place(name), Owner(1)) for name in "abcd"]
    some = images[:20_000]
    before = first_choices(owners, some)
    heavier = Candidate(make_place("d", weight=2), Owner(1))
    after = first_choices([*owners[:-1], heavier], some)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"d"}
    assert len(moved) / len(some) == pytest.approx(2 / 5 - 1 / 4, abs=0.01)


def test_owners_without_weight_have_an_order_too() -> None:
    owners = [Candidate(make_place(name, weight=0), Owner(1)) for name in "abc"]
    for raw in make_ids(5):
        assert rank(owners[::-1], raw, Wish()) == rank(owners, raw, Wish())


def test_why_an_owner_is_left_out() -> None:
    full = make_place("full", state=State.MAINTENANCE, reason="disk swap")
    bare = make_place("bare", state=State.MAINTENANCE)
    assert left_out(Candidate(full, Owner(1)), Wish()) == "in maintenance: disk swap"
    assert left_out(Candidate(bare, Owner(1)), Wish()) == "in maintenance"
    excluded = Wish(exclude=frozenset({"one"}))
    assert "excluded" in left_out(Candidate(make_place("one"), Owner(1)), excluded)


def test_reasons_name_what_the_order_looks_at() -> None:
    owner = Candidate(make_place("one", region="r1", priority=7, weight=3), Owner(1))
    said = ", ".join(reasons(owner, Wish(region="r1"), "r2"))
    for part in ("state active", "in region r1", "not in the home region r2", "health up"):
        assert part in said
    assert "priority 7, weight 3" in said
