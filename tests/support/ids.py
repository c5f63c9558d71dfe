"""Image ids for tests, as the 16 bytes that the index takes."""

from __future__ import annotations

import random


def make_ids(count: int, *, seed: int = 1, prefix: bytes = b"") -> list[bytes]:
    """Different ids in no order, the same ones for the same arguments."""
    rng = random.Random(seed)
    found: dict[bytes, None] = {}
    while len(found) < count:
        found[prefix + rng.randbytes(16 - len(prefix))] = None
    return list(found)


def make_id(number: int) -> bytes:
    """The id whose last bytes are `number`."""
    return number.to_bytes(16, "big")
