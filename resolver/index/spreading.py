"""Ids that are not random, and where they lie instead.

A bucket has the ids that begin with the same bits, which shares out random ids (UUID version 4)
evenly. Other versions begin with a time, so that all ids of some weeks begin alike. They are spread
first: their first 32 bits are replaced by a hash from which, with the other 96 bits, they can be
computed again.

::

    id      01938a5c-00be-7c10-9d3e-710455e80b2f
            ───┬────   ────────────┬────────────
               │ by a constant     │ CRC-32
               └───────▶ xor ◀─────┴──▶ stays as it is
    spread  09910c80-00be-7c10-9d3e-710455e80b2f

The CRC brings in what differs in the other 96 bits: ids of version 7 that were made within a
minute differ in their last 62 bits only. The multiplication brings the low bits of the first 32 to
the top: ids of version 1 that one computer made within minutes differ in these only.
"""

from __future__ import annotations

from zlib import crc32

_HEAD_BYTES = 4
_HEAD_MASK = 0xFFFFFFFF

_FACTOR = 0x9E3779B1
"""2^32 divided by the golden ratio: neighbours end up far apart (Knuth, TAOCP 3, 6.4)."""

_INVERSE_FACTOR = pow(_FACTOR, -1, 1 << 32)


def is_random(image_id: bytes) -> bool:
    """Whether an id is of UUID version 4 (RFC 9562, 5.4): all its leading bits are random."""
    return image_id[6] >> 4 == 4


def spread_head(image_id: bytes) -> int:
    """The 32 bits that replace the first 32 bits of an id."""
    head = int.from_bytes(image_id[:_HEAD_BYTES], "big")
    return head * _FACTOR & _HEAD_MASK ^ crc32(image_id[_HEAD_BYTES:])


def spread(image_id: bytes) -> bytes:
    """16 other bytes whose leading bits are spread evenly. No two ids have the same."""
    return spread_head(image_id).to_bytes(_HEAD_BYTES, "big") + image_id[_HEAD_BYTES:]


def gather(spread_id: bytes) -> bytes:
    """The id of which `spread` made these bytes."""
    rest = spread_id[_HEAD_BYTES:]
    head = int.from_bytes(spread_id[:_HEAD_BYTES], "big") ^ crc32(rest)
    return (head * _INVERSE_FACTOR & _HEAD_MASK).to_bytes(_HEAD_BYTES, "big") + rest
