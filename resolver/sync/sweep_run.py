"""One sweep as the indexer runs it: from the versions of the server to the status to store."""

from __future__ import annotations

import time
from dataclasses import replace

import structlog

from resolver.errors import IndexUnavailable, LocationUnavailable, ShrinkGuardTripped
from resolver.glance import CredentialScope, GlanceServer, ScopeCache
from resolver.index import MAX_COUNT_AGE_SECONDS, Index, Lease, LostLease, SweepRequest
from resolver.models import Progress, Sweep
from resolver.sync.stats import Stats
from resolver.sync.sweep import RESUMABLE_CODES, Sweeper
from resolver.sync.timings import IndexerTimings

log = structlog.get_logger()


class SweepRun:
    """Sweeps one location once, and turns a failure into the location's status."""

    def __init__(
        self,
        index: Index,
        server: GlanceServer,
        scopes: ScopeCache,
        lease: Lease,
        status: Sweep,
        *,
        guard: float,
        stats: Stats,
        timings: IndexerTimings,
    ) -> None:
        """``status`` is that of the last sweeps. ``guard`` is the share of its claims that the
        location may lose in one sweep."""
        self._index = index
        self._server = server
        self._scopes = scopes
        self._location = server.location
        self._lease = lease
        self._status = status
        self._guard = guard
        self._stats = stats
        self._timings = timings

    async def run(self, request: SweepRequest | None) -> Sweep:
        """Sweeps and returns the new status. ``request`` is the operator's, if there was one.

        Raises:
            IndexUnavailable: Redis failed.
            LostLease: another process has taken the sweep over.
        """
        started_at = time.monotonic()
        try:
            sweep = await self._sweep(request)
        except (IndexUnavailable, LostLease):
            raise
        except LocationUnavailable as error:
            # Once for an outage: a location that is down fails every half minute.
            write = log.debug if self._status.error_code == error.problem_code else log.warning
            write(
                "sweep failed",
                location=self._location.name,
                code=error.problem_code,
                reason=error.detail,
            )
            return await self._failed(error)
        except Exception:  # a bug: its status keeps the sweep from being retried at once
            log.exception("sweep failed", location=self._location.name, code="internal-error")
            return await self._failed(
                LocationUnavailable(
                    "the sweep failed: the indexer's log has the cause", code="internal-error"
                )
            )
        self._stats.count(self._stats.sweeps, self._location.name, "ok")
        if sweep.skipped != self._status.skipped:
            log.warning(
                "sweep skipped rows without an image id",
                location=self._location.name,
                rows=sweep.skipped,
                examples=sweep.skipped_examples,
            )
        is_routine = not (request or self._status.error_code or sweep.claimed or sweep.released)
        write = log.debug if is_routine and self._status.ended else log.info
        write(
            "sweep done",
            location=self._location.name,
            images=sweep.images,
            claimed=sweep.claimed,
            released=sweep.released,
            skipped=sweep.skipped,
            seconds=round(time.monotonic() - started_at, 3),
        )
        return replace(sweep, unknown=self._status.unknown)

    async def _sweep(self, request: SweepRequest | None) -> Sweep:
        resume = (await self._index.records.progress()).get(self._location.number)
        if resume is not None and request is not None and request.at > resume.started:
            resume = None  # the operator wants to know what is there now
        # Read each time, so that an upgraded server is listed with its new API.
        versions = await self._server.versions()
        sweeper = Sweeper(
            self._index,
            self._server,
            versions,
            self._scopes,
            guard=self._guard,
            checkpoint_seconds=self._timings.checkpoint,
        )
        return await sweeper.run(
            self._report,
            self._store_scope,
            confirm_shrink=bool(request and request.confirm_shrink),
            resume=resume,
            last=self._status,
            counted_since=self._counted_since(request, resume),
        )

    def _counted_since(self, request: SweepRequest | None, resume: Progress | None) -> float:
        """Since when claims must have been counted for this sweep, on `time.monotonic`: after all
        that the location's sweeps did, and after the operator's request. Then an image that is gone
        is missed only if others have claimed it in the meantime."""
        now = time.time()
        since = max(
            now - MAX_COUNT_AGE_SECONDS,
            self._status.ended or 0.0,
            self._status.failed or 0.0,
            resume.at if resume else 0.0,
            request.at if request else 0.0,
        )
        return time.monotonic() - max(0.0, now - since)

    async def _report(self, _: Progress) -> None:
        await self._lease.ensure_held()

    async def _store_scope(self, scope: CredentialScope) -> None:
        """Stores what the credential sees as soon as it is known: the table needs it to judge what
        a 404 of this server proves."""
        status = replace(
            self._status,
            sees_all=scope.sees_all,
            sees_all_why=scope.why,
            sees_all_proven=scope.is_proven,
        )
        if status != self._status:
            self._status = status
            await self._index.records.set_sweep(self._location.number, status, self._location)

    async def _failed(self, error: LocationUnavailable) -> Sweep:
        self._stats.count(self._stats.sweeps, self._location.name, error.problem_code)
        if error.problem_code not in RESUMABLE_CODES:
            await self._index.records.end_progress(self._location.number)
        # Releases may have tripped the guard since the sweep began.
        guarded = (await self._index.records.sweep(self._location.number)).guarded
        now = time.time()
        if guarded is None and error.problem_code == ShrinkGuardTripped.code:
            guarded = now
        return replace(
            self._status,
            error=error.detail,
            error_code=error.problem_code,
            failed=now,
            guarded=guarded,
        )
