"""Drops the buckets that an earlier index left behind, before a new one is made.

An index may have hundreds of millions of buckets, and Redis nearly none of them. So where there are
many, those that exist are looked for with ``SCAN``. Where the login may not do that, each is
dropped by its name.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from resolver.index.buckets import Buckets
from resolver.index.redis.client import ONLY_SERVER, RedisClient, Server
from resolver.index.redis.replies import parses_reply

BLIND_BUCKETS = 1 << 17
"""Up to so many buckets are dropped by name: that takes less than a second."""

DROP_BUCKETS = 1024
"""Buckets that are dropped together."""

SCAN_COUNT = 1000
"""Keys that Redis looks at in one step."""

_GLOB = re.compile(rb"([*?\[\]^\\])")

Report = Callable[[], Awaitable[None]]
"""Called between two steps; raises to stop."""


async def drop_stale_buckets(client: RedisClient, buckets: Buckets, report: Report) -> None:
    """Drops every bucket of this number of bits.

    Raises:
        IndexUnavailable: Redis does not answer.
        Exception: what ``report`` raises.
    """
    if buckets.count > BLIND_BUCKETS:
        servers = await client.servers() or [ONLY_SERVER]
        if all([await _drop_found(client, server, buckets, report) for server in servers]):
            return
    for span in buckets.spans(DROP_BUCKETS):
        await _drop(client, [buckets.key(bucket) for bucket in span])
        await report()


async def _drop_found(
    client: RedisClient, server: Server, buckets: Buckets, report: Report
) -> bool:
    """Drops the buckets that one server has. False where the login may not look for them."""
    pattern = _GLOB.sub(rb"\\\1", buckets.key_prefix) + b"*"
    cursor = 0
    while True:
        command = ("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)
        (reply,) = await client.ask(server, [command])
        if isinstance(reply, Exception):
            return False
        cursor, found = _parse_step(reply)
        await _drop(client, [key for key in found if buckets.cache_bucket_of_key(key) is not None])
        if not cursor:
            return True
        await report()


@parses_reply
def _parse_step(reply: Any) -> tuple[int, list[bytes]]:
    cursor, keys = reply
    return int(cursor), list(keys)


async def _drop(client: RedisClient, keys: list[bytes]) -> None:
    if keys:
        together = [[key] for key in keys] if client.one_slot_commands else [keys]
        await client.pipeline(("UNLINK", *some) for some in together)
