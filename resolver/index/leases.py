"""Leases: the right to do one piece of work, which one process at a time holds and must renew."""

from __future__ import annotations

import secrets

from resolver.index.redis.client import RedisClient
from resolver.index.redis.scripts import load

RENEW = load("lease_renew")
RELEASE = load("lease_release")


class LostLease(Exception):
    """The lease has expired; another process may hold it now."""


class Lease:
    """Held from `acquire` until `release`, or until ``seconds`` after the last `renew`."""

    def __init__(
        self, client: RedisClient, key: str, seconds: float, token: str | None = None
    ) -> None:
        """``token``: what Redis stores while we hold the lease; None for another one each time."""
        self._client = client
        self._key = key
        self._milliseconds = int(seconds * 1000)
        self._own_token = token
        self._token = ""
        """What Redis stores while we hold the lease."""

    async def acquire(self) -> bool:
        """Whether the lease was free or ours, and is ours now for the full time.

        The token is read back, so the answer is right also where the command was sent twice
        because its first reply was lost, and where an earlier `release` failed.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        token = self._own_token or secrets.token_hex(8)
        was_free, holder = await self._client.pipeline(
            [("SET", self._key, token, "NX", "PX", self._milliseconds), ("GET", self._key)]
        )
        if holder != token.encode():
            return False
        self._token = token
        return True if was_free else await self.renew()

    async def renew(self) -> bool:
        """Whether we still hold it, now for the full time again.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        return bool(await self._client.run(RENEW, [self._key], [self._token, self._milliseconds]))

    async def is_held(self) -> bool:
        """Whether some process holds it, this or another.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        return await self._client.command("GET", self._key) is not None

    async def ensure_held(self) -> None:
        """Renews it.

        Raises:
            LostLease: we no longer hold it.
            IndexUnavailable: Redis does not answer.
        """
        if not await self.renew():
            raise LostLease

    async def release(self) -> None:
        """Lets another process acquire it. Does nothing if we do not hold it.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        await self._client.run(RELEASE, [self._key], [self._token])
