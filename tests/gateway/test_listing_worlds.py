"""Any federation is listed to its end with each image once, however its images share their times.

Most times are of a few seconds, within which rows do not show their order.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.gateway.conftest import Gateway
from tests.gateway.test_listing import BEGAN, KEYS, add_random, new_id
from tests.support.clouds import Cloud
from tests.support.listings import all_rows


@pytest.mark.parametrize("seed", [3, 13, 22, 40, 50])
async def test_each_image_is_listed_once(gateway: Gateway, cloud: Cloud, seed: int) -> None:
    """All but 3 lost rows where a page ended with a copy of another location's first row."""
    rng = random.Random(seed)
    await fill(cloud, rng)
    expected = {image_id for server in cloud.servers.values() for image_id in server.ids()}
    for _ in range(5):
        sort = random_sort(rng)
        limit = rng.choice([1, 2, 3, 5, 7, 25])
        rows = await all_rows(gateway.get, f"/v2/images?limit={limit}{sort}")
        assert Counter(row["id"] for row in rows) == dict.fromkeys(expected, 1), (sort, limit)


async def fill(cloud: Cloud, rng: random.Random) -> None:
    """Adds up to six locations, with images of their own and copies of others'."""
    names = [f"l{n}" for n in range(rng.choice([2, 3, 4, 6]))]
    seconds = rng.choice([1, 2, 3, 10])

    def time() -> float:
        return BEGAN + rng.randrange(seconds) + rng.choice([0, rng.random()])

    for name in names:
        fields = {"priority": rng.choice([0, 0, 1, 2])}
        server = await cloud.add(name, old=rng.random() < 0.15, fields=fields)
        for _ in range(rng.choice([0, 3, 12])):
            add_random(rng, server, 1, created=time())
    for _ in range(rng.choice([0, 3, 10, 25])):
        image_id, same = new_id(rng), time()
        for name in rng.sample(names, rng.randint(2, len(names))):
            created = same if rng.random() < 0.3 else time()
            image_name = rng.choice(["shared", None, "debian"])
            cloud.servers[name].add(id=image_id, name=image_name, created=created)
            await cloud.claim(name, image_id)


def random_sort(rng: random.Random) -> str:
    """``&sort=…``, or nothing."""
    if rng.random() < 0.5:
        return ""
    keys = rng.sample(KEYS, rng.choice([1, 1, 2, 3]))
    return "&sort=" + ",".join(f"{key}:{rng.choice(['asc', 'desc'])}" for key in keys)
