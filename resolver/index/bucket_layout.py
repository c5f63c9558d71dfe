"""Which index Redis has, and how many buckets it has, as this process knows it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets

import structlog

from resolver.errors import IndexLost, IndexUnavailable, SettingsError
from resolver.index.buckets import SPREAD_CODE, Buckets
from resolver.index.cache import ClaimCache
from resolver.index.index_format import (
    ADOPT,
    FORMAT,
    META_FIELDS,
    OLDEST_READER,
    OLDEST_WRITER,
    UPPERCASE,
    Meta,
    new_index_fields,
    parse_meta,
)
from resolver.index.keys import Keys
from resolver.index.leases import Lease
from resolver.index.redis.client import RedisClient
from resolver.index.redis.replies import parses_reply
from resolver.index.redis.scripts import load
from resolver.index.stale_buckets import drop_stale_buckets

CREATION_SECONDS = 10.0
"""How long one process has the right to make the index."""

CREATION_POLL_SECONDS = 0.05
"""Between two checks whether another process has made it."""

CREATE = load("create_index")
SET_META_FIELD = load("set_meta_field")

DEFAULT_BITS = 8
"""256 buckets, for up to 71,680 images; then the index grows (`resolver.index.sizing`)."""

log = structlog.get_logger("index")


class BucketLayout:
    """The buckets to read and to write, and the identity of the index.

    While the index is rebuilt with another number of buckets, writes go to the old and the new
    ones, and reads use the old ones until the new are complete.

    An index gets a random identity when it is created, and every lookup brings it along. A Redis
    without one has lost its data. What was read before that must not be combined with what is read
    afterwards, since locations get new numbers.
    """

    def __init__(
        self, client: RedisClient, keys: Keys, bits: int | None, cache: ClaimCache
    ) -> None:
        """``bits``: for a new index; None for the default."""
        self._client = client
        self._keys = keys
        self._cache = cache
        self._configured_bits = bits
        self._by_code: dict[int, Buckets] = {}
        self.current = self.of(bits or DEFAULT_BITS)
        self.next: Buckets | None = None
        """The buckets of a rebuild that is under way."""
        self.identity = ""
        """Empty before the index was seen for the first time."""
        self.stored: list[bytes] = []
        """What Redis had in the fields `READ_WITH_CLAIMS` when the rest was read."""
        self.has_uppercase_ids = False
        """Whether a claim's id was ever spelled with upper-case digits, as far as was read."""

    def of(self, bits: int, *, spreads: bool = True) -> Buckets:
        """The buckets of an index of ``1 << bits``; ``spreads`` as for `Buckets`. Raises ValueError
        for bits out of range."""
        code = bits + SPREAD_CODE * spreads
        if code not in self._by_code:
            prefix = self._keys.bucket_prefix(bits, spreads=spreads)
            self._by_code[code] = Buckets(prefix, bits, spreads=spreads)
        return self._by_code[code]

    @parses_reply
    def of_stored(self, code: int) -> Buckets:
        """The same for a `Buckets.code` that was read from Redis.

        Raises:
            IndexUnavailable: no index of ours has such buckets.
        """
        spreads = code >= SPREAD_CODE
        return self.of(code - SPREAD_CODE * spreads, spreads=spreads)

    @property
    def has_configured_bits(self) -> bool:
        """Whether the operator chose the number of buckets."""
        return self._configured_bits is not None

    def to_write(self) -> list[Buckets]:
        """The buckets that every write must reach."""
        return [self.current] if self.next is None else [self.current, self.next]

    async def refresh(self) -> None:
        """Reads it from Redis.

        Raises:
            IndexLost: there is no index.
            IndexUnavailable: Redis does not answer, or has an index of another format.
        """
        meta = await self._read()
        if meta is None:
            raise IndexLost("Redis has lost the index", headers={"Retry-After": "2"})
        if meta.unreadable_because:
            raise IndexUnavailable(
                meta.unreadable_because, headers={"Retry-After": "30"}
            ) from SettingsError(meta.unreadable_because)
        await self._use(meta)

    async def record_uppercase_ids(self) -> None:
        """Records that ids with upper-case digits are about to be claimed.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        if not self.has_uppercase_ids:
            await self._client.run(SET_META_FIELD, [self._keys.meta], [UPPERCASE, 1])

    async def create_if_missing(self) -> None:
        """Creates the index where there is none, and reads it.

        Raises:
            SettingsError: there is one of another format.
            IndexUnavailable: Redis does not answer, or accepts no writes.
        """
        while (meta := await self._read()) is None:
            await self._create()
        if meta.unreadable_because:
            raise SettingsError(meta.unreadable_because)
        await self._use(meta)

    async def _create(self) -> None:
        """Makes the index, or waits a moment for the process that does.

        Redis may have lost a part of an earlier index. Claims that are left have numbers that new
        locations get, so they are dropped first; nobody else may write meanwhile. Statuses that are
        left go too: their sweeps would prove the absence of images whose claims are gone.
        """
        token = secrets.token_hex(8)
        right = Lease(self._client, self._keys.creating, CREATION_SECONDS, token)
        if not await right.acquire():
            await asyncio.sleep(CREATION_POLL_SECONDS)
            return

        async def keep_right() -> None:
            if not await right.renew():
                raise IndexUnavailable("another process is making the index")

        try:
            if await self._read() is not None:  # made just before we got the right
                return
            new = self.of(self.current.bits)
            await drop_stale_buckets(self._client, new, keep_right)
            await keep_right()
            fields = {
                **new_index_fields(),
                "bits": new.code,
                "identity": secrets.token_hex(4),
            }
            pairs = [str(item) for pair in fields.items() for item in pair]
            keys = self._keys
            await self._client.run(
                CREATE, [keys.meta, keys.creating, keys.status, keys.progress], [token, *pairs]
            )
        finally:
            await right.release()

    async def _read(self) -> Meta | None:
        return parse_meta(await self._client.command("HMGET", self._keys.meta, *META_FIELDS))

    async def _use(self, meta: Meta) -> None:
        if self._client.read_only_because != meta.read_only_because:
            self._client.read_only_because = meta.read_only_because
            log.warning(
                "index accepts writes" if not meta.read_only_because else "index read only",
                reason=meta.read_only_because,
            )
        if meta.newest < FORMAT and not meta.read_only_because:
            await self._take_over(meta)
        current = self.of_stored(meta.code)
        following = None if meta.next_code is None else self.of_stored(meta.next_code)
        if not self.identity and self._configured_bits not in (None, current.bits):
            log.warning(
                "RESOLVER_INDEX_BITS ignored: the index exists with another number of buckets",
                setting=self._configured_bits,
                index=current.bits,
                hint="`glance-resolver index rebuild --bits N` changes it",
            )
        if self.identity != meta.identity or self.current is not current:
            self._cache.clear()
        self.current, self.next, self.identity = current, following, meta.identity
        self.stored, self.has_uppercase_ids = meta.stored, meta.has_uppercase_ids

    async def _take_over(self, meta: Meta) -> None:
        """Records that a program of our format uses the index from now on. A Redis that accepts no
        writes is asked again at the next refresh: reads need no takeover."""
        with contextlib.suppress(IndexUnavailable):
            await self._client.run(ADOPT, [self._keys.meta], [FORMAT, OLDEST_READER, OLDEST_WRITER])
            log.info("index taken over", of_format=meta.newest, format=FORMAT)
