"""Which processes live, as far as they have announced themselves: so that they can share work."""

from __future__ import annotations

import secrets
from typing import Any

from resolver.index.redis.client import RedisClient
from resolver.index.redis.replies import parses_reply
from resolver.index.redis.scripts import load

ANNOUNCE = load("announce_member")


class Membership:
    """This process among others of its kind."""

    def __init__(self, client: RedisClient, key: str, seconds: float) -> None:
        """``seconds``: how long an announcement counts."""
        self._client = client
        self._key = key
        self._seconds = seconds
        self._name = secrets.token_hex(8)

    async def announce(self) -> tuple[int, int]:
        """Announces this process. Returns its position among all that are announced, from 0, and
        how many these are. All of them see the same order.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        reply = await self._client.run(ANNOUNCE, [self._key], [self._name, repr(self._seconds)])
        names = _sorted_names(reply)
        return names.index(self._name), len(names)

    async def leave(self) -> None:
        """Ends the announcement.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        await self._client.run(ANNOUNCE, [self._key], [self._name, 0])


@parses_reply
def _sorted_names(reply: Any) -> list[str]:
    return sorted(name.decode() for name in reply)
