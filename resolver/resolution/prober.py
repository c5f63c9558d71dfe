"""Probes: asking locations about one image that the index does not know, or may know wrongly.

A probe is one image at one location. Callers that want the same probe share it. Probes in flight
are bounded, for each location and in all; beyond the bound a location is not asked, and what is
not asked stays unknown. A "yes" becomes a claim, a "no" about a claimed image releases the claim,
and each "no" is remembered for a short time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from resolver.errors import (
    IndexUnavailable,
    LocationUnavailable,
    ShrinkGuardTripped,
    TooManyRequests,
)
from resolver.fault_log import FaultLog
from resolver.glance import ImageProbe, ProbeAnswer
from resolver.image_facts import ImageFacts
from resolver.index import Index
from resolver.models import Health, Owner
from resolver.registry import LocationView, TableKeeper
from resolver.registry.location_view import scope_problem
from resolver.resolution.answer import ProbeResult
from resolver.resolution.negative_cache import NegativeCache, ProbedImage
from resolver.resolution.vouching_problems import Silences
from resolver.spans import NO_SPANS, Spans

SHUTDOWN_SECONDS = 1.0
"""How long `Prober.close` waits for answers on their way to the index, and for cancelled probes."""

FAILURE_TEXTS = {
    "no-credential": "it was not asked, because its credential cannot be used",
    "rate-limited": "it allows no more requests now",
    "unauthorized": "it refuses the credential that it is registered with, or needs one",
}
"""Why a location was no help, by code. Anybody may read these."""

log = structlog.get_logger()


def failure_text(code: str) -> str:
    """Why a location was no help, for anybody to read. ``code``: that of its error."""
    return f"{FAILURE_TEXTS.get(code, 'it gave no usable answer')} ({code})"


ChargeCallback = Callable[[int], None]
"""Charges the client for as many questions that it causes. Raises TooManyRequests."""


@dataclass(eq=False, slots=True)
class InFlightProbe:
    """One image at one location, being asked."""

    claims: tuple[Owner, ...]
    """The image's claims when the probe began."""
    releases_claim: bool
    """Whether the location claims the image, so that a "no" releases the claim."""
    updates_index: bool
    started: float
    result: asyncio.Future[ProbeResult]
    task: asyncio.Task[None] | None = None
    """Ends when the index has the answer too."""


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """What one caller of `Prober.probe` wants."""

    image: ProbedImage
    views: Collection[LocationView]
    """The locations to ask."""
    claims: tuple[Owner, ...]
    """The image's claims in the index now."""
    claimed: bool
    """Whether the index says that these locations have the image. Then every answer is waited for,
    and a "no" releases the claim. Otherwise the first usable "yes" is enough."""
    fresh: bool
    """Answers from before this call do not count."""
    until: float
    """`time.monotonic` after which no answer is waited for."""
    exclude: Container[str] = ()
    """Names of locations whose "yes" is not usable for this client."""
    updates_index: bool = True


class Prober:
    """Asks locations about images."""

    def __init__(
        self,
        index: Index,
        tables: TableKeeper,
        image_probe: ImageProbe,
        *,
        timeout: float,
        per_location: int,
        at_once: int,
        remember: float,
        index_timeout: float,
        spans: Spans = NO_SPANS,
    ) -> None:
        """Args:
        timeout: seconds for one probe.
        per_location, at_once: probes in flight at one location, and in all.
        remember: seconds for which a "no" is remembered.
        index_timeout: seconds that a caller waits for a release to reach the index.
        """
        self._index = index
        self._tables = tables
        self._image_probe = image_probe
        self.timeout = timeout
        self._per_location = per_location
        self._at_once = at_once
        self._index_timeout = index_timeout
        self._spans = spans
        self._in_flight: dict[tuple[ProbedImage, int], InFlightProbe] = {}
        self._in_flight_at: Counter[int] = Counter()
        self._store_faults = FaultLog(
            __name__, "probe results not stored", "probe results stored again"
        )
        self._exceeding = 0
        """Probes under way of a request that exceeds the bound by itself."""
        self.negatives = NegativeCache(remember)
        self._background: set[asyncio.Task[Any]] = set()
        self.counts: Counter[tuple[str, str]] = Counter()
        """(location, result) -> probes since the start."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Location -> seconds that its probes took, all together."""
        self.silences = Silences()

    @property
    def in_flight(self) -> int:
        """Probes under way."""
        return len(self._in_flight)

    async def probe(
        self, request: ProbeRequest, charge: ChargeCallback | None = None
    ) -> dict[int, ProbeResult]:
        """What the locations answer, by location number.

        ``charge`` is called before locations are asked for the sake of this call. A location that
        is known to be down is asked, but not waited for when all others have answered.

        Raises:
            TooManyRequests: from ``charge``. No location was asked then.
        """
        arrived = time.monotonic()
        results = (
            {}
            if request.fresh
            else self.negatives.answers(request.image, request.views, request.claims)
        )
        pending = [view for view in request.views if view.location.number not in results]
        spans = self._spans if pending else NO_SPANS
        with spans.span("ask locations", {"locations": len(pending)}):
            unusable = await self._finish_unusable(request, pending, arrived)
            joined = self._join_or_start(request, pending, unusable, results, charge)
            await self._collect(request, joined)
        for number, probe in joined.items():
            results[number] = (
                probe.result.result()
                if probe.result.done()
                else ProbeResult(reason="it has not answered yet")
            )
        return results

    async def _finish_unusable(
        self, request: ProbeRequest, pending: Iterable[LocationView], arrived: float
    ) -> list[asyncio.Task[None]]:
        """Waits for probes in flight whose answers this caller cannot use: they are older than a
        fresh request, than the claim that they would release, or than a change of the image's
        claims. Those are asked again."""
        unusable = [
            probe.task
            for view in pending
            if (probe := self._in_flight.get((request.image, view.location.number)))
            and probe.task
            and probe.started < arrived
            and (
                request.fresh
                or probe.claims != request.claims
                or (request.claimed and not probe.releases_claim)
            )
        ]
        if unusable:
            await asyncio.wait(unusable, timeout=max(0.0, request.until - time.monotonic()))
        return unusable

    def _join_or_start(
        self,
        request: ProbeRequest,
        pending: Collection[LocationView],
        unusable: Collection[asyncio.Task[None]],
        results: dict[int, ProbeResult],
        charge: ChargeCallback | None,
    ) -> dict[int, InFlightProbe]:
        """Probes of the pending locations, started where none is in flight. Locations that are not
        asked get their result at once: if not all new probes fit into the bound, none is
        started. One request at a time may exceed the bound, where it could never fit."""
        free = self._at_once - len(self._in_flight)
        new = [v for v in pending if (request.image, v.location.number) not in self._in_flight]
        exceeds = len(new) > self._at_once and not self._exceeding
        fits = len(new) <= free or exceeds
        questions = sum(self._has_room(view) for view in new) if fits else 0
        if charge is not None and questions:
            charge(questions)
        joined: dict[int, InFlightProbe] = {}
        for view in pending:
            number = view.location.number
            probe = self._in_flight.get((request.image, number))
            if probe is not None and probe.task in unusable:
                results[number] = ProbeResult(
                    reason="it has not answered yet", asked=False, is_claimed=request.claimed
                )
            elif probe is not None:
                joined[number] = probe
            elif not (fits and self._has_room(view)):
                results[number] = ProbeResult(
                    reason="too many probes are in flight",
                    asked=False,
                    is_claimed=request.claimed,
                )
                self.counts[view.name, "refused"] += 1
            else:
                joined[number] = probe = self._start(request, view)
                if exceeds and probe.task is not None:
                    self._exceeding += 1
                    probe.task.add_done_callback(self._end_exceeding)
        return joined

    def _has_room(self, view: LocationView) -> bool:
        return self._in_flight_at[view.location.number] < self._per_location

    def _end_exceeding(self, _: object) -> None:
        self._exceeding -= 1

    async def _collect(self, request: ProbeRequest, joined: Mapping[int, InFlightProbe]) -> None:
        """Waits for a usable "yes", or until every location that is not down has answered; at most
        until the deadline."""
        asked = [view for view in request.views if view.location.number in joined]
        needed = [view for view in asked if view.health is not Health.DOWN] or asked
        if needed is asked and not request.claimed and self._tables.table.vouching():
            # Those that vouch decide, also where they have answered before, or the index does.
            needed = [view for view in asked if view.location.vouches]
        awaited = {view.location.number for view in needed}
        if not awaited:
            return
        enough = asyncio.get_running_loop().create_future()

        # One future for all: to wait for the first of those that are left, again and again, takes
        # time that grows with the square of their number.
        def collect(view: LocationView, result: asyncio.Future[ProbeResult]) -> None:
            awaited.discard(view.location.number)
            has_usable = (
                not request.claimed
                and view.name not in request.exclude
                and result.result().is_usable
            )
            if not enough.done() and (has_usable or not awaited):
                enough.set_result(None)

        for view in asked:
            joined[view.location.number].result.add_done_callback(partial(collect, view))
        await asyncio.wait([enough], timeout=max(0.0, request.until - time.monotonic()))

    def probe_in_background(self, request: ProbeRequest, charge: ChargeCallback | None) -> None:
        """As `probe`, for a caller that does not wait, nor for whether it may ask."""

        async def run() -> None:
            with contextlib.suppress(TooManyRequests):
                await self.probe(request, charge)

        task = asyncio.create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _start(self, request: ProbeRequest, view: LocationView) -> InFlightProbe:
        number = view.location.number
        key = request.image, number
        self._in_flight_at[number] += 1
        self._in_flight[key] = probe = InFlightProbe(
            request.claims,
            releases_claim=request.claimed,
            updates_index=request.updates_index,
            started=time.monotonic(),
            result=asyncio.get_running_loop().create_future(),
        )

        def ended(_: object) -> None:
            del self._in_flight[key]
            self._in_flight_at[number] -= 1
            if not probe.result.done():  # it was cancelled before it began
                probe.result.set_result(ProbeResult(reason="this gateway is stopping"))

        probe.task = asyncio.create_task(
            self._run(probe, request.image, view), name=f"probe:{view.name}"
        )
        probe.task.add_done_callback(ended)
        return probe

    async def _run(self, probe: InFlightProbe, image: ProbedImage, view: LocationView) -> None:
        """Asks the location, then gives the result to the callers and to the index."""
        letter_cases = {claim.number: claim.letter_case for claim in probe.claims}
        number = view.location.number
        result = await self._ask(image, view, letter_cases.get(number, 0))
        self.seconds[view.name] += time.monotonic() - probe.started
        self.silences.record(number, result)
        claims = probe.claims
        if result.absent and probe.releases_claim:
            claims = tuple(claim for claim in claims if claim.number != number)
        try:
            remembers_silence = not (view.location.vouches or probe.releases_claim)
            if result.absent or (result.owner is None and remembers_silence):
                self.negatives.add(image, number, result, claims)
            elif result.owner is not None:
                self.negatives.forget_answer(image, number)
            if probe.updates_index:
                await self._update_index(probe, image, number, result)
                self._store_faults.record_success()
        except ShrinkGuardTripped:
            pass  # the claim stays: a sweep decides about it
        except IndexUnavailable as error:
            self._store_faults.record_failure(str(error))
        finally:
            if not probe.result.done():
                probe.result.set_result(result)

    async def _update_index(
        self, probe: InFlightProbe, image: ProbedImage, number: int, result: ProbeResult
    ) -> None:
        observations, image_id = self._index.observations, image[0]
        if result.absent and probe.releases_claim:
            # The release comes first, so that the next client is not sent there again. The callers
            # wait for it, but not long.
            releasing = asyncio.ensure_future(observations.record_absent(number, [image_id]))
            await asyncio.wait([releasing], timeout=self._index_timeout)
            if releasing.done() and not releasing.cancelled():
                refusal = releasing.exception()
                if isinstance(refusal, ShrinkGuardTripped):
                    result = replace(result, absent=False, reason=refusal.detail)
            probe.result.set_result(result)
            await releasing
            return
        probe.result.set_result(result)
        if result.owner is not None:
            owner = result.owner
            await observations.record_present(
                number,
                {image_id: owner.letter_case},
                probe.started,
                {image_id: ImageFacts(owner.status, owner.content)},
            )
            if number not in (await self._tables.current()).by_number:
                # The location was removed, and its claims may have been collected already.
                await self._index.claims.release(number, [image_id])

    async def _ask(self, image: ProbedImage, view: LocationView, claimed_case: int) -> ProbeResult:
        image_id, sent_case = image
        owner = None
        result, reason = "no", ""
        try:
            async with asyncio.timeout(self.timeout):
                # As claimed, as Glance writes ids, and as the client spelled it: some databases
                # tell them apart.
                spellings = dict.fromkeys((claimed_case, 0, sent_case))
                answer = await self._image_probe.ask(
                    view.location, view.versions, image_id, spellings
                )
                if answer.letter_case is not None:
                    number = view.location.number
                    owner = Owner(number, answer.letter_case, *answer.facts)
                    result = "yes"
                elif reason := await self._scope_problem(view, answer):
                    result = "blind"
        except LocationUnavailable as error:
            result = error.problem_code
            reason = failure_text(result)
        except TimeoutError:
            waiting = self._image_probe.is_logging_in(view.location)
            what = "it was not asked: Keystone gave no token" if waiting else "it did not answer"
            result, reason = "timeout", f"{what} within {self.timeout:g} s"
        except Exception:  # a bug of ours: the location counts as silent, the log has the cause
            log.exception("probe failed", location=view.name)
            result, reason = "internal-error", "the probe failed (internal-error)"
        self.counts[view.name, result] += 1
        return ProbeResult(
            owner, result == "no", reason=reason, location_updated=view.location.updated
        )

    async def _scope_problem(self, view: LocationView, answer: ProbeAnswer) -> str:
        """Why a 404 of this location proves nothing; empty where it proves absence.

        Raises:
            LocationUnavailable: the location failed while it was asked what its credential sees.
        """
        scope = await self._image_probe.scope(
            view.location,
            view.versions,
            answer,
            was_proven=view.status.sweep.sees_all_proven,
        )
        return scope_problem(scope.sees_all, scope.why)

    async def close(self) -> None:
        """Cancels all probes. Those that were answered may store their answer first."""
        probes = list(self._in_flight.values())
        storing = [probe.task for probe in probes if probe.task and probe.result.done()]
        if storing:
            await asyncio.wait(storing, timeout=SHUTDOWN_SECONDS)
        tasks = [probe.task for probe in self._in_flight.values() if probe.task]
        tasks += self._background
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=SHUTDOWN_SECONDS)
