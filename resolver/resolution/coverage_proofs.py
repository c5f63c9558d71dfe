"""What the index proves about images that it does not have, in place of the locations' own answers.

With ``RESOLVER_ABSENT_PROOF=covered`` a location is not asked about an image where sweeps and polls
have shown everything that it had a short time ago.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from resolver.errors import IndexUnavailable
from resolver.index import UNREADABLE
from resolver.models import Outcome
from resolver.resolution.answer import Answer, AnswerContext, ProbeResult, doubt_absence
from resolver.resolution.index_reader import Claims, IndexBudget, IndexReader
from resolver.resolution.ranking import Preferences

STATUS_AGE_SHARE = 0.25
"""Of ``RESOLVER_ABSENT_AGE``: how old the times of polls may be that this process knows."""


class CoverageProofs:
    """Proofs of absence from the index."""

    def __init__(self, reader: IndexReader, absent_age: float | None) -> None:
        """``absent_age``: seconds for which what sweeps and polls have shown is a proof; None: it
        is none."""
        self._reader = reader
        self._absent_age = absent_age

    def is_proof_for(self, preferences: Preferences) -> bool:
        """Whether a client with these preferences takes the index for a proof."""
        return self._absent_age is not None and not preferences.fresh

    async def without_doubt_of_spelling(self, context: AnswerContext, answer: Answer) -> Answer:
        """The answer that locations gave; unknown in place of absent where one may have the image
        under a spelling that only the index had. A server's database may distinguish letter case,
        and Redis may have lost the claim. Redis is asked only if some id was ever spelled with
        upper-case digits."""
        if answer.outcome is not Outcome.ABSENT or not self._reader.has_uppercase_ids:
            return answer
        table = context.table
        if all(view.status.sweep.losses == table.losses for view in table.in_service()):
            doubt = await self._reader.loss_doubt(table)
        else:
            doubt = "Redis may have lost claims"  # and not every location was swept since
        return doubt_absence(context, answer, doubt and f"{doubt}, some on ids in upper case")

    async def latest_claims(
        self, context: AnswerContext, ids: Sequence[bytes], budget: IndexBudget
    ) -> tuple[AnswerContext, Sequence[Claims]]:
        """The context with a table that has the times of recent polls, and the claims of images,
        read after that table: then they are at least as new as what the table says is in the index.
        (Polls that change nothing else do not change the registry's version, so a table may have
        older times, or be newer than claims of its version.)

        Raises:
            IndexUnavailable: Redis gave no answer in time.
        """
        started = time.monotonic()
        within = self._absent_age
        if within is not None and context.table.coverage_problems(time.time(), within):
            table = await self._reader.fresh_table(within * STATUS_AGE_SHARE, budget.seconds)
            context = context.with_table(table)
        _, claims = await self._reader.read(ids)
        budget.spend(time.monotonic() - started)
        return context, claims

    async def proofs(
        self, context: AnswerContext, ids: Sequence[bytes], claims: Claims, budget: IndexBudget
    ) -> tuple[AnswerContext, dict[int, ProbeResult], set[bytes]]:
        """What the index proves of locations in service that do not claim images with these claims,
        by number; the context with the table that this follows from; and the ids that have these
        claims still, to which it applies."""
        if context.index_error is not None or claims == UNREADABLE:
            return context, {}, set()
        try:
            context, latest = await self.latest_claims(context, ids, budget)
        except IndexUnavailable as error:
            return replace(context, index_error=error), {}, set()
        unchanged = {n for n, now in zip(ids, latest, strict=True) if now == claims}
        claimed = {claim.number for claim in claims}
        now = time.time()
        ages = {
            view.location.number: view.proof_age(now)
            for view in context.table.in_service()
            if view.location.number not in claimed
            and not view.coverage_problem(now, self._absent_age)
        }
        if not ages or not unchanged or await self._reader.loss_doubt(context.table):
            return context, {}, set()
        at = time.monotonic()
        proofs = {n: ProbeResult(absent=True, asked=False, at=at - age) for n, age in ages.items()}
        return context, proofs, unchanged
