"""What ``glance-resolver doctor`` examines besides Redis itself. Nothing here raises for what is
wrong with an installation: that is what it finds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from resolver.cli.certificate_dates import CertificateError, expiry_of_file, expiry_of_server
from resolver.errors import IndexUnavailable, ResolverError

if TYPE_CHECKING:
    from resolver.glance.diagnosis import Step
    from resolver.index import Finding, Index
    from resolver.models import Location
    from resolver.settings import Settings

MAX_CLOCK_DIFFERENCE_SECONDS = 2.0
"""Between this host and Redis. What processes store has their own time, and others compare it."""

EXPIRES_SOON = timedelta(days=14)

LOCATIONS_AT_ONCE = 8

INDEXER_CHECKS, INDEXER_CHECK_SECONDS = 4, 1.0
"""How often and in which intervals an indexer is looked for: another one may just take over."""


def finding(
    name: str, text: str, fix: str = "", *, ok: bool = True, required: bool = False
) -> Finding:
    """One line of the result."""
    from resolver.index import Finding  # noqa: PLC0415 - slow to import, and help needs none

    return Finding(name=name, ok=ok, text=text, fix=fix, required=required)


async def examine_clock(index: Index) -> Finding:
    """Whether this host's clock is that of Redis."""
    started = time.time()
    redis_time = await index.server_time()
    ended = time.time()
    difference = max(started - redis_time, redis_time - ended, 0.0)
    text = f"{difference:.1f} s between this host and Redis"
    if difference <= MAX_CLOCK_DIFFERENCE_SECONDS:
        return finding("clock", text)
    return finding("clock", text, "run an NTP client on both hosts", ok=False)


async def examine_processes(index: Index) -> list[Finding]:
    """Whether an indexer runs, and whether all processes have one version."""
    found = []
    if await _is_indexer_running(index):
        found.append(finding("indexer", "one is running"))
    else:
        fix = "start one: `glance-resolver serve --role indexer`, or `--role all`"
        found.append(finding("indexer", "none is running", fix, ok=False))
    versions = sorted({process.version for process in await index.processes.list()})
    if len(versions) > 1:
        fix = "finish the upgrade; `glance-resolver members` lists who has which"
        found.append(finding("versions", ", ".join(versions), fix, ok=False))
    else:
        found.append(finding("versions", ", ".join(versions) or "no process is running"))
    return found


async def _is_indexer_running(index: Index) -> bool:
    """Whether some process holds the lease on health checks, as a running indexer does."""
    from resolver.sync import DEFAULT_TIMINGS, WorkKey, WorkKind  # noqa: PLC0415

    lease = index.lease(WorkKey(WorkKind.HEALTH).lease_name, seconds=DEFAULT_TIMINGS.lease)
    for check in range(INDEXER_CHECKS):
        if check:
            await asyncio.sleep(INDEXER_CHECK_SECONDS)
        if await lease.is_held():
            return True
    return False


async def examine_locations(settings: Settings, index: Index) -> list[Finding]:
    """Each location from end to end, with this environment's credentials, and the dates of their
    certificates."""
    from resolver.glance import CloudCredentials, RateLimits, connect  # noqa: PLC0415
    from resolver.glance.diagnosis import diagnose  # noqa: PLC0415
    from resolver.glance.glance_server import GlanceServer  # noqa: PLC0415
    from resolver.registry import ACTION_FOR_LOST  # noqa: PLC0415

    snapshot = await index.records.load()
    locations = [record.location for record in snapshot.records.values()]
    unknown = [
        finding(
            f"location {name}",
            "Redis has lost it, and nobody has registered it again",
            ACTION_FOR_LOST.format(name=name),
            ok=False,
            required=True,
        )
        for name in sorted(snapshot.lost)
    ]
    if not locations:
        fix = "`glance-resolver locations add NAME URL`"
        return [finding("locations", "none is registered", fix, ok=False), *unknown]
    credentials, limits = CloudCredentials.of(settings), RateLimits()
    free = asyncio.Semaphore(LOCATIONS_AT_ONCE)
    try:
        async with connect(
            settings.location_timeout,
            allowed_hosts=settings.allowed_hosts,
            require_https=settings.require_https,
        ) as session:

            async def examine(location: Location) -> list[Finding]:
                async with free:
                    steps = await diagnose(
                        GlanceServer(session, location, credentials, limits), session
                    )
                    return [_of_steps(location, steps), *await _examine_certificate(location)]

            found = await asyncio.gather(*map(examine, locations))
    finally:
        credentials.close()
    return [*unknown, *(line for lines in found for line in lines)]


def _of_steps(location: Location, steps: Iterable[Step]) -> Finding:
    name = f"location {location.name}"
    for step in steps:
        if not step.ok:
            return finding(name, f"{step.name}: {step.message}", step.fix, ok=False)
    return finding(name, ", ".join(step.name for step in steps))


async def _examine_certificate(location: Location) -> list[Finding]:
    """The date of an https server's certificate. One that is not accepted has failed the test from
    end to end already, unless the location's cloud says how to verify it."""
    parts = urlsplit(location.url)
    if parts.scheme != "https" or parts.hostname is None:
        return []
    try:
        expiry = await expiry_of_server(parts.hostname, parts.port or 443)
    except CertificateError:
        return []
    return [_of_expiry(f"certificate of {location.name}", expiry)]


def examine_own_certificate(settings: Settings) -> list[Finding]:
    """The date of the certificate that the gateway uses."""
    if not settings.tls_cert:
        return []
    try:
        return [_of_expiry("certificate", expiry_of_file(settings.tls_cert, settings.tls_key))]
    except CertificateError as error:
        fix = "put another into RESOLVER_TLS_CERT and RESOLVER_TLS_KEY"
        return [finding("certificate", str(error), fix, ok=False, required=True)]


def _of_expiry(name: str, expiry: datetime) -> Finding:
    text = f"valid until {expiry:%Y-%m-%d}"
    if expiry - datetime.now(UTC) > EXPIRES_SOON:
        return finding(name, text)
    return finding(name, text, "renew it", ok=False)


async def examine_index(settings: Settings, index: Index) -> list[Finding]:
    """All that is read from the index. What cannot be read is one line."""
    found = []
    try:
        found.append(await examine_clock(index))
        found += await examine_processes(index)
        found += await examine_locations(settings, index)
    except IndexUnavailable as error:
        found.append(finding("index", error.detail, "see the lines above", ok=False))
    except ResolverError as error:
        found.append(finding("index", error.detail, "correct the setting", ok=False))
    return found
