"""Many images at once: one lookup, and the same answers as for each image alone."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.errors import InvalidImageId
from resolver.gateway.api.resolve import parse_ids
from resolver.models import Outcome, format_id, letter_case_of, parse_id
from resolver.resolution import Preferences
from tests.gateway.conftest import V1, Gateway, Start


@pytest.mark.slow
async def test_bulk_answers_equal_single_answers_for_every_mix_of_owners(start: Start) -> None:
    gateway = await start(cache_size=0)  # so that every answer has the same source
    numbers = [
        await gateway.location("a", region="north"),
        await gateway.location("b", region="south", weight=3),
        await gateway.location("c", region="south", versions=V1),
        await gateway.location("d", state="draining"),
        await gateway.location("e", state="maintenance", reason="disks"),
    ]
    claims: dict[int, dict[bytes, int]] = {number: {} for number in numbers}
    rng = random.Random(7)
    ids = [format_id(rng.randbytes(16)) for _ in range(400)]
    for text in ids:
        for number in rng.sample(numbers, rng.choice((0, 1, 1, 2, 3))):
            spelling = text.upper() if rng.random() < 0.1 else text
            claims[number][parse_id(text)] = letter_case_of(spelling)
    for number, ids_of_location in claims.items():
        await gateway.services.index.claims.claim(number, ids_of_location)
    resolver = gateway.services.resolver
    image_ids = [parse_id(text) for text in ids]
    for preferences in (
        Preferences(),
        Preferences(region="south"),
        Preferences(exclude=frozenset("a")),
    ):
        answers = [await resolver.resolve(image_id, preferences) for image_id in image_ids]
        templates = await gateway.services.bulk_resolver.resolve_many(image_ids, preferences)
        for text, answer, template in zip(ids, answers, templates, strict=True):
            rendered, expected = json.loads(template.render(text)), answer.as_json()
            if answer.outcome is Outcome.UNKNOWN:
                expected["detail"] = answer.detail
            if expected["proof"]:  # the age is that of the proof, and time goes on
                assert 0 < expected.pop("age") <= rendered.pop("age")
            assert rendered == expected
            assert template.outcome == answer.outcome
    assert letter_case_of(ids[0]) == 0


@given(
    st.lists(
        st.one_of(
            st.uuids().map(str),
            st.uuids().map(lambda u: str(u).upper()),
            st.uuids().map(lambda u: u.hex),
            st.text(max_size=40),
            st.text("0123456789abcdef- \n_", min_size=36, max_size=36),
            st.integers(),
        ),
        max_size=12,
    )
)
async def test_ids_parsed_together_equal_ids_parsed_one_by_one(items: list[Any]) -> None:
    ids = await parse_ids(items)
    rest = iter(zip(ids.image_ids, ids.texts, strict=True))
    for place, item in enumerate(items):
        try:
            expected = parse_id(item) if isinstance(item, str) else None
        except InvalidImageId:
            expected = None
        if expected is None:
            assert ids.invalid[place] == item
        else:
            assert next(rest) == (expected, format_id(expected))
    assert next(rest, None) is None


@pytest.mark.parametrize(
    "malformed",
    [
        "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4 ",
        "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4g",
        "0a1b2c3d-4e5f-4a6b-8c7d--e0f1a2b3c4d",
        "0a1b2c3d04e5f-4a6b-8c7d-9e0f1a2b3c4d",
        "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4\u0664",
    ],
)
async def test_one_malformed_id_among_valid_ones_is_reported(malformed: str) -> None:
    valid = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
    ids = await parse_ids([valid, malformed, valid])
    assert (ids.texts, ids.invalid) == ([valid, valid], {1: malformed})


async def test_lookups_of_one_event_loop_turn_are_batched(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.location("one")
    ids = [str(uuid.UUID(int=n)) for n in range(20)]
    await gateway.claim("one", *ids)
    batch_sizes: list[int] = []
    lookup = gateway.services.index.claims.lookup

    async def counted(image_ids: Any, **options: Any) -> Any:
        batch_sizes.append(len(image_ids))
        return await lookup(image_ids, **options)

    monkeypatch.setattr(gateway.services.index.claims, "lookup", counted)
    answers = await asyncio.gather(
        *(gateway.services.resolver.resolve(uuid.UUID(text).bytes, Preferences()) for text in ids)
    )
    assert [answer.id for answer in answers] == ids
    assert batch_sizes == [20]
