"""`Index`: everything that is in Redis, behind one object, and how it is opened."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from resolver.errors import IndexUnavailable
from resolver.index.audit import Audit
from resolver.index.bucket_layout import BucketLayout
from resolver.index.cache import ClaimCache
from resolver.index.census import Census, take_census
from resolver.index.claim_counts import SharedCounts
from resolver.index.claims import Claims
from resolver.index.keys import Keys
from resolver.index.leases import Lease
from resolver.index.members import Membership
from resolver.index.observations import DEFAULT_SHRINK_GUARD, Observations
from resolver.index.processes import Processes
from resolver.index.rate_turns import Turns
from resolver.index.rebuild import Rebuild
from resolver.index.records import Records
from resolver.index.redis.client import DEFAULT_TIMEOUTS, RedisClient, RedisTimeouts
from resolver.index.redis.embedded import EmbeddedStore
from resolver.index.redis.pipelined_connection import InvalidationCallback
from resolver.index.redis.replies import parse_time
from resolver.index.redis.url import connect
from resolver.index.redis.url_file import UrlFileClient
from resolver.index.server_watch import ServerWatch
from resolver.index.sizing import Sizing
from resolver.problems import Problem


class Index:
    """Claims, the registry, leases and the audit log of one index."""

    def __init__(
        self,
        client: RedisClient,
        keys: Keys,
        bits: int | None,
        cache: ClaimCache,
        shrink_guard: float = DEFAULT_SHRINK_GUARD,
    ) -> None:
        self.client = client
        self._keys = keys
        self._layout = BucketLayout(client, keys, bits, cache)
        self._cache = cache
        self.claims = Claims(client, keys, self._layout, cache)
        self.claim_counts = SharedCounts(self.claims)
        self.records = Records(client, keys)
        self.observations = Observations(client, keys, self.claims, self.records, shrink_guard)
        self.audit = Audit(client, keys)
        self.processes = Processes(client, keys)
        self.rebuild = Rebuild(client, keys, self._layout)
        self.sizing = Sizing(client, self._layout, self.rebuild)
        self.turns = Turns(client, keys)
        self.server_watch = ServerWatch(client, keys)

    @property
    def bits(self) -> int:
        """The index has ``1 << bits`` buckets for random ids."""
        return self._layout.current.bits

    @property
    def buckets(self) -> int:
        """How many buckets it has, those for ids that are not random included."""
        return self._layout.current.count

    @property
    def spreads(self) -> bool:
        """Whether ids that are not random have buckets of their own."""
        return self._layout.current.spreads

    @property
    def embedded(self) -> bool:
        """Whether the index lives in this process and is lost with it."""
        return self.client.embedded

    @property
    def read_only_because(self) -> str:
        """Why this process must not write to the index; empty where it may."""
        return self.client.read_only_because

    def problems(self) -> Iterator[Problem]:
        """A `ProblemSource`."""
        if self.read_only_because:
            yield Problem(
                code="version-skew",
                text=f"This process only reads the index: {self.read_only_because}. It serves, and "
                "neither sweeps nor registers anything.",
                action="Upgrade this process to the version of the others.",
            )

    @property
    def identity_seen(self) -> str:
        """Identity of the index that this process saw last; empty before the first time."""
        return self._layout.identity

    @property
    def has_uppercase_ids(self) -> bool:
        """Whether a location was ever known to spell an id with upper-case digits: it may answer
        404 to any other spelling."""
        return self._layout.has_uppercase_ids

    async def identity(self) -> str:
        """Distinguishes this index from every other, also from itself before it lost its data.

        Raises:
            IndexLost: there is no index.
            IndexUnavailable: Redis does not answer.
        """
        await self._layout.refresh()
        return self._layout.identity

    async def create_if_missing(self) -> None:
        """Creates the index where there is none.

        Raises:
            SettingsError: there is one whose format this version does not read.
            IndexUnavailable: Redis does not answer, or accepts no writes.
        """
        await self._layout.create_if_missing()
        with contextlib.suppress(IndexUnavailable):  # such as where nothing may be written
            await self.server_watch.record_losses()  # what is lost from now on is noticed

    async def ping(self) -> None:
        """Raises IndexUnavailable unless Redis answers."""
        await self.client.command("PING")

    async def server_time(self) -> float:
        """The Unix time on the clock of a server; that of this process where the index is in it.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        servers = await self.client.servers()
        if not servers:
            return time.time()
        (reply,) = await self.client.ask(servers[0], [("TIME",)])
        return parse_time(reply)

    def lease(self, what: str, *, seconds: float, token: str | None = None) -> Lease:
        """A right to do ``what`` that one process at a time holds. ``token``: as for `Lease`."""
        return Lease(self.client, self._keys.lease(what), seconds, token)

    def indexer_membership(self, *, seconds: float) -> Membership:
        """This process among the indexers, each announced for so long."""
        return Membership(self.client, self._keys.indexers, seconds)

    async def census(self) -> Census:
        """Figures about the whole index; takes a walk through all buckets.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        return await take_census(self.client, self.claims)

    def oldest_reply_age(self) -> float:
        """Seconds for which the oldest request of a client has waited for a reply from Redis."""
        return self.client.oldest_reply_age()

    def tracking_current(self) -> bool:
        """Whether Redis has reported every change that was made a second ago or earlier."""
        return self.client.tracking_current()

    def on_invalidation(self, callback: InvalidationCallback) -> None:
        """Calls ``callback`` with the keys that have changed; with None when any key may have."""
        self.client.on_invalidation(callback)

    def clear_cache(self) -> None:
        """Drops every cached claim, stale ones included."""
        self._cache.clear()


@asynccontextmanager
async def open_index(
    url: str,
    *,
    url_file: str = "",
    prefix: str = "glr:",
    bits: int | None = None,
    cache: ClaimCache | None = None,
    create: bool = True,
    shrink_guard: float = DEFAULT_SHRINK_GUARD,
    timeouts: RedisTimeouts = DEFAULT_TIMEOUTS,
    store: EmbeddedStore | None = None,
) -> AsyncIterator[Index]:
    """The index of a URL, created if it is missing.

    ``url_file``: a file that holds the URL instead, and is read again when it changes.
    ``bits``: how many buckets a new index gets, as a power of two; None for the default. An index
    that exists keeps its number. ``cache``: where this process caches claims; None for nowhere.
    ``create`` False: nothing is sent yet. ``shrink_guard``: see `Observations`. ``store``: the data
    of an index in this process; None: it begins empty.

    Raises:
        SettingsError: the URL cannot be used, or the index has a format that this version does
            not read.
        IndexUnavailable: Redis does not answer.
    """
    client = UrlFileClient(url_file, timeouts) if url_file else connect(url, timeouts, store)
    try:
        index = Index(client, Keys(prefix), bits, cache or ClaimCache(0, 0), shrink_guard)
        if create:
            await index.create_if_missing()
        yield index
    finally:
        await client.close_in_time()
