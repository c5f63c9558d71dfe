"""Millions of ids in little memory."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator


class PackedIds:
    """Sorted UUIDs, 16 bytes each."""

    def __init__(self, packed: bytes = b"") -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed) // 16

    def __contains__(self, image_id: str) -> bool:
        position = bisect_left(range(len(self)), image_id, key=self.at)
        return position < len(self) and self.at(position) == image_id

    def at(self, position: int) -> str:
        """The id at a position, as Glance writes it."""
        text = self._packed[position * 16 : position * 16 + 16].hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def with_random(self, count: int, seed: int | None, prefix: bytes) -> PackedIds:
        """These ids and `count` random v4 ones that begin with `prefix`, 12 bytes at most."""
        if len(prefix) > 12:
            raise ValueError("the prefix leaves no room for random bytes")
        rng, found = random.Random(seed), set(self._image_ids())
        target = len(found) + count
        while len(found) < target:
            image_id = bytearray(prefix + rng.randbytes(16 - len(prefix)))
            image_id[6] = image_id[6] & 0x0F | 0x40  # version 4
            image_id[8] = image_id[8] & 0x3F | 0x80  # the variant of RFC 9562
            found.add(bytes(image_id))
        return PackedIds(b"".join(sorted(found)))

    def with_ids(self, ids: Iterable[bytes]) -> PackedIds:
        """These ids and others."""
        return PackedIds(b"".join(sorted({*self._image_ids(), *ids})))

    def _image_ids(self) -> Iterator[bytes]:
        return (self._packed[at : at + 16] for at in range(0, len(self._packed), 16))
