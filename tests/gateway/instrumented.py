"""A gateway whose index counts what is sent to it, and can be made to fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp

from resolver.gateway.server import serving
from resolver.registry import FreshnessPolicy, Registry, TableKeeper
from resolver.registry.target_policy import Lookup, look_up
from resolver.services import open_services
from resolver.settings import Settings
from tests.gateway.conftest import Gateway
from tests.support.instrumented_client import InstrumentedClient


@asynccontextmanager
async def instrumented_gateway(
    client: InstrumentedClient, settings: Settings, lookup: Lookup = look_up
) -> AsyncIterator[Gateway]:
    """A gateway whose registry and exports use the index of ``client``."""
    async with open_services(settings) as opened:
        index = client.index()
        await index.create_if_missing()
        tables = TableKeeper(index, FreshnessPolicy(600))
        await tables.current()
        registry = Registry(index, tables, settings, opened.own_ports, lookup=lookup)
        services = replace(opened, index=index, tables=tables, registry=registry)
        async with serving(services) as url, aiohttp.ClientSession(url) as http:
            yield Gateway(services, url, http)
