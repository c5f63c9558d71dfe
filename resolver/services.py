"""The composition root: everything that runs, made from settings. Server and tests share it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import aiohttp

from resolver.glance import Clouds, connect
from resolver.index import ClaimCache, Index, open_index
from resolver.locations import Asker, Given, Registry, Resolver, TableKeeper, Terms, Upkeep
from resolver.settings import Settings
from resolver.sync import Indexer


@dataclass(frozen=True, slots=True)
class Services:
    """What a process of the resolver is made of."""

    settings: Settings
    index: Index
    tables: TableKeeper
    registry: Registry
    asker: Asker
    resolver: Resolver
    indexer: Indexer
    upkeep: Upkeep
    session: aiohttp.ClientSession
    """What locations are asked with."""
    clouds: Clouds
    """Their credentials that come from Keystone."""


@asynccontextmanager
async def open_services(
    settings: Settings, given: Given | None = None, registered: str = ""
) -> AsyncIterator[Services]:
    """Opens the index and what is built on it; closes all at the end. Where Redis does not answer,
    `Upkeep.run` goes on trying.

    ``given``: locations to register; ``registered``: the index that has them already.

    Raises:
        SettingsError: the index in Redis does not go with the settings, or a location is not
            allowed.
    """
    cache = ClaimCache(settings.cache_size, settings.cache_ttl, settings.stale_for)
    guarded = partial(
        connect, allowed_hosts=settings.allowed_hosts, require_https=settings.require_https
    )
    async with (
        open_index(
            settings.redis_url,
            prefix=settings.prefix,
            bits=settings.index_bits,
            cache=cache,
            make=False,
        ) as index,
        guarded(settings.location_timeout) as session,
        guarded(settings.probe_timeout, connections=0) as quick_session,
    ):
        polled = 3 * settings.poll_interval if settings.poll_interval else None
        tables = TableKeeper(index, Terms(2 * settings.sweep_interval, polled), settings.stale_for)
        registry = Registry(index, tables, settings)
        upkeep = Upkeep(index, tables, registry, given or {}, registered)
        clouds = Clouds()
        asker = Asker(
            index,
            tables,
            quick_session,
            clouds,
            timeout=settings.probe_timeout,
            per_location=settings.probes_per_location,
            at_once=settings.probes_at_once,
            remember=settings.absent_ttl,
            patience=settings.index_timeout,
        )
        resolver = Resolver(
            index,
            tables,
            asker if settings.probe else None,
            home=settings.region,
            deadline=settings.index_timeout,
            stale_for=settings.stale_for,
        )
        try:
            await upkeep.start()
            yield Services(
                settings=settings,
                index=index,
                tables=tables,
                registry=registry,
                asker=asker,
                resolver=resolver,
                indexer=Indexer(index, tables, session, settings, clouds),
                upkeep=upkeep,
                session=session,
                clouds=clouds,
            )
        finally:
            await resolver.close()
            await asker.close()
