"""The composition root: builds everything that runs from the settings, for the server and tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import aiohttp

from resolver.callers import CallerImages, CallerTokens
from resolver.errors import SettingsError, installing
from resolver.glance import (
    CallerListings,
    CloudCredentials,
    CloudRef,
    ImageProbe,
    ImageRecords,
    RateLimits,
    ScopeCache,
    TokenChecks,
    cloud_of,
    connect,
    keep_connections,
)
from resolver.index import (
    DEFAULT_TIMEOUTS,
    ClaimCache,
    EmbeddedStore,
    Index,
    RedisTimeouts,
    open_index,
)
from resolver.keystone_urls import parse_domains
from resolver.listing import Lister
from resolver.problems import Problem, ProblemBoard
from resolver.registry import (
    Admission,
    Bootstrap,
    FreshnessPolicy,
    LocationProblems,
    OwnPorts,
    Progress,
    Registry,
    StartupLocations,
    TableKeeper,
    ignore_progress,
)
from resolver.resolution import BulkResolver, Prober, Resolver, VouchingProblems
from resolver.settings import Settings
from resolver.spans import NO_SPANS, Spans
from resolver.sync import DEFAULT_TIMINGS, Indexer, IndexerTimings, IndexerWatch, ProcessWatch

KEYSTONE_TIMEOUT_SECONDS = 5.0
"""For one question whether a token is valid."""

LISTING_CONNECTIONS = 16
"""To one location, for listings that clients ask for. More wait for one of them."""


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a process of the resolver."""

    settings: Settings
    index: Index
    tables: TableKeeper
    registry: Registry
    own_ports: OwnPorts
    prober: Prober
    resolver: Resolver
    bulk_resolver: BulkResolver
    indexer: Indexer
    bootstrap: Bootstrap
    problems: ProblemBoard
    session: aiohttp.ClientSession
    """The HTTP client for sweeps, polls and diagnoses of locations."""
    cloud_credentials: CloudCredentials
    """The credentials for locations that come from Keystone."""
    rate_limits: RateLimits
    """How often each location may be asked by this process."""
    image_records: ImageRecords
    """Reads images' records on behalf of clients."""
    lister: Lister
    """Lists the images of all locations on behalf of clients."""
    caller_tokens: CallerTokens | None
    """Checks clients' tokens; None where none is needed."""
    caller_images: CallerImages | None
    """Answers for clients as they may know it; None where all are answered alike."""
    indexer_watch: IndexerWatch
    """Whether an indexer is running, in this process or another."""
    process_watch: ProcessWatch
    """Announces this process to the others."""

    async def stay_logged_in(self) -> None:
        """Logs in to the clouds of all locations in service before a client's question needs it;
        for a background task."""

        def clouds() -> Iterator[CloudRef]:
            for view in self.tables.table.in_service():
                if (cloud := cloud_of(view.location)) is not None:
                    yield cloud

        await self.cloud_credentials.stay_logged_in(clouds)


@asynccontextmanager
async def _open_spans(settings: Settings) -> AsyncIterator[Spans]:
    """Raises SettingsError where they are wanted and OpenTelemetry is not installed."""
    if not settings.otel:
        yield NO_SPANS
        return
    try:
        from resolver.otel_spans import open_spans  # noqa: PLC0415 - it needs an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise SettingsError(f"RESOLVER_OTEL needs OpenTelemetry: {installing('otel')}") from error
    async with open_spans() as spans:
        yield spans


@asynccontextmanager
async def open_services(
    settings: Settings,
    startup_locations: StartupLocations | None = None,
    registered_index: str = "",
    timings: IndexerTimings = DEFAULT_TIMINGS,
    on_progress: Progress = ignore_progress,
    store: EmbeddedStore | None = None,
    redis_timeouts: RedisTimeouts = DEFAULT_TIMEOUTS,
) -> AsyncIterator[Services]:
    """Opens the index and everything built on it, and closes it all at the end. If Redis does not
    answer, `Bootstrap.run` keeps trying.

    ``startup_locations``: locations to register. ``registered_index``: the identity of an index
    that has them already; empty if there is none. ``on_progress``: called as they are registered.
    ``store``: the data of an index in this process that goes on; None: it begins empty.
    ``redis_timeouts``: how long to wait for Redis.

    Raises:
        SettingsError: the index in Redis does not fit the settings, or a location is not allowed.
    """
    cache = ClaimCache(settings.cache_size, settings.cache_ttl, settings.stale_for)
    open_session = partial(
        connect, allowed_hosts=settings.allowed_hosts, require_https=settings.require_https
    )
    async with (
        _open_spans(settings) as spans,
        open_index(
            settings.redis_url,
            url_file=settings.redis_url_file,
            prefix=settings.prefix,
            bits=settings.index_bits,
            cache=cache,
            create=False,
            shrink_guard=settings.shrink_guard,
            store=store,
            timeouts=redis_timeouts,
        ) as index,
        open_session(settings.location_timeout, spans=spans) as session,
        open_session(settings.probe_timeout, 0, spans=spans) as probe_session,
        keep_connections(
            settings.probe_timeout,
            allowed_hosts=settings.allowed_hosts,
            require_https=settings.require_https,
        ) as kept,
        open_session(settings.listing_timeout, LISTING_CONNECTIONS, spans=spans) as listing_session,
        # Keystone is not a location: the settings and clouds.yaml name it.
        connect(KEYSTONE_TIMEOUT_SECONDS, require_https=settings.require_https) as keystone_session,
    ):
        indexer_watch = IndexerWatch(index)
        policy = replace(freshness_policy(settings), no_indexer=indexer_watch.is_gone)
        tables = TableKeeper(index, policy, settings.stale_for, Admission.of(settings))
        own_ports = OwnPorts(settings.port)
        registry = Registry(index, tables, settings, own_ports)
        bootstrap = Bootstrap(
            index, tables, registry, startup_locations or {}, registered_index, on_progress
        )
        problems = ProblemBoard()
        problems.add_source(bootstrap.problems)
        problems.add_source(index.problems)
        problems.add_source(LocationProblems(tables).problems)
        problems.add_source(indexer_watch.problems)
        problems.add_source(index.server_watch.problems)
        process_watch = ProcessWatch(index, settings.role)
        problems.add_source(process_watch.problems)
        cloud_credentials = CloudCredentials.of(settings)
        rate_limits = RateLimits(index.turns)
        scopes = ScopeCache()
        image_probe = ImageProbe(
            probe_session,
            cloud_credentials,
            rate_limits,
            scopes,
            kept if spans is NO_SPANS else None,  # spans are made by aiohttp's client
        )
        prober = Prober(
            index,
            tables,
            image_probe,
            timeout=settings.probe_timeout,
            per_location=settings.probes_per_location,
            at_once=settings.probes_at_once,
            remember=settings.absent_ttl,
            index_timeout=settings.index_timeout,
            spans=spans,
        )
        absent_age = settings.absent_age if settings.absent_proof == "covered" else None
        silences = prober.silences if settings.probe else None
        problems.add_source(VouchingProblems(tables, silences, absent_age).problems)
        problems.add_source(partial(absent_age_problems, settings))
        resolver = Resolver(
            index,
            tables,
            prober if settings.probe else None,
            home_region=settings.region,
            deadline=settings.index_timeout,
            stale_for=settings.stale_for,
            absent_age=absent_age,
        )
        breaker = resolver.breaker
        problems.add_source(lambda: () if bootstrap.fault else breaker.problems())
        caller_tokens, caller_images = _make_callers(
            settings, resolver, image_probe, TokenChecks(keystone_session, cloud_credentials)
        )
        if caller_tokens is not None:
            problems.add_source(caller_tokens.problems)
        lister = Lister(
            resolver.reader,
            CallerListings(listing_session, cloud_credentials, rate_limits),
            timeout=settings.listing_timeout,
            home_region=settings.region,
            spans=spans,
            names_only_listed=caller_images is not None,
        )
        try:
            await bootstrap.start()
            await tables.look_up_hosts()
            yield Services(
                settings=settings,
                index=index,
                tables=tables,
                registry=registry,
                own_ports=own_ports,
                prober=prober,
                resolver=resolver,
                bulk_resolver=BulkResolver(resolver),
                indexer=Indexer(
                    index,
                    tables,
                    session,
                    settings,
                    cloud_credentials,
                    rate_limits,
                    scopes,
                    timings,
                    spans,
                ),
                bootstrap=bootstrap,
                problems=problems,
                session=session,
                cloud_credentials=cloud_credentials,
                rate_limits=rate_limits,
                image_records=ImageRecords(probe_session, cloud_credentials, rate_limits),
                lister=lister,
                caller_tokens=caller_tokens,
                caller_images=caller_images,
                indexer_watch=indexer_watch,
                process_watch=process_watch,
            )
        finally:
            if caller_tokens is not None:
                await caller_tokens.close()
            if caller_images is not None:
                await caller_images.close()
            await resolver.close()
            await prober.close()
            await scopes.close()
            cloud_credentials.close()


def absent_age_problems(settings: Settings) -> Iterator[Problem]:
    """Whether what the index has is too old to prove absence before it is read again."""
    name, interval = "RESOLVER_POLL_INTERVAL", settings.poll_interval
    if not interval:
        name, interval = "RESOLVER_SWEEP_INTERVAL", settings.sweep_interval
    if settings.absent_proof == "covered" and settings.absent_age <= interval:
        yield Problem(
            code="absent-age-short",
            text=f"RESOLVER_ABSENT_AGE is {settings.absent_age:g} s, and {name} {interval:g} s: "
            "most of the time the index is too old to prove that an image is absent.",
            action=f"Set RESOLVER_ABSENT_AGE to more than {name}, or make that shorter.",
        )


def freshness_policy(settings: Settings) -> FreshnessPolicy:
    """How long sweeps and polls count as fresh, by the settings."""
    polled_within = 3 * settings.poll_interval if settings.poll_interval else None
    return FreshnessPolicy(2 * settings.sweep_interval, polled_within)


def _make_callers(
    settings: Settings, resolver: Resolver, image_probe: ImageProbe, checks: TokenChecks
) -> tuple[CallerTokens | None, CallerImages | None]:
    """What ``RESOLVER_READ_AUTH`` needs."""
    if settings.read_auth == "none":
        return None, None
    domains = parse_domains(settings.domains)
    tokens = CallerTokens(checks.seconds_left, resolver.reader.usable_table, domains)
    if settings.read_auth == "token":
        return tokens, None
    return tokens, CallerImages(
        resolver,
        image_probe.ask_as,
        timeout=settings.probe_timeout,
        per_location=settings.probes_per_location,
    )
