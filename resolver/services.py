"""The composition root: everything that runs, made from settings. Server and tests share it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from resolver.glance import Clouds, connect
from resolver.index import Index, open_index
from resolver.locations import Registry, Resolver, TableKeeper
from resolver.settings import Settings
from resolver.sync import Indexer


@dataclass(frozen=True, slots=True)
class Services:
    """What a process of the resolver is made of."""

    settings: Settings
    index: Index
    tables: TableKeeper
    registry: Registry
    resolver: Resolver
    indexer: Indexer
    session: aiohttp.ClientSession
    """What locations are asked with."""
    clouds: Clouds
    """Their credentials that come from Keystone."""


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Opens the index and what is built on it; closes all at the end.

    Raises:
        SettingsError: the index in Redis does not go with the settings.
        IndexUnavailable: Redis did not answer.
    """
    async with (
        open_index(settings.redis_url, prefix=settings.prefix, bits=settings.index_bits) as index,
        connect(
            settings.location_timeout,
            allowed_hosts=settings.allowed_hosts,
            require_https=settings.require_https,
        ) as session,
    ):
        tables = TableKeeper(index, fresh_for=2 * settings.sweep_interval)
        clouds = Clouds()
        yield Services(
            settings=settings,
            index=index,
            tables=tables,
            registry=Registry(index, tables, settings),
            resolver=Resolver(index, tables, home=settings.region, deadline=settings.index_timeout),
            indexer=Indexer(index, tables, session, settings, clouds),
            session=session,
            clouds=clouds,
        )
