"""A gateway whose index counts what is sent to it, and fails when a test wants it to."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp

from resolver.gateway.server import serving
from resolver.index import ClaimCache, Index
from resolver.index.keys import Keys
from resolver.index.redis.client import Command
from resolver.index.redis.embedded import EmbeddedClient
from resolver.index.redis.scripts import Script
from resolver.registry import FreshnessPolicy, Registry, TableKeeper
from resolver.registry.target_policy import Lookup, look_up
from resolver.services import open_services
from resolver.settings import Settings
from tests.gateway.conftest import Gateway


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


@asynccontextmanager
async def instrumented_gateway(
    client: InstrumentedClient, settings: Settings, lookup: Lookup = look_up
) -> AsyncIterator[Gateway]:
    """A gateway whose registry and exports use the index of ``client``."""
    async with open_services(settings) as opened:
        index = Index(client, Keys("glr:"), None, ClaimCache(0, 0))
        await index.create_if_missing()
        tables = TableKeeper(index, FreshnessPolicy(600))
        await tables.current()
        registry = Registry(index, tables, settings, opened.own_ports, lookup=lookup)
        services = replace(opened, index=index, tables=tables, registry=registry)
        async with serving(services) as url, aiohttp.ClientSession(url) as http:
            yield Gateway(services, url, http)
