"""Where an image id lies: in which bucket, and under which field of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from resolver.index.redis.field_packer import FieldPacker
from resolver.index.spreading import gather, spread, spread_head
from resolver.models import MAX_BITS, MIN_BITS

MAX_CACHED_KEYS = 1 << 16
"""Names of buckets that are kept instead of made each time; some 10 MB at most."""

CACHE_BUCKET_BITS = 16  # the first two bytes of an id
"""A process caches claims in at most ``1 << CACHE_BUCKET_BITS`` buckets of each half: a bucket with
one image takes twice the image's own bytes."""

SPREAD_CODE = 100
"""Added to the bits that the index's meta has, where ids that are not random are spread."""

SPREAD_HALF = b"s"
"""No hexadecimal digit, so that keys of the two halves differ."""


class Buckets:
    """The buckets of one index: ``1 << bits``, or twice as many.

    The bucket of an id is its first ``bits`` bits. The field is the rest of the id in whole bytes,
    so for ``bits`` that are not a multiple of 8 some bits of the bucket stand in the field too.

    With ``spreads`` this is so for random ids only, of UUID version 4. The others lie in a second
    half of the buckets, each as if it were another id (`resolver.index.spreading`). So the first
    half is in UUID order, the second in none, and neither half is crowded.
    """

    def __init__(self, key_prefix: bytes, bits: int, *, spreads: bool = False) -> None:
        """Raises ValueError for ``bits`` out of range."""
        if not MIN_BITS <= bits <= MAX_BITS:
            raise ValueError(f"bits must be {MIN_BITS} to {MAX_BITS}")
        self.bits = bits
        self.spreads = spreads
        self.code = bits + SPREAD_CODE * spreads
        """How the index's meta names these buckets."""
        self.half = 1 << bits
        """Buckets in UUID order; numbers from here on are those of the second half."""
        self.count = self.half << spreads
        self.shift = 32 - bits
        """The bucket of an id is its first 32 bits shifted right by this."""
        self.cut = bits // 8
        """Bytes of an id in front of the field."""
        self.field_bytes = 16 - self.cut
        self.key_prefix = key_prefix
        """What the keys of all buckets begin with."""
        self._spread_prefix = key_prefix + SPREAD_HALF
        self._key_digits = -(-bits // 4)
        self._keys: dict[int, bytes] = {}
        self._cache_shift = max(0, bits - CACHE_BUCKET_BITS)
        self._cache_id_shift = CACHE_BUCKET_BITS - bits + self._cache_shift
        where = (self.key, self.locate, self.shift, self.cut)
        self.hget_packer = FieldPacker(b"HGET", 3, *where)
        self.hsetnx_packer = FieldPacker(b"HSETNX", 4, *where)

    def spans(self, size: int) -> Iterator[range]:
        """All buckets, ``size`` at a time."""
        for start in range(0, self.count, size):
            yield range(start, min(start + size, self.count))

    def is_ordered(self, image_id: bytes) -> bool:
        """Whether an id lies in the first half, which is in UUID order."""
        return image_id[6] >> 4 == 4 or not self.spreads

    def stored_form(self, image_id: bytes) -> bytes:
        """The 16 bytes whose leading bits are the bucket, within its half, and whose others are
        the field."""
        return image_id if self.is_ordered(image_id) else spread(image_id)

    def locate(self, image_id: bytes) -> tuple[int, bytes]:
        """The bucket of an id, and its field there."""
        if image_id[6] >> 4 == 4 or not self.spreads:  # inlined: `is_ordered`
            return int.from_bytes(image_id[:4], "big") >> self.shift, image_id[self.cut :]
        head = spread_head(image_id)
        field = head.to_bytes(4, "big")[self.cut :] + image_id[4:]
        return self.half | head >> self.shift, field

    def group(self, ids: Iterable[bytes]) -> dict[int, list[bytes]]:
        """These ids by bucket."""
        shift, number = self.shift, self.number
        found: dict[int, list[bytes]] = {}
        for image_id in ids:
            bucket = (
                int.from_bytes(image_id[:4], "big") >> shift
                if image_id[6] >> 4 == 4
                else number(image_id)
            )
            if bucket in found:
                found[bucket].append(image_id)
            else:
                found[bucket] = [image_id]
        return found

    def number(self, image_id: bytes) -> int:
        """The bucket of an id."""
        return self.locate(image_id)[0]

    def position(self, image_id: bytes) -> int:
        """The bucket of the first half that an id belongs to in UUID order, also where it lies in
        the second."""
        return int.from_bytes(image_id[:4], "big") >> self.shift

    def cache_bucket(self, image_id: bytes) -> int:
        """The bucket of a process's cache that an id belongs to: its bucket in Redis, or several
        neighbours of it together where there are very many."""
        if image_id[6] >> 4 == 4 or not self.spreads:  # inlined: `is_ordered`
            # Twice as fast as an int.
            return (image_id[0] << 8 | image_id[1]) >> self._cache_id_shift
        return (self.half | spread_head(image_id) >> self.shift) >> self._cache_shift

    def cache_bucket_of_key(self, key: bytes) -> int | None:
        """The bucket of a process's cache for a bucket's key; None for any other key."""
        if not key.startswith(self.key_prefix):
            return None
        is_spread = self.spreads and key.startswith(self._spread_prefix)
        digits = key[len(self._spread_prefix if is_spread else self.key_prefix) :]
        try:
            return (int(digits, 16) + is_spread * self.half) >> self._cache_shift
        except ValueError:  # somebody else's key
            return None

    def key(self, bucket: int) -> bytes:
        """The Redis key of a bucket."""
        key = self._keys.get(bucket)
        if key is None:
            prefix = self.key_prefix if bucket < self.half else self._spread_prefix
            key = prefix + b"%0*x" % (self._key_digits, bucket % self.half)
            if len(self._keys) < MAX_CACHED_KEYS:
                self._keys[bucket] = key
        return key

    def stored_head(self, bucket: int) -> bytes:
        """What stands before each field of a bucket in the `stored_form` of its ids."""
        return (bucket % self.half >> self.bits % 8).to_bytes(self.cut, "big") if self.cut else b""

    def field(self, image_id: bytes) -> bytes:
        """The field of an id in its bucket."""
        return self.locate(image_id)[1]

    def join(self, bucket: int, field: bytes) -> bytes:
        """The id of a field in a bucket."""
        found = self.stored_head(bucket) + field
        return found if bucket < self.half else gather(found)
