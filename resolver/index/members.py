"""Which processes live, as far as they have announced themselves: so that they can share work."""

from __future__ import annotations

import secrets
from typing import Any

from resolver.index.redis.client import RedisClient
from resolver.index.redis.replies import parses_reply
from resolver.index.redis.scripts import load

ANNOUNCE = load("announce_member", "announced")

MAX_MEMBERS = 1000
"""Members that are read, at most."""


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
        found = _names(await self._announce(self._seconds))
        names = sorted({self._name, *(name for name in found if len(name) == len(self._name))})
        return names.index(self._name), len(names)

    async def leave(self) -> None:
        """Ends the announcement.

        Raises:
            IndexUnavailable: Redis does not answer.
        """
        await self._announce(0)

    async def _announce(self, seconds: float) -> Any:
        return await self._client.run(
            ANNOUNCE, [self._key], [self._name, repr(seconds), MAX_MEMBERS]
        )


@parses_reply
def _names(reply: Any) -> list[str]:
    return [name.decode(errors="replace") for name in reply]
