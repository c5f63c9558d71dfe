"""Reading the index for requests: caches first, one deadline, stale answers while Redis fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from resolver.errors import IndexLost, IndexUnavailable
from resolver.index import Index
from resolver.models import Owner
from resolver.registry import Table, TableKeeper
from resolver.registry.table import index_timeout_error
from resolver.resolution.batcher import LookupBatcher, OnResult
from resolver.resolution.breaker import Breaker

IDS_PER_EXTRA_DEADLINE = 1000
"""A read of this many ids may take one deadline longer."""

Claims = tuple[Owner, ...]


class LookupResult(NamedTuple):
    """An image's claims, and the table that their location numbers belong to."""

    table: Table
    claims: Claims
    source: str = "index"
    """``index``, ``cache`` (this process, invalidated by Redis) or ``stale`` (this process, while
    Redis does not answer)."""
    age: float = 0.0
    """Seconds since the source was read."""
    index_error: IndexUnavailable | None = None
    """Why Redis was not asked, or did not answer."""
    seconds: float = 0.0
    """How long the index took."""


class IndexBudget:
    """The seconds that one request may still wait for the index."""

    def __init__(self, seconds: float) -> None:
        self.seconds = max(seconds, 0.0)

    def spend(self, seconds: float) -> None:
        self.seconds = max(self.seconds - seconds, 0.0)


class IndexReader:
    """Reads claims and keeps requests from waiting longer than they may."""

    def __init__(
        self,
        index: Index,
        tables: TableKeeper,
        *,
        deadline: float,
        stale_for: float,
        on_claims: Callable[[Sequence[bytes], Sequence[Claims]], None],
    ) -> None:
        """Args:
        deadline: seconds that one read may take (RESOLVER_INDEX_TIMEOUT); more for many ids.
        stale_for: seconds for which the last known claims and table serve while Redis fails.
        on_claims: called with the ids of each batch of single reads, and the claims of each.
        """
        self._index = index
        self._tables = tables
        self.deadline = deadline
        self._stale_for = stale_for
        self._on_claims = on_claims
        self._batcher: LookupBatcher[LookupResult] = LookupBatcher(self._read_batch)
        self.breaker = Breaker(self._try_again)
        self._failed_ids: Sequence[bytes] = ()
        """The ids of the last read that failed: a cluster's nodes may fail one by one."""
        self._failed_identity = ""
        """The index that was known when it failed. As soon as another one is known, reads need not
        wait for the breaker: what this process had read of the lost one is gone."""

    async def close(self) -> None:
        await self.breaker.close()

    def certain(self, image_id: bytes) -> tuple[Claims, float] | None:
        """An image's claims (perhaps none) and their age in seconds, where this process has cached
        them and Redis would have reported a change of them or of the table."""
        return self._index.claims.cached(image_id) if self._tables.is_current else None

    def known_in_outage(self, image_id: bytes) -> LookupResult | None:
        """The last known claims, while Redis is known not to answer."""
        error = self.breaker.error
        return None if error is None else self.last_known(image_id, error)

    def cached(self, image_id: bytes) -> LookupResult | None:
        """What this process knows without asking Redis: what is `certain`, or `known_in_outage`."""
        if (found := self.certain(image_id)) is not None:
            claims, age = found
            return LookupResult(self._tables.table, claims, "cache", age)
        return self.known_in_outage(image_id)

    def request(self, image_id: bytes, on_result: OnResult[LookupResult]) -> None:
        """Looks an image up together with all others of this turn of the loop."""
        self._batcher.request(image_id, on_result)

    async def get(self, image_id: bytes) -> LookupResult:
        """The same for callers that wait.

        Raises:
            IndexUnavailable: Redis gave no answer in time, and nothing is known from before.
        """
        return await self._batcher.get(image_id)

    async def _read_batch(self, ids: Sequence[bytes]) -> Sequence[LookupResult | BaseException]:
        started = time.monotonic()
        try:
            table, claims = await self.read(ids, cache=True)
        except IndexUnavailable as error:
            return [self.last_known(image_id, error) or error for image_id in ids]
        seconds = time.monotonic() - started
        self._on_claims(ids, claims)
        return [LookupResult(table, some, "index", 0.0, None, seconds) for some in claims]

    async def read(
        self, ids: Sequence[bytes], *, cache: bool = False
    ) -> tuple[Table, Sequence[Claims]]:
        """The claims of each id, and the table that they belong to. ``cache``: keep them for
        `cached`.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline, or is known to give none.
        """
        open_error = self.breaker.error
        if open_error is not None and self._index.identity_seen == self._failed_identity:
            raise IndexUnavailable(open_error.detail, headers=open_error.headers)
        try:
            if self._index.oldest_reply_age() > self.deadline:  # this read would queue behind it
                raise index_timeout_error(self.deadline)
            found = await self._read_from_index(ids, cache=cache)
        except IndexUnavailable as error:
            self._failed_ids = ids
            self._failed_identity = self._index.identity_seen
            self.breaker.record_failure(error)
            raise
        self.breaker.record_success()
        return found

    async def _try_again(self) -> None:
        await self._read_from_index(self._failed_ids[:1], cache=False)

    async def _read_from_index(
        self, ids: Sequence[bytes], *, cache: bool
    ) -> tuple[Table, Sequence[Claims]]:
        deadline = self.deadline * (1 + len(ids) / IDS_PER_EXTRA_DEADLINE)
        try:
            async with asyncio.timeout(deadline):
                while True:
                    changes = self._tables.changes
                    identity = self._index.identity_seen
                    try:
                        found = await self._index.claims.lookup(ids, cache=cache)
                    except IndexLost:
                        if self._index.identity_seen == identity:
                            raise
                        continue  # there is another index by now, as another request has seen
                    table = await self._tables.ensure_version(found.version)
                    # A newer table may vouch for claims that were made after this lookup.
                    if (table.identity, table.version) == (found.identity, found.version):
                        self._tables.confirm(changes)
                        return table, found.owners
        except TimeoutError as error:
            raise index_timeout_error(deadline) from error

    def last_known(self, image_id: bytes, error: IndexUnavailable) -> LookupResult | None:
        """An image's claims as this process knew them last; None where it knows none."""
        table = self.last_table()
        if table is None or (found := self._index.claims.cached_stale(image_id)) is None:
            return None
        claims, age = found
        return LookupResult(table, claims, "stale", age, error)

    def last_table(self) -> Table | None:
        """The table that was current not longer than `stale_for` seconds ago."""
        return self._tables.recent(self._stale_for)

    def without_index(self, image_id: bytes, error: IndexUnavailable) -> LookupResult:
        """What to answer from while Redis fails: the last known claims, or no claims and the last
        known locations.

        Raises:
            IndexUnavailable: no location is known either.
        """
        if (last := self.last_known(image_id, error)) is not None:
            return last
        table = self.last_table()
        if table is None or not table.in_service():
            raise IndexUnavailable(error.detail, headers=error.headers) from error
        return LookupResult(table, (), "stale", 0.0, error)

    def certain_table(self) -> Table | None:
        """The table, where Redis would have announced a change of it."""
        is_certain = self._tables.is_current and self._index.tracking_current()
        return self._tables.table if is_certain else None

    def may_prove_absence(self) -> bool:
        """Whether what was read last is current, as far as is known without asking: another server
        may have taken over, where others register locations."""
        return self._index.server_watch.master_is_confirmed()

    @property
    def has_uppercase_ids(self) -> bool:
        """As `Index.has_uppercase_ids`."""
        return self._index.has_uppercase_ids

    async def loss_doubt(self, table: Table) -> str:
        """Why the index may have lost what it had for the locations of ``table``; empty where it
        cannot have lost any of it before this call."""
        try:
            async with asyncio.timeout(self.deadline):
                if doubt := await self._index.server_watch.master_doubt():
                    return doubt
                return await self._index.server_watch.loss_doubt(table.servers)
        except TimeoutError:
            return index_timeout_error(self.deadline).detail
        except IndexUnavailable as error:
            return error.detail

    async def current_table(self, timeout: float) -> Table:  # noqa: ASYNC109 - a bound for Redis
        """The current table.

        Raises:
            IndexUnavailable: it had to be read, and Redis gave no answer within ``timeout``; or
                another server may have taken over, and have another table.
        """
        if not self.may_prove_absence():
            await self._confirm_master(timeout)
        return self.certain_table() or await self._tables.current(timeout)

    async def _confirm_master(self, timeout: float) -> None:  # noqa: ASYNC109
        """Raises IndexUnavailable where another server may have taken over."""
        try:
            async with asyncio.timeout(timeout):
                doubt = await self._index.server_watch.master_doubt()
        except TimeoutError as error:
            raise index_timeout_error(timeout) from error
        if doubt:
            raise IndexUnavailable(doubt, headers={"Retry-After": "2"})

    async def fresh_table(self, max_age: float, timeout: float) -> Table:  # noqa: ASYNC109
        """The table with all times of checks and polls as of ``max_age`` seconds ago or later.

        Raises:
            IndexUnavailable: it had to be read, and Redis gave no answer within ``timeout``.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._tables.fresh_within(max_age)
        except TimeoutError as error:
            raise index_timeout_error(timeout) from error

    async def usable_table(self) -> Table:
        """The current table, or the last known one while Redis does not answer.

        Raises:
            IndexUnavailable: none is known.
        """
        if (table := self.certain_table()) is not None:
            return table
        try:
            if self.breaker.error is not None:
                raise self.breaker.error
            return await self._tables.current(self.deadline)
        except IndexUnavailable:
            if (last := self.last_table()) is not None:
                return last
            raise
