"""Where an image id lies: in which bucket, and under which field of it."""

from __future__ import annotations

from collections.abc import Iterator

from resolver.index.redis.hget_packer import HgetPacker
from resolver.models import MAX_BITS, MIN_BITS

MAX_CACHED_KEYS = 1 << 16
"""Names of buckets that are kept instead of made each time; some 10 MB at most."""

CACHE_BUCKET_BITS = 16  # the first two bytes of an id
"""A process caches claims in at most ``1 << CACHE_BUCKET_BITS`` buckets: a bucket with one image
takes twice the image's own bytes."""


class Buckets:
    """The ``1 << bits`` buckets of one index.

    The bucket of an id is its first ``bits`` bits. The field is the rest of the id in whole bytes,
    so for ``bits`` that are no multiple of 8 some bits of the bucket stand in the field too.
    """

    def __init__(self, key_prefix: bytes, bits: int) -> None:
        """Raises ValueError for ``bits`` out of range."""
        if not MIN_BITS <= bits <= MAX_BITS:
            raise ValueError(f"bits must be {MIN_BITS} to {MAX_BITS}")
        self.bits = bits
        self.count = 1 << bits
        self.shift = 32 - bits
        """The bucket of an id is its first 32 bits shifted right by this."""
        self.cut = bits // 8
        """Bytes of an id in front of the field."""
        self.field_bytes = 16 - self.cut
        self.key_prefix = key_prefix
        """What the keys of all buckets begin with."""
        self._key_digits = -(-bits // 4)
        self._keys: dict[int, bytes] = {}
        self._cache_shift = max(0, bits - CACHE_BUCKET_BITS)
        self._cache_id_shift = CACHE_BUCKET_BITS - bits + self._cache_shift
        self.hget_packer = HgetPacker(self.key, self.shift, self.cut)

    def spans(self, size: int) -> Iterator[range]:
        """All buckets, ``size`` at a time."""
        for start in range(0, self.count, size):
            yield range(start, min(start + size, self.count))

    def number(self, image_id: bytes) -> int:
        """The bucket of an id."""
        return int.from_bytes(image_id[:4], "big") >> self.shift

    def cache_bucket(self, image_id: bytes) -> int:
        """The bucket of a process's cache that an id belongs to: its bucket in Redis, or several
        neighbours of it together where there are very many."""
        return (image_id[0] << 8 | image_id[1]) >> self._cache_id_shift  # twice as fast as an int

    def cache_bucket_of_key(self, key: bytes) -> int | None:
        """The bucket of a process's cache for a bucket's key; None for any other key."""
        if not key.startswith(self.key_prefix):
            return None
        try:
            return int(key[len(self.key_prefix) :], 16) >> self._cache_shift
        except ValueError:  # somebody else's key
            return None

    def key(self, bucket: int) -> bytes:
        """The Redis key of a bucket."""
        key = self._keys.get(bucket)
        if key is None:
            key = self.key_prefix + b"%0*x" % (self._key_digits, bucket)
            if len(self._keys) < MAX_CACHED_KEYS:
                self._keys[bucket] = key
        return key

    def field(self, image_id: bytes) -> bytes:
        """The field of an id in its bucket."""
        return image_id[self.cut :]

    def join(self, bucket: int, field: bytes) -> bytes:
        """The id of a field in a bucket."""
        if not self.cut:
            return field
        return (bucket >> self.bits % 8).to_bytes(self.cut, "big") + field
