"""Locations of all kinds, for tests that compare two ways to the same answers."""

from __future__ import annotations

import random
import uuid

from tests.gateway.conftest import V1, V2, Gateway

REGIONS = [{}, {"region": "north"}, {"region": "south", "networks": ["10.0.0.0/8"]}]


async def register_random_locations(gateway: Gateway, rng: random.Random, images: int) -> list[str]:
    """Registers locations of all kinds. Returns ids of images, all but the first with owners."""
    names = [f"l{n}" for n in range(rng.randint(1, 4))]
    for name in names:
        await gateway.location(
            name,
            url=f"{rng.choice(['http', 'https'])}://{name}.example:9292{rng.choice(['', '/a/b'])}",
            versions=rng.choice([V1, V2, V1 + V2, ()]),
            state=rng.choice(["active", "active", "active", "draining", "maintenance"]),
            priority=rng.choice([100, 100, 50]),
            weight=rng.choice([1, 1, 3, 0]),
            **rng.choice(REGIONS),
            covered=rng.random() < 0.7,
        )
    ids = [str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(images)]
    for text in ids[1:]:
        for name in rng.sample(names, rng.randint(1, len(names))):
            await gateway.claim(name, text.upper() if rng.random() < 0.15 else text)
    return ids
