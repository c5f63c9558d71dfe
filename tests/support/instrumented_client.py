"""An index in memory that counts what is sent to it, and can be made to fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from resolver.index import ClaimCache, Index
from resolver.index.keys import Keys
from resolver.index.redis.client import Command
from resolver.index.redis.embedded import EmbeddedClient
from resolver.index.redis.scripts import Script


class InstrumentedClient(EmbeddedClient):
    """Counts scripts, by their SHA-1, and commands. Fails while `fails` returns True."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.fails: Callable[[], bool] = lambda: False

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        for command in commands:
            self.counts[command[1] if command[0] == "EVALSHA" else command[0]] += 1
        if self.fails():
            raise ConnectionError("connection refused")
        return await super().send(commands, foreground=foreground)

    def runs_of(self, script: Script) -> int:
        """How often a script was run."""
        return self.counts[script.sha]

    def index(self) -> Index:
        """The index that this client speaks to; it caches nothing."""
        return Index(self, Keys("glr:"), None, ClaimCache(0, 0))
