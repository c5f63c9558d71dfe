"""Resolving image ids: from the index, and from the locations where the index has no answer."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from resolver.errors import IndexUnavailable
from resolver.index import Index
from resolver.models import Outcome
from resolver.registry import LocationView, Table, TableKeeper
from resolver.resolution.answer import (
    NOT_ASKED,
    Answer,
    AnswerContext,
    ProbeResult,
    corrected_claims,
    decide,
    decide_after_probes,
    decide_found,
    doubt_absence,
    doubt_lack_of_bytes,
)
from resolver.resolution.coverage_proofs import CoverageProofs
from resolver.resolution.index_reader import Claims, IndexBudget, IndexReader, LookupResult
from resolver.resolution.negative_cache import ProbedImage
from resolver.resolution.prober import ChargeCallback, Prober, ProbeRequest
from resolver.resolution.ranking import DEFAULT_PREFERENCES, Preferences

RETRY_AFTER_SECONDS = 5
"""``Retry-After`` of an ``unknown``. A first sweep of a small cloud takes about this long."""

PROBE_GRACE_SECONDS = 0.05
"""How much longer a caller waits, so that a probe that times out can still return its reason."""


class Resolution(NamedTuple):
    """An answer and what it was decided from."""

    answer: Answer
    context: AnswerContext
    claims: Claims
    probes: Mapping[int, ProbeResult]
    """What locations answered, by location number."""


class Resolver:
    """Answers for image ids."""

    def __init__(
        self,
        index: Index,
        tables: TableKeeper,
        prober: Prober | None = None,
        *,
        home_region: str = "",
        deadline: float = 0.25,
        stale_for: float = 3600.0,
        absent_age: float | None = None,
    ) -> None:
        """Args:
        absent_age: seconds for which the index proves absence; None: locations are always asked.
        prober: None where no location is asked, so that the index alone must know.
        deadline: seconds that one request waits for the index, in all.
        stale_for: seconds for which the last known claims serve while Redis does not answer.
        """
        self._index = index
        self.prober = prober
        self._home_region = home_region
        self._absent_age = absent_age
        self.reader = IndexReader(
            index, tables, deadline=deadline, stale_for=stale_for, on_claims=self._forget_negatives
        )
        self.coverage = CoverageProofs(self.reader, absent_age)
        self.breaker = self.reader.breaker

    async def close(self) -> None:
        await self.reader.close()

    def context(self, lookup: LookupResult, preferences: Preferences) -> AnswerContext:
        """The context of answers from this lookup."""
        table, preferences = lookup.table, preferences.for_table(lookup.table)
        return AnswerContext(
            table, preferences, self._home_region, lookup.index_error, self._absent_age
        )

    async def resolve(
        self,
        image_id: bytes,
        preferences: Preferences,
        letter_case: int = 0,
        *,
        needs_bytes: bool = False,
        prefetched: LookupResult | BaseException | None = None,
        charge: ChargeCallback | None = None,
    ) -> Answer:
        """The answer about one image.

        Args:
            letter_case: how the client spelled the id.
            needs_bytes: the client wants the image's bytes. Where the index knows of no owner that
                has them, all locations are asked: they may have them by now.
            prefetched: what `IndexReader.request` gave for the same request.
            charge: called before locations are asked for the sake of this request.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline, and nothing is known from
                before.
            TooManyRequests: from ``charge``.
        """
        if preferences.trust_index and (cached := self.reader.cached(image_id)):
            context = self.context(cached, preferences)
            found = decide_found(context, image_id, context.owners_of(cached.claims))
            if found is not None and not (needs_bytes and found.lacks_bytes):
                return replace(found, source=cached.source, age=cached.age)
            if cached.index_error is None and not cached.claims and self.prober is not None:
                prefetched = cached  # the locations decide: what is cached may be out of date
        lookup = await self.look_up(image_id, prefetched)
        image = image_id, letter_case
        resolution = await self.answer_from_lookup(
            image, preferences, lookup, charge, needs_bytes=needs_bytes
        )
        return resolution.answer

    def remembered_absence(self, image_id: bytes, table: Table) -> float | None:
        """Seconds since the earliest of the locations' remembered answers, where these prove that
        the image is absent; else None. Nobody is asked. The caller knows that the index has no
        claim."""
        if self.prober is None or not self.reader.may_prove_absence():
            return None
        entry = self.prober.negatives.entry(image_id)
        if entry is None or entry.claims:
            return None
        if self.reader.has_uppercase_ids and entry.spelling_checked_in is not table:
            return None
        if entry.absent_in is not table:
            in_service = table.in_service()
            probes = self.prober.negatives.answers((image_id, 0), in_service, ())
            if not in_service or len(probes) < len(in_service):
                return None
            context = AnswerContext(table, DEFAULT_PREFERENCES, self._home_region)
            if decide(context, image_id, (), probes).outcome is not Outcome.ABSENT:
                return None
            entry.absent_in = table
            entry.earliest = min(probe.at for probe in probes.values() if probe.absent)
        return self.prober.negatives.age_of(entry)

    async def resolve_in_full(
        self,
        image_id: bytes,
        preferences: Preferences,
        letter_case: int = 0,
        charge: ChargeCallback | None = None,
    ) -> Resolution:
        """The answer about one image from the index itself, with what it was decided from.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline.
            TooManyRequests: from ``charge``.
        """
        started = time.monotonic()
        try:
            table, (claims,) = await self.reader.read([image_id])
            lookup = LookupResult(table, claims, seconds=time.monotonic() - started)
        except IndexUnavailable as error:
            lookup = self._without_index(image_id, error)
        return await self.answer_from_lookup((image_id, letter_case), preferences, lookup, charge)

    async def look_up(
        self, image_id: bytes, prefetched: LookupResult | BaseException | None
    ) -> LookupResult:
        try:
            if isinstance(prefetched, IndexUnavailable):
                raise prefetched
            if isinstance(prefetched, LookupResult):
                return prefetched
            return await self.reader.get(image_id)
        except IndexUnavailable as error:
            return self._without_index(image_id, error)

    def _without_index(self, image_id: bytes, error: IndexUnavailable) -> LookupResult:
        lookup = self.reader.without_index(image_id, error)
        if lookup.claims or self.prober is not None:
            return lookup
        # Nobody can be asked, so that nothing is known.
        raise IndexUnavailable(error.detail, headers=error.headers) from error

    async def answer_from_lookup(
        self,
        image: ProbedImage,
        preferences: Preferences,
        lookup: LookupResult,
        charge: ChargeCallback | None,
        *,
        needs_bytes: bool = False,
    ) -> Resolution:
        """The answer from a lookup, with the help of the locations where it is not enough."""
        context = self.context(lookup, preferences)
        budget = IndexBudget(self.reader.deadline - lookup.seconds)
        resolution = await self._answer(
            context, image, lookup.claims, budget, charge, needs_bytes=needs_bytes
        )
        if self.prober is not None and resolution.answer.outcome is Outcome.ABSENT:
            self.prober.negatives.spelling_is_checked(image[0], resolution.context.table)
        return resolution._replace(answer=with_stale_source(resolution.answer, lookup))

    async def _answer(
        self,
        context: AnswerContext,
        image: ProbedImage,
        claims: Claims,
        budget: IndexBudget,
        charge: ChargeCallback | None,
        *,
        needs_bytes: bool,
    ) -> Resolution:
        """Answers from the index if that is enough. Otherwise probes the owners that must be asked
        first, then all other locations: also where bytes are needed and no known owner has
        them."""
        image_id, _ = image
        owners = context.owners_of(claims)
        found = decide_found(context, image_id, owners)
        lacks_bytes = needs_bytes and found is not None and found.lacks_bytes
        if self.prober is None:
            if found is None and context.absent_age is not None and context.index_error is None:
                context, (claims,) = await self.coverage.latest_claims(context, [image_id], budget)
            answer = found or decide(context, image_id, claims)
            if lacks_bytes or answer.outcome is Outcome.ABSENT:
                doubt = await self.reader.loss_doubt(context.table)
                answer = doubt_absence(context, answer, doubt)
                if lacks_bytes:
                    answer = doubt_lack_of_bytes(context, answer, claims, loss_doubt=doubt)
            return Resolution(answer, context, claims, {})
        if claims:
            self.prober.negatives.forget_unless(image, claims)
        must_ask = [
            owner.view
            for owner in owners
            if _must_be_asked(owner.view, context.preferences, lacks_bytes=lacks_bytes)
        ]
        if found and not must_ask:
            return Resolution(found, context, claims, {})
        until = time.monotonic() + self.prober.timeout + PROBE_GRACE_SECONDS
        probes: dict[int, ProbeResult] = {}
        if must_ask:
            request = self._probe_request(context, image, must_ask, claims, until, claimed=True)
            if found and not context.preferences.fresh and not lacks_bytes:
                # These are the owners that the client excludes. It need not wait for them.
                self.prober.probe_in_background(request, charge)
                return Resolution(found, context, claims, {})
            probes = await self.prober.probe(request, charge)
            claims = corrected_claims(claims, probes, fresh=context.preferences.fresh)
            context = await self.with_current_table(context, budget)
            if found := decide_found(context, image_id, context.owners_of(claims)):
                best = probes.get(found.owners[0].number, NOT_ASKED)
                found = replace(found, source="probe" if best.owner else "index")
                if not (needs_bytes and found.lacks_bytes):
                    return Resolution(found, context, claims, probes)
        known = {claim.number for claim in claims} | probes.keys()
        if self.coverage.is_proof_for(context.preferences):
            context, proofs, _ = await self.coverage.proofs(context, [image_id], claims, budget)
            probes |= proofs
            known |= proofs.keys()
        others = [v for v in context.table.in_service() if v.location.number not in known]
        request = self._probe_request(context, image, others, claims, until, claimed=False)
        probes |= await self.prober.probe(request, charge)
        claims = corrected_claims(claims, probes)
        context = await self.with_current_table(context, budget)
        answer = decide_after_probes(context, image_id, claims, probes, needs_bytes=needs_bytes)
        answer = await self.coverage.without_doubt_of_spelling(context, answer)
        return Resolution(answer, context, claims, probes)

    def _probe_request(
        self,
        context: AnswerContext,
        image: ProbedImage,
        views: Collection[LocationView],
        claims: Claims,
        until: float,
        *,
        claimed: bool,
    ) -> ProbeRequest:
        return ProbeRequest(
            image,
            views,
            claims,
            claimed=claimed,
            fresh=context.preferences.fresh,
            until=until,
            exclude=() if claimed else context.preferences.exclude,
            updates_index=context.index_error is None and not self._index.read_only_because,
        )

    async def with_current_table(
        self, context: AnswerContext, budget: IndexBudget
    ) -> AnswerContext:
        """The context with the current table: locations may have been added or removed while others
        were asked."""
        if context.index_error is not None:
            return context
        started = time.monotonic()
        try:
            table = await self.reader.current_table(budget.seconds)
        except IndexUnavailable as error:
            return replace(context, index_error=error)
        budget.spend(time.monotonic() - started)
        return context if table is context.table else context.with_table(table)

    def _forget_negatives(self, ids: Sequence[bytes], claims: Sequence[Claims]) -> None:
        """Drops the remembered answers that were given while the index had other claims. Where it
        has none, such answers do not count when the locations are asked next."""
        if self.prober is None or not self.prober.negatives:
            return
        for image_id, some in zip(ids, claims, strict=True):
            if some:
                self.prober.negatives.forget_unless((image_id, 0), some)


def _must_be_asked(view: LocationView, preferences: Preferences, *, lacks_bytes: bool) -> bool:
    """Whether an owner in service is asked although the index has its claim: the client wants a
    fresh answer or excludes this owner, or the image lacks bytes at all owners."""
    reason = lacks_bytes or preferences.fresh or view.name in preferences.exclude
    return reason and view.in_service


def with_stale_source(answer: Answer, lookup: LookupResult) -> Answer:
    """The answer with the source of its claims, where that was not Redis."""
    if lookup.index_error is None or answer.source != "index":
        return answer
    return replace(answer, source=lookup.source, age=lookup.age)
