"""A lease: the right to do one thing, which one process at a time holds and must renew."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from resolver.index.scripts import load

if TYPE_CHECKING:
    from resolver.index.redis.client import RedisClient

RENEW = load("lease_renew")
DROP = load("lease_drop")


class LostLease(Exception):
    """Somebody else has taken the work over."""


class Lease:
    """Held from `acquire` until `release`, or until ``seconds`` after the last `renew`."""

    def __init__(self, client: RedisClient, key: str, seconds: float) -> None:
        self._client = client
        self._key = key
        self._milliseconds = int(seconds * 1000)
        self._token = secrets.token_hex(8)

    async def acquire(self) -> bool:
        """Whether nobody held it and we do now."""
        taken = await self._client.command(
            "SET", self._key, self._token, "NX", "PX", self._milliseconds
        )
        return taken is not None and bool(taken)

    async def renew(self) -> bool:
        """Whether we still hold it, for another full time."""
        return bool(await self._client.run(RENEW, [self._key], [self._token, self._milliseconds]))

    async def ensure_held(self) -> None:
        """As `renew`.

        Raises:
            LostLease: we do not hold it any more.
        """
        if not await self.renew():
            raise LostLease

    async def release(self) -> None:
        """Lets the next one take it. Nothing happens if we did not hold it."""
        await self._client.run(DROP, [self._key], [self._token])
