"""The value of a field in a bucket: an image's owners as a few bytes.

Owners are concatenated entries. An entry is a base-128 varint (least significant group first) of
``number << 1``, so the first 63 locations take one byte and the next 8,128 two. Where a location
spells the id with upper-case digits, the varint's lowest bit is set and four bytes follow, one bit
per hex digit (see `resolver.models.letter_case_of`).

Two Lua scripts use the same form: ``claim_images.lua`` writes entries, ``owners.lua`` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from resolver.models import Owner


def encode_owner(owner: Owner) -> bytes:
    """One owner's entry."""
    rest = owner.number << 1 | (owner.letter_case != 0)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    if owner.letter_case:
        out += owner.letter_case.to_bytes(4, "big")
    return bytes(out)


def encode_owners(owners: Iterable[Owner]) -> bytes:
    """The entries of several owners, in their order."""
    return b"".join(map(encode_owner, owners))


@lru_cache(maxsize=4096)
def decode_owners(value: bytes) -> tuple[Owner, ...]:
    """The owners in the value of a field. Values repeat (most images have one owner), so the
    result is cached.

    Raises:
        ValueError: `encode_owners` does not write such bytes.
    """
    owners = []
    at = 0
    while at < len(value):
        entry = shift = 0
        while True:
            if at >= len(value):
                raise ValueError(f"owners cut short: {value.hex()}")
            byte = value[at]
            at += 1
            entry |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        letter_case = 0
        if entry & 1:
            letter_case = int.from_bytes(value[at : at + 4], "big")
            at += 4
            if at > len(value):
                raise ValueError(f"owners cut short: {value.hex()}")
        owners.append(Owner(entry >> 1, letter_case))
    return tuple(owners)
