"""Text made once for many images says what each answer by itself would."""

from __future__ import annotations

import json
import random

from resolver.locations import Wish
from resolver.models import format_id, letter_case, parse_id
from tests.gateway.conftest import V1, Gateway


async def test_bulk_text_is_the_single_answer_for_every_mix_of_owners(gateway: Gateway) -> None:
    await gateway.location("a", region="north")
    await gateway.location("b", region="south", weight=3)
    await gateway.location("c", region="south", versions=V1)
    await gateway.location("d", state="draining")
    await gateway.location("e", state="maintenance", reason="disks")
    rng = random.Random(7)
    ids = [format_id(rng.randbytes(16)) for _ in range(400)]
    for text in ids:
        for name in rng.sample("abcde", rng.choice((0, 1, 1, 2, 3))):
            await gateway.claim(name, text.upper() if rng.random() < 0.1 else text)
    resolver = gateway.services.resolver
    raws = [parse_id(text) for text in ids]
    for wish in (Wish(), Wish(region="south"), Wish(exclude=frozenset("a"))):
        answers = await resolver.resolve(raws, wish)
        forms = await resolver.resolve_text(raws, wish)
        for text, answer, form in zip(ids, answers, forms, strict=True):
            assert json.loads(form.fill(text)) == answer.as_json()
            assert form.outcome == answer.outcome
    assert letter_case(ids[0]) == 0
