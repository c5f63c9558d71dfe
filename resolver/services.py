"""The composition root: everything that runs, made from settings. Server and tests share it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import aiohttp

from resolver.glance import CloudCredentials, ImageProbe, connect
from resolver.index import ClaimCache, Index, open_index
from resolver.registry import Bootstrap, FreshnessPolicy, Registry, StartupLocations, TableKeeper
from resolver.resolution import Prober, Resolver
from resolver.settings import Settings
from resolver.sync import DEFAULT_TIMINGS, Indexer, IndexerTimings


@dataclass(frozen=True, slots=True)
class Services:
    """What a process of the resolver is made of."""

    settings: Settings
    index: Index
    tables: TableKeeper
    registry: Registry
    prober: Prober
    resolver: Resolver
    indexer: Indexer
    bootstrap: Bootstrap
    session: aiohttp.ClientSession
    """What locations are asked with."""
    cloud_credentials: CloudCredentials
    """Their credentials that come from Keystone."""


@asynccontextmanager
async def open_services(
    settings: Settings,
    given: StartupLocations | None = None,
    registered: str = "",
    timings: IndexerTimings = DEFAULT_TIMINGS,
) -> AsyncIterator[Services]:
    """Opens the index and what is built on it; closes all at the end. Where Redis does not answer,
    `Bootstrap.run` goes on trying.

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
            create=False,
        ) as index,
        guarded(settings.location_timeout) as session,
        guarded(settings.probe_timeout, connections=0) as quick_session,
    ):
        polled = 3 * settings.poll_interval if settings.poll_interval else None
        tables = TableKeeper(
            index, FreshnessPolicy(2 * settings.sweep_interval, polled), settings.stale_for
        )
        registry = Registry(index, tables, settings)
        bootstrap = Bootstrap(index, tables, registry, given or {}, registered)
        cloud_credentials = CloudCredentials()
        prober = Prober(
            index,
            tables,
            ImageProbe(quick_session, cloud_credentials),
            timeout=settings.probe_timeout,
            per_location=settings.probes_per_location,
            at_once=settings.probes_at_once,
            remember=settings.absent_ttl,
            index_timeout=settings.index_timeout,
        )
        resolver = Resolver(
            index,
            tables,
            prober if settings.probe else None,
            home_region=settings.region,
            deadline=settings.index_timeout,
            stale_for=settings.stale_for,
        )
        try:
            await bootstrap.start()
            yield Services(
                settings=settings,
                index=index,
                tables=tables,
                registry=registry,
                prober=prober,
                resolver=resolver,
                indexer=Indexer(index, tables, session, settings, cloud_credentials, timings),
                bootstrap=bootstrap,
                session=session,
                cloud_credentials=cloud_credentials,
            )
        finally:
            await resolver.close()
            await prober.close()
            cloud_credentials.close()
