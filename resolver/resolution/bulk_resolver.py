"""Resolving many image ids at once.

However many ids a request has, and however many such requests there are: other clients have their
turns meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from resolver.errors import IndexUnavailable, TooManyRequests
from resolver.models import Outcome
from resolver.resolution.answer import decide, doubt_absence
from resolver.resolution.image_resolver import Resolver, with_stale_source
from resolver.resolution.index_reader import Claims, IndexBudget, LookupResult
from resolver.resolution.negative_cache import ProbedImage
from resolver.resolution.prober import ChargeCallback
from resolver.resolution.ranking import Preferences
from resolver.resolution.templates import (
    AnswerTemplate,
    TemplateCache,
    json_template,
    render_json,
)
from resolver.task_groups import run_for
from resolver.turns import in_turns, parts_of

IDS_PER_STEP = 16
"""Ids that are answered before others may have a turn: they take some 2 ms, where each is at many
locations, in an order of its own."""

PROBED_AT_ONCE = 16
"""Ids whose locations are asked at the same time, of all requests together. Half of the default of
RESOLVER_PROBES_PER_LOCATION: the rest is for clients that ask about one image."""

READS_AT_ONCE = 2
"""Requests that read the index at the same time: one reads while another is rendered. More would
delay each other, and single ids too."""

STALE_AGE_DIGITS = 1
"""Stale ages are rounded to a tenth of a second, so that texts can be shared."""


class BulkResolver:
    """Answers for many image ids, as templates that many of them share."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._reads = asyncio.Semaphore(READS_AT_ONCE)
        self._probes = asyncio.Semaphore(PROBED_AT_ONCE)

    async def resolve_many(
        self,
        ids: Sequence[bytes],
        preferences: Preferences,
        letter_cases: Mapping[int, int] | None = None,
        charge: ChargeCallback | None = None,
    ) -> list[AnswerTemplate]:
        """The answers for many ids, in their order, as JSON texts to be joined by the id.

        As many ids are probed as fit into one probe's time and as ``charge`` allows. The rest are
        answered as the index has them.

        Args:
            letter_cases: by position, the spelling of ids that are not in lower case.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline, which grows with ``ids``,
                and nothing is known from before.
        """
        async with self._reads:
            lookup_at, templates = await self._look_up(ids, preferences)
        proved = await self._prove_by_coverage(preferences, lookup_at, templates, ids)
        prober = self._resolver.prober
        if prober is None:
            await self._withdraw_doubtful_absences(ids, preferences, lookup_at, templates)
            return templates
        positions: dict[ProbedImage, list[int]] = {}
        for position, template in enumerate(templates):
            if preferences.fresh or (
                template.outcome is not Outcome.FOUND and position not in proved
            ):
                image = ids[position], (letter_cases or {}).get(position, 0)
                positions.setdefault(image, []).append(position)
        if positions:
            unanswered = await self._probe(
                positions, preferences, lookup_at, templates, charge, seconds=prober.timeout
            )
            async with self._reads:
                await self._answer_unprobed(unanswered, ids, preferences, lookup_at, templates)
        return templates

    async def _probe(
        self,
        positions: Mapping[ProbedImage, Sequence[int]],
        preferences: Preferences,
        lookup_at: Callable[[int], LookupResult],
        templates: list[AnswerTemplate],
        charge: ChargeCallback | None,
        *,
        seconds: float,
    ) -> list[int]:
        """Answers for images whose locations are asked. Returns the positions of those that there
        was no time for."""
        unanswered = set(positions)
        pending = iter(positions.items())

        async def answer_pending() -> None:
            while True:
                async with self._probes:
                    if (following := next(pending, None)) is None:
                        return
                    image, where = following
                    lookup = lookup_at(where[0])
                    try:
                        resolution = await self._resolver.answer_from_lookup(
                            image, preferences, lookup, charge
                        )
                    except TooManyRequests:
                        return
                    template = json_template(resolution.answer)
                    for position in where:
                        templates[position] = template
                    unanswered.discard(image)
                    # What is remembered, or not asked because too many are, is answered at once.
                    await asyncio.sleep(0)

        workers = min(PROBED_AT_ONCE, len(positions))
        await run_for(seconds, [answer_pending() for _ in range(workers)])
        return [position for image in unanswered for position in positions[image]]

    async def _answer_unprobed(
        self,
        positions: Sequence[int],
        ids: Sequence[bytes],
        preferences: Preferences,
        lookup_at: Callable[[int], LookupResult],
        templates: list[AnswerTemplate],
    ) -> None:
        """Answers for images whose locations were not asked. None is found, so that the texts
        differ in the id only."""
        shared: dict[tuple[Claims, str, float], AnswerTemplate] = {}
        async for position in in_turns(positions):
            lookup = lookup_at(position)
            claims = () if preferences.fresh else lookup.claims
            key = claims, lookup.source, round(lookup.age, STALE_AGE_DIGITS)
            template = shared.get(key)
            if template is None:
                context = self._resolver.context(lookup, preferences)
                answer = decide(context, ids[position], claims, probes={})
                template = json_template(with_stale_source(answer, lookup))
                shared[key] = template
            templates[position] = template

    async def _prove_by_coverage(
        self,
        preferences: Preferences,
        lookup_at: Callable[[int], LookupResult],
        templates: list[AnswerTemplate],
        ids: Sequence[bytes],
    ) -> set[int]:
        """Answers for images that the index alone proves to be absent. Returns their positions."""
        coverage = self._resolver.coverage
        if not coverage.is_proof_for(preferences):
            return set()
        positions = [
            position
            for position, template in enumerate(templates)
            if template.outcome is not Outcome.FOUND and not lookup_at(position).claims
        ]
        if not positions:
            return set()
        context = self._resolver.context(lookup_at(positions[0]), preferences)
        budget = IndexBudget(self._resolver.reader.deadline)
        unclaimed = [ids[position] for position in positions]
        context, proofs, unchanged = await coverage.proofs(context, unclaimed, (), budget)
        answer = decide(context, unclaimed[0], (), proofs)
        if answer.outcome is not Outcome.ABSENT:
            return set()
        template = json_template(answer)
        proved = {position for position in positions if ids[position] in unchanged}
        for position in proved:
            templates[position] = template
        return proved

    async def _withdraw_doubtful_absences(
        self,
        ids: Sequence[bytes],
        preferences: Preferences,
        lookup_at: Callable[[int], LookupResult],
        templates: list[AnswerTemplate],
    ) -> None:
        """Answers ``unknown`` in place of ``absent`` where the index may have lost a claim."""
        absent = [n for n, template in enumerate(templates) if template.outcome is Outcome.ABSENT]
        if not absent:
            return
        context = self._resolver.context(lookup_at(absent[0]), preferences)
        if doubt := await self._resolver.reader.loss_doubt(context.table):
            # Claims of absent images are those of no location, so that one answer does for all.
            answer = decide(context, ids[absent[0]], lookup_at(absent[0]).claims)
            template = json_template(doubt_absence(context, answer, doubt))
            for position in absent:
                templates[position] = template

    async def _look_up(
        self, ids: Sequence[bytes], preferences: Preferences
    ) -> tuple[Callable[[int], LookupResult], list[AnswerTemplate]]:
        """What the index has for many ids, or what this process knew last: a function that gives
        the lookup result at a position, and the answers to all ids. Few results are needed."""
        resolver, reader = self._resolver, self._resolver.reader
        templates: list[AnswerTemplate | None] = []
        try:
            table, claims = await reader.read(ids)
        except IndexUnavailable as error:
            last_table = reader.last_table()
            if last_table is None or not last_table.in_service():
                raise
            unknown = LookupResult(last_table, (), "stale", 0.0, error)
            lookups: list[LookupResult] = []
            cache = TemplateCache(resolver.context(unknown, preferences), render_json)
            async for part in in_turns(parts_of(ids, IDS_PER_STEP)):
                found = [reader.last_known(image_id, error) or unknown for image_id in part]
                lookups += found
                templates += [
                    cache.of((lookup.source, round(lookup.age, STALE_AGE_DIGITS))).get(
                        image_id, lookup.claims
                    )
                    for image_id, lookup in zip(part, found, strict=True)
                ]

            def lookup_at(position: int) -> LookupResult:
                return lookups[position]

        else:

            def lookup_at(position: int) -> LookupResult:
                return LookupResult(table, claims[position])

            context = resolver.context(LookupResult(table, ()), preferences)
            cache = TemplateCache(context, render_json)
            template_of = cache.of(("index", 0.0)).get
            parts = zip(parts_of(ids, IDS_PER_STEP), parts_of(claims, IDS_PER_STEP), strict=True)
            async for part, owners in in_turns(parts):
                templates += map(template_of, part, owners)
        return lookup_at, cast("list[AnswerTemplate]", templates)  # every answer has a JSON text
