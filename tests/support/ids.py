"""Image ids for tests, as the 16 bytes that the index takes."""

from __future__ import annotations

import random


def make_ids(
    count: int, *, seed: int = 1, prefix: bytes = b"", version: int | None = 4
) -> list[bytes]:
    """Different ids in no order, the same ones for the same arguments. ``version``: of the UUIDs,
    whose other bits are random; None where that is random too."""
    rng = random.Random(seed)
    found: dict[bytes, None] = {}
    while len(found) < count:
        image_id = bytearray(prefix + rng.randbytes(16 - len(prefix)))
        if version is not None:
            image_id[6] = version << 4 | image_id[6] & 0x0F
        found[bytes(image_id)] = None
    return list(found)


def make_v1_ids(count: int, *, seed: int = 1) -> list[bytes]:
    """UUIDs of version 1, as one computer makes them within some minutes: all that differs is the
    time in steps of 100 ns, of which the first four bytes are the low ones."""
    rng = random.Random(seed)
    ticks = 0x1F0_9A3C_5544_0000
    found = []
    for _ in range(count):
        ticks += rng.randrange(1, 2000)
        low, middle, high = ticks & 0xFFFFFFFF, ticks >> 32 & 0xFFFF, ticks >> 48
        head = low << 32 | middle << 16 | 0x1000 | high
        found.append(head.to_bytes(8, "big") + bytes.fromhex("9d3e02420a0b0c0d"))
    return found


def make_v6_ids(count: int, *, seed: int = 1) -> list[bytes]:
    """The same ids as UUIDs of version 6: the time from its high bits to its low ones."""
    return [_as_version_6(image_id) for image_id in make_v1_ids(count, seed=seed)]


def _as_version_6(image_id: bytes) -> bytes:
    head = int.from_bytes(image_id[:8], "big")
    ticks = (head & 0xFFF) << 48 | (head >> 16 & 0xFFFF) << 32 | head >> 32
    return (ticks >> 12 << 16 | 0x6000 | ticks & 0xFFF).to_bytes(8, "big") + image_id[8:]


def make_v7_ids(count: int, *, seed: int = 1) -> list[bytes]:
    """UUIDs of version 7 in the order of their times, ten or so in a second."""
    rng = random.Random(seed)
    milliseconds = 0x0193_8A5C_0000
    found = []
    for _ in range(count):
        milliseconds += rng.randrange(200)
        tail = rng.getrandbits(80) & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62
        found.append((milliseconds << 80 | tail).to_bytes(16, "big"))
    return found


def first_id(prefix: bytes) -> bytes:
    """The first id of version 4 that begins with `prefix`, of 6 bytes at most."""
    return prefix.ljust(6, b"\0") + b"\x40" + bytes(9)


def make_id(number: int) -> bytes:
    """The id whose last bytes are `number`."""
    return number.to_bytes(16, "big")
