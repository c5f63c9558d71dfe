"""How claims are written: an image id as (bucket, field), its owners as a few bytes.

Owners are concatenated entries. An entry is a base-128 varint (least significant group first) of
``number << 1``, so the first 63 locations take one byte and the next 8,128 two. Where a location
spells the id with upper-case digits, the varint's lowest bit is set and four bytes follow, one bit
per hex digit (see `resolver.models.letter_case_of`). ``scripts/owners.lua`` reads the same form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from resolver.models import MAX_BITS, MIN_BITS, Owner


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
    return b"".join(map(encode_owner, owners))


@lru_cache(maxsize=4096)
def decode_owners(value: bytes) -> tuple[Owner, ...]:
    """The owners in a bucket's value. Values repeat (most images have one owner), hence the cache.

    Raises:
        ValueError: for bytes that `encode_owners` does not write.
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


KEPT_KEYS = 1 << 16
"""Names of buckets, and questions, kept rather than made anew each time: some 20 MB at most."""


CACHE_BUCKET_BITS = 16
"""A process keeps what it has read on ``1 << SHELF_BITS`` shelves at most: a shelf for one image
takes twice the image's own bytes."""


class Buckets:
    """Where an id lies in an index of ``1 << bits`` buckets.

    The field keeps whole bytes, so for ``bits`` that are no multiple of 8 the bucket's last bits
    stand in the field too.
    """

    def __init__(self, key_prefix: bytes, bits: int) -> None:
        if not MIN_BITS <= bits <= MAX_BITS:
            raise ValueError(f"bits must be {MIN_BITS} to {MAX_BITS}")
        self.bits = bits
        self.count = 1 << bits
        self.cut = bits // 8
        self.width = 16 - self.cut
        """Bytes of a field."""
        self._key_prefix = key_prefix
        self.shift = 32 - bits
        self.coarse = max(0, bits - CACHE_BUCKET_BITS)
        """A bucket's shelf is its number shifted right by this."""
        self._shelf_shift = self.shift + self.coarse
        self._digits = -(-bits // 4)
        self._keys: dict[int, bytes] = {}
        self.questions: dict[int, bytes] = {}
        """What `question` has made: a dict, so that a lookup of thousands need not call."""

    def spans(self, size: int, first: int = 0, stop: int | None = None) -> Iterator[range]:
        """All buckets, or those from ``first`` to before ``stop``, ``size`` at a time."""
        stop = self.count if stop is None else stop
        for start in range(first, stop, size):
            yield range(start, min(start + size, stop))

    def number(self, image_id: bytes) -> int:
        """The bucket of an id."""
        return int.from_bytes(image_id[:4], "big") >> self.shift

    def cache_bucket(self, image_id: bytes) -> int:
        """Where an id is kept in a process: with its bucket, or where these are many with those
        beside it."""
        return int.from_bytes(image_id[:4], "big") >> self._shelf_shift

    def key(self, bucket: int) -> bytes:
        key = self._keys.get(bucket)
        if key is None:
            key = self._key_prefix + b"%0*x" % (self._digits, bucket)
            if len(self._keys) < KEPT_KEYS:
                self._keys[bucket] = key
        return key

    def bucket_of(self, key: bytes) -> int | None:
        """The bucket with this key; None for another key."""
        if not key.startswith(self._key_prefix):
            return None
        return int(key[len(self._key_prefix) :], 16)

    def question(self, bucket: int) -> bytes:
        """``HGET`` of a field in the bucket as RESP, but for the field and its CRLF."""
        key = self.key(bucket)
        head = b"*3\r\n$4\r\nHGET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(key), key, self.width)
        if len(self.questions) < KEPT_KEYS:
            self.questions[bucket] = head
        return head

    def field(self, image_id: bytes) -> bytes:
        return image_id[self.cut :]

    def join(self, bucket: int, field: bytes) -> bytes:
        """The id of a field in a bucket."""
        if not self.cut:
            return field
        return (bucket >> self.bits % 8).to_bytes(self.cut, "big") + field
