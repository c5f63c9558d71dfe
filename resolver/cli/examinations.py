"""What ``glance-resolver doctor`` examines besides Redis itself. Nothing here raises for what is
wrong with an installation: that is what it finds."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from datetime import UTC, datetime
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from resolver import __version__
from resolver.bounded_http import read_document
from resolver.certificate_dates import (
    EXPIRES_SOON,
    CertificateError,
    expiry_of_file,
    expiry_of_server,
)
from resolver.cli.answer_shapes import STATUS
from resolver.cli.gateway_client import checked, decode_answer
from resolver.cli.healthcheck_command import local_url, open_local
from resolver.cli.runtime_file import loopback_url
from resolver.errors import IndexLost, IndexUnavailable, ResolverError

if TYPE_CHECKING:
    from resolver.glance.diagnosis import Step
    from resolver.index import Finding, Index
    from resolver.models import Location
    from resolver.problems import Problem
    from resolver.registry import TableKeeper
    from resolver.settings import Settings

MAX_CLOCK_DIFFERENCE_SECONDS = 2.0
"""Between this host and Redis. What processes store has their own time, and others compare it."""

LOCATIONS_AT_ONCE = 8

INDEXER_CHECKS, INDEXER_CHECK_SECONDS = 4, 1.0
"""How often and in which intervals an indexer is looked for: another one may just take over."""

PROCESS_TIMEOUT_SECONDS = 3.0

NO_PROCESS = (OSError, ValueError, HTTPException, ResolverError)
"""What it means that no process answers on this host."""

NOT_SERVING = ("versions", "health")
"""Steps of `diagnose` that a location fails which serves nobody."""

FAILING = ("sweep-failing", "poll-failing")
"""Problems that a location has which fails such a step, or any other."""

FATAL = ("no-location", "location-lost")
"""Problems with which the resolver cannot work."""


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
    """Whether a gateway and an indexer run, and whether all processes have one version: this one,
    too, which is what is installed."""
    processes = await index.processes.list()
    found = []
    if any(process.role in ("gateway", "all") for process in processes):
        found.append(finding("gateway", "one is running"))
    else:
        text = "none has announced itself in Redis for a minute"
        fix = "start one: `glance-resolver serve --role gateway`, or `--role all`"
        found.append(finding("gateway", text, fix, ok=False))
    if await _is_indexer_running(index):
        found.append(finding("indexer", "one is running"))
    else:
        fix = (
            "start one: `glance-resolver serve --role indexer`, or `--role all` (one that runs is "
            "seen 20 s after Redis has lost its data)"
        )
        found.append(finding("indexer", "none is running", fix, ok=False))
    running = sorted({process.version for process in processes})
    text = ", ".join(running) or "no process is running"
    if len(running) > 1:
        fix = "finish the upgrade; `glance-resolver members` lists who has which"
        found.append(finding("versions", text, fix, ok=False))
    elif running and running != [__version__]:
        fix = f"restart the processes: {__version__} is installed here"
        found.append(finding("versions", text, fix, ok=False))
    else:
        found.append(finding("versions", text))
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


async def examine_locations(
    settings: Settings, index: Index, *, has_indexer: bool
) -> list[Finding]:
    """Each location from end to end, with this environment's credentials; then what processes have
    stored about it, and the date of its certificate.

    ``has_indexer``: whether one is running. Without one nothing is fresh, and that has its line.
    """
    tables, stored = await _read_table(settings, index)
    views = tables.table.by_name
    failures = await _test(settings, [view.location for view in views.values()])
    lines = [_of_problem(problem) for problem in stored.pop("", ())]
    if views and not lines and all(step and step.name in NOT_SERVING for step in failures.values()):
        fix = "see the line of each"
        lines.append(finding("locations", "none answers", fix, ok=False, required=True))
    for name, view in views.items():
        problems, step = stored.pop(name, []), failures[name]
        if step:  # its sweeps and polls fail for the same reason
            problems = [problem for problem in problems if problem.code not in FAILING]
            text = f"{step.name}: {step.message}"
            lines.append(finding(f"location {name}", text, step.fix, ok=False))
        lines += map(_of_problem, problems)
        doubt = view.coverage_problem(time.time()) if has_indexer else ""
        if doubt and not step and not problems:
            fix = f"`glance-resolver locations sweep {name} --wait`"
            lines.append(finding(f"location {name}", f"not covered: {doubt}", fix, ok=False))
        elif not step and not problems:
            lines.append(finding(f"location {name}", "it passes each test, and is covered"))
        lines += await _examine_certificate(view.location)
    lines += [_of_problem(problem) for problems in stored.values() for problem in problems]
    return lines


async def _read_table(
    settings: Settings, index: Index
) -> tuple[TableKeeper, defaultdict[str, list[Problem]]]:
    """The locations as a gateway with these settings sees them, and what is wrong with each by what
    is stored."""
    from resolver.problems import ProblemBoard  # noqa: PLC0415
    from resolver.registry import Admission, LocationProblems, TableKeeper  # noqa: PLC0415
    from resolver.services import freshness_policy  # noqa: PLC0415

    policy, admission = freshness_policy(settings), Admission.of(settings)
    tables = TableKeeper(index, policy, settings.stale_for, admission)
    await tables.fresh()
    await tables.look_up_hosts()
    board = ProblemBoard()
    board.add_source(LocationProblems(tables).problems)
    stored: defaultdict[str, list[Problem]] = defaultdict(list)
    for problem in board.current():
        stored[problem.location].append(problem)
    return tables, stored


async def _test(settings: Settings, locations: list[Location]) -> dict[str, Step | None]:
    """By name: the step that the location fails; None if it passes all."""
    from resolver.glance import CloudCredentials, RateLimits, connect  # noqa: PLC0415
    from resolver.glance.diagnosis import diagnose  # noqa: PLC0415
    from resolver.glance.glance_server import GlanceServer  # noqa: PLC0415

    credentials, limits = CloudCredentials.of(settings), RateLimits()
    free = asyncio.Semaphore(LOCATIONS_AT_ONCE)
    try:
        async with connect(
            settings.location_timeout,
            allowed_hosts=settings.allowed_hosts,
            require_https=settings.require_https,
        ) as session:

            async def test(location: Location) -> Step | None:
                async with free:
                    server = GlanceServer(session, location, credentials, limits)
                    steps = await diagnose(server, session)
                    return next((step for step in steps if not step.ok), None)

            failed = await asyncio.gather(*map(test, locations))
    finally:
        credentials.close()
    return {location.name: step for location, step in zip(locations, failed, strict=True)}


def _of_problem(problem: Problem) -> Finding:
    name = f"location {problem.location}" if problem.location else "locations"
    required = problem.code in FATAL
    return finding(name, problem.text, problem.action, ok=False, required=required)


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
        has_indexer = all(line.ok for line in found if line.name == "indexer")
        await index.identity()
        found += await examine_locations(settings, index, has_indexer=has_indexer)
    except IndexLost:
        lost = await asyncio.to_thread(_index_problem_of_own_process, settings)
        if lost is not None:  # processes run, though the index does not show it
            others = [line for line in found if line.name not in ("gateway", "indexer")]
            return [*others, lost]
        text = f"there is none with the prefix {settings.prefix} in this Redis"
        fix = (
            "start `serve`, which makes one, and register locations; if there was one, Redis has "
            "lost it: docs/disaster.md, or `glance-resolver index import FILE`"
        )
        found.append(finding("index", text, fix, ok=False, required=True))
    except IndexUnavailable as error:
        found.append(finding("index", error.detail, "see the lines above", ok=False))
    except ResolverError as error:
        found.append(finding("index", error.detail, "correct the setting", ok=False))
    return found


def _url_of_own_process(settings: Settings) -> str:
    """Where the process of this host has its status."""
    if settings.management_port:
        tls = bool(settings.tls_cert)
        return loopback_url(settings.management_host, settings.management_port, tls=tls)
    return local_url(settings)


def _status_of_own_process(url: str) -> Any:
    """Raises one of `NO_PROCESS` where none answers."""
    with open_local(f"{url}/status", PROCESS_TIMEOUT_SECONDS) as response:
        return checked(url, decode_answer(read_document(response)), STATUS)


def _index_problem_of_own_process(settings: Settings) -> Finding | None:
    """Why the process of this host cannot use its index, and which locations it knew. None where it
    can, or none answers."""
    try:
        problems = _status_of_own_process(_url_of_own_process(settings))["problems"]
    except NO_PROCESS:
        return None
    for row in problems:
        if row["code"] == IndexUnavailable.code:
            return finding("index", row["text"], row["action"], ok=False, required=True)
    return None


def examine_own_process(settings: Settings) -> list[Finding]:
    """What the process of this host says, whose index is in its memory."""
    url = _url_of_own_process(settings)
    try:
        answer = _status_of_own_process(url)
    except NO_PROCESS as error:
        reason = error.detail if isinstance(error, ResolverError) else error
        text = f"RESOLVER_REDIS_URL is not set here, and no process answers at {url}: {reason}"
        fix = "start `serve`; or run this with its environment (RESOLVER_CONFIG, RESOLVER_…)"
        return [finding("process", text, fix, ok=False, required=True)]
    text = f"RESOLVER_REDIS_URL is not set here, so only the process at {url} was asked"
    found = [finding("process", text)]
    for row in answer["problems"]:
        required = row["code"] in FATAL
        found.append(finding(row["code"], row["text"], row["action"], ok=False, required=required))
    return found
