"""An index in memory that counts what is sent to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from resolver.index.redis.client import Command, EmbeddedClient
from resolver.index.scripts import Script


class CountingClient(EmbeddedClient):
    """Counts the scripts and commands that are run."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: Counter[str] = Counter()

    async def send(self, commands: Sequence[Command], *, foreground: bool) -> list[Any]:
        for command in commands:
            self._counts[command[1] if command[0] == "EVALSHA" else command[0]] += 1
        return await super().send(commands, foreground=foreground)

    def runs_of(self, script: Script) -> int:
        """How often a script was run."""
        return self._counts[script.sha]

