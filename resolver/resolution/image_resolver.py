"""Resolving ids: asking the index, and the locations where it cannot tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from resolver.errors import IndexUnavailable, TooManyRequests
from resolver.index import Index
from resolver.models import Outcome, Owner, State, format_id
from resolver.registry.table import Table, TableKeeper, index_timeout_error
from resolver.resolution.answer import NOT_ASKED, Answer, AnswerContext, AnswerTemplate
from resolver.resolution.batcher import LookupBatcher, OnResult
from resolver.resolution.breaker import Breaker
from resolver.resolution.prober import Image, Pay, Prober, ProbeResult
from resolver.resolution.ranking import Candidate, Preferences, left_out, reasons

RETRY_AFTER = 5
"""Seconds that an `unknown` asks its client to wait: a first sweep of a small cloud."""

GRACE = 0.05
"""Seconds for which a question that has just failed may still say why."""

BULK_AT_ONCE = 16
"""Ids of one request about which locations are asked at the same time."""

BULK_READS = 2
"""Requests for many ids that are with the index at the same time: one is read of while the other
is answered. More of them would make each other late, and single ids too."""

DEADLINE_IDS = 1000
"""Ids that lengthen the index's deadline by as much as one request's."""


class LookupResult(NamedTuple):
    """An image's owners, and the table that their numbers are of."""

    table: Table
    owners: tuple[Owner, ...]
    source: str = "index"
    age: float = 0.0
    cut: IndexUnavailable | None = None
    """Why Redis was not asked, or did not answer."""
    took: float = 0.0
    """Seconds that the index took to tell."""


class Resolver:
    """Answers for ids: from the index, and from the locations where it cannot tell."""

    def __init__(
        self,
        index: Index,
        tables: TableKeeper,
        prober: Prober | None = None,
        *,
        home: str = "",
        deadline: float = 0.25,
        stale_for: float = 3600.0,
    ) -> None:
        """``prober`` None: no location is asked, so the index alone must know. ``stale_for``: how
        long what was known last will do while Redis does not answer."""
        self._index = index
        self._tables = tables
        self._prober = prober
        self._home = home
        self._deadline = deadline
        self._stale_for = stale_for
        self._batcher: LookupBatcher[LookupResult] = LookupBatcher(self._read_each)
        self._bulks = asyncio.Semaphore(BULK_READS)
        self.breaker = Breaker(self._try)
        self._failed: Sequence[bytes] = ()
        """What was asked for last in vain: on a cluster, one node may answer and another not."""

    async def close(self) -> None:
        await self.breaker.close()

    async def _try(self) -> None:
        await self._ask_index(self._failed[:1], keep=False)

    def ask(self, image_id: bytes, tell: OnResult[LookupResult]) -> None:
        """Has ``tell`` called with an image's owners, and the table that their numbers are of."""
        self._batcher.ask(image_id, tell)

    def known(self, image_id: bytes) -> LookupResult | None:
        """The same, where this process knows it and would have been told of a change; or where it
        knew it last and Redis does not answer."""
        if self._tables.is_current and (kept := self._index.claims.cached(image_id)):
            return LookupResult(self._tables.table, kept[0], "cache", kept[1])
        if self.breaker.why is not None:
            return self._last(image_id, self.breaker.why)
        return None

    def _last(self, image_id: bytes, why: IndexUnavailable) -> LookupResult | None:
        """An image's owners as they were known last."""
        table = self._tables.recent(self._stale_for)
        if table is None or (found := self._index.claims.cached_stale(image_id)) is None:
            return None
        return LookupResult(table, found[0], "stale", found[1], why)

    def _cut(self, image_id: bytes, why: IndexUnavailable) -> LookupResult:
        """The same, or that no owner is known.

        Raises:
            IndexUnavailable: nor is any location, or nobody is asked.
        """
        if (last := self._last(image_id, why)) is not None:
            return last
        table = self._tables.recent(self._stale_for)
        if table is None or not table.in_service() or self._prober is None:
            raise IndexUnavailable(why.detail, headers=why.headers) from why
        return LookupResult(table, (), "stale", 0.0, why)

    async def _read_each(self, ids: Sequence[bytes]) -> Sequence[LookupResult | BaseException]:
        begun = time.monotonic()
        try:
            table, owners = await self._read(ids, keep=True)
        except IndexUnavailable as error:
            return [self._last(image_id, error) or error for image_id in ids]
        took = time.monotonic() - begun
        if self._prober is not None:
            for image_id, owned in zip(ids, owners, strict=True):
                if owned:
                    self._prober.forget((image_id, 0), owned)
        return [LookupResult(table, owned, took=took) for owned in owners]

    async def resolve(
        self,
        image_id: bytes,
        preferences: Preferences,
        letter_case: int = 0,
        *,
        told: LookupResult | BaseException | None = None,
        pay: Pay | None = None,
    ) -> Answer:
        """The answer about one image. ``letter_case``: how its client spelt it; ``told``: what `ask` told
        of it for the same request, which waits for the index no longer than one deadline in all.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline, and nothing else helps.
            TooManyRequests: from ``pay``.
        """
        if not (preferences.fresh or preferences.exclude) and (known := self.known(image_id)):
            context = AnswerContext(known.table, preferences, self._home)
            if found := context.found(image_id, context.candidates(known.owners)):
                return replace(found, source=known.source, age=known.age)
        try:
            if isinstance(told, IndexUnavailable):
                raise told
            owned = told if isinstance(told, LookupResult) else await self._batcher.get(image_id)
        except IndexUnavailable as error:
            owned = self._cut(image_id, error)
        context = AnswerContext(owned.table, preferences, self._home, owned.cut)
        context.left = self._deadline - owned.took
        answer, _, _ = await self._settle(context, (image_id, letter_case), owned, pay)
        return answer

    async def resolve_text(
        self,
        ids: Sequence[bytes],
        preferences: Preferences,
        letter_cases: Mapping[int, int] | None = None,
        pay: Pay | None = None,
    ) -> list[AnswerTemplate]:
        """The answers for many ids, in their order, as JSON text. ``letter_cases``: by where they stand,
        how those are spelt that are not as usual.

        Locations are asked about as many as can be within one question's time, and as ``pay``
        allows; the rest are answered as the index has them.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline, which grows with ``ids``,
                and nothing else helps.
        """
        async with self._bulks:
            context, every, forms = await self._known_forms(ids, preferences)
        if self._prober is None:
            return forms
        todo = [
            at
            for at, form in enumerate(forms)
            if preferences.fresh or form.outcome is not Outcome.FOUND
        ]
        views: dict[Image, list[int]] = {}
        for at in todo:
            views.setdefault((ids[at], (letter_cases or {}).get(at, 0)), []).append(at)
        coming = iter(views.items())

        async def some() -> None:
            for image, where in coming:
                try:
                    answer, _, _ = await self._settle(context, image, every[where[0]], pay)
                except TooManyRequests:
                    return
                form = AnswerTemplate.of(answer)
                for at in where:
                    forms[at] = form
                unasked.difference_update(where)

        unasked = set(todo)
        if todo:
            workers = [asyncio.create_task(some()) for _ in range(min(BULK_AT_ONCE, len(views)))]
            _, late_ones = await asyncio.wait(workers, timeout=self._prober.timeout)
            for task in late_ones:
                task.cancel()
            await asyncio.gather(*late_ones, return_exceptions=True)
            for task in workers:
                if not task.cancelled():
                    task.result()
        for at in unasked:
            if preferences.fresh or forms[at].outcome is not Outcome.FOUND:
                known = () if preferences.fresh else every[at].owners
                forms[at] = AnswerTemplate.of(
                    _told(context.answer(ids[at], known, said={}), every[at])
                )
        return forms

    async def _known_forms(
        self, ids: Sequence[bytes], preferences: Preferences
    ) -> tuple[AnswerContext, list[LookupResult], list[AnswerTemplate]]:
        """What the index tells of many ids, or this process knew last."""
        try:
            table, owners = await self._read(ids)
        except IndexUnavailable as cut:
            last = self._tables.recent(self._stale_for)
            if last is None or not last.in_service():
                raise
            nowhere = LookupResult(last, (), "stale", 0.0, cut)
            every = [self._last(image_id, cut) or nowhere for image_id in ids]
            context = AnswerContext(last, preferences, self._home, cut)
            made: dict[object, AnswerTemplate] = {}
            pairs = zip(ids, every, strict=True)
            return context, every, [_stale_form(context, *pair, made) for pair in pairs]
        context = AnswerContext(table, preferences, self._home)
        forms = [context.form(image_id, owned) for image_id, owned in zip(ids, owners, strict=True)]
        return context, [LookupResult(table, owned) for owned in owners], forms

    async def _settle(
        self, context: AnswerContext, image: Image, owned: LookupResult, pay: Pay | None
    ) -> tuple[Answer, tuple[Owner, ...], Mapping[int, ProbeResult]]:
        answer, owners, said = await self._settled(context, image, owned.owners, pay)
        return _told(answer, owned), owners, said

    async def _settled(
        self, context: AnswerContext, image: Image, owners: tuple[Owner, ...], pay: Pay | None
    ) -> tuple[Answer, tuple[Owner, ...], Mapping[int, ProbeResult]]:
        """The answer about an image with these claims, asking the locations where they do not do.

        Those that a client doubts, by wanting it fresh or leaving an owner out, are asked whether
        they still have it; all others where none is left. Returns the owners and what was said too.
        """
        image_id, _ = image
        preferences = context.preferences
        candidates = context.candidates(owners)
        found = context.found(image_id, candidates)
        prober = self._prober
        if prober is None:
            return found or context.answer(image_id, owners), owners, {}
        if owners:
            prober.forget(image, owners)
        doubted = [
            c.view
            for c in candidates
            if (preferences.fresh or c.view.name in preferences.exclude)
            and c.view.location.state is not State.MAINTENANCE
        ]
        if found and not doubted:
            return found, owners, {}
        said: dict[int, ProbeResult] = {}
        until = time.monotonic() + prober.timeout + GRACE
        if doubted:
            ask = partial(
                prober.ask,
                image,
                doubted,
                claimed=True,
                fresh=preferences.fresh,
                owners=owners,
                until=until,
                noted=context.cut is None,
            )
            if found and not preferences.fresh:  # it is not among those that are offered: no haste
                if _affords(pay):
                    prober.aside(ask())
                return found, owners, {}
            said = await ask(pay=pay)
            # One that could not even be asked is nobody's fresh answer.
            gone = {n for n, one in said.items() if one.no or (preferences.fresh and not one.asked)}
            owners = _corrected(owners, said, gone)
            context = await self._now(context)
            if found := context.found(image_id, context.candidates(owners)):
                best = said.get(found.offers[0].view.location.number, NOT_ASKED)
                return replace(found, source="probe" if best.owner else "index"), owners, said
        known = {owner.number for owner in owners}
        others = [
            view
            for view in context.table.in_service()
            if view.location.number not in known | said.keys()
        ]
        said |= await prober.ask(
            image,
            others,
            claimed=False,
            fresh=preferences.fresh,
            owners=owners,
            exclude=preferences.exclude,
            until=until,
            noted=context.cut is None,
            pay=pay,
        )
        owners = _corrected(owners, said, set())
        context = await self._now(context)
        answer = context.answer(image_id, owners, said)
        if answer.outcome is Outcome.FOUND:
            answer = replace(answer, source="probe")
        return answer, owners, said

    async def _now(self, context: AnswerContext) -> AnswerContext:
        """The same with the table of now: while some were asked, others may have left or come."""
        if context.cut is not None:
            return context
        table = self._tables.table
        if not self._tables.is_current:
            begun = time.monotonic()
            try:
                left = self._deadline if context.left is None else max(context.left, 0.0)
                table = await self._tables.current(left)
            except IndexUnavailable as error:
                return AnswerContext(context.table, context.preferences, self._home, error)
            if context.left is not None:
                context.left -= time.monotonic() - begun
        return context if table is context.table else context.on(table)

    async def _read(
        self, ids: Sequence[bytes], *, keep: bool = False
    ) -> tuple[Table, list[tuple[Owner, ...]]]:
        """The owners of each id, and the table that they are of.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline, or is known to give none.
        """
        if (why := self.breaker.why) is not None:
            raise IndexUnavailable(why.detail, headers=why.headers)
        try:
            if self._index.oldest_reply_age() > self._deadline:  # we would wait behind that
                raise index_timeout_error(self._deadline)
            found = await self._ask_index(ids, keep=keep)
        except IndexUnavailable as error:
            self._failed = ids
            self.breaker.failed(error)
            raise
        self.breaker.worked()
        return found

    async def _ask_index(
        self, ids: Sequence[bytes], *, keep: bool
    ) -> tuple[Table, list[tuple[Owner, ...]]]:
        deadline = self._deadline * (1 + len(ids) / DEADLINE_IDS)
        try:
            async with asyncio.timeout(deadline):
                while True:
                    changes = self._tables.changes
                    found = await self._index.claims.lookup(ids, cache=keep)
                    table = await self._tables.ensure_version(found.version)
                    # A table that is newer may vouch for claims made after this lookup.
                    if (table.identity, table.version) == found[:2]:
                        self._tables.confirm(changes)
                        return table, found.owners
        except TimeoutError as error:
            raise index_timeout_error(deadline) from error

    async def explain(
        self,
        image_id: bytes,
        preferences: Preferences,
        letter_case: int = 0,
        pay: Pay | None = None,
    ) -> dict[str, Any]:
        """Every location with its place among the owners, or why it has none.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline.
            TooManyRequests: from ``pay``.
        """
        begun = time.monotonic()
        try:
            table, (owners,) = await self._read([image_id])
            owned = LookupResult(table, owners, took=time.monotonic() - begun)
        except IndexUnavailable as error:
            owned = self._cut(image_id, error)
        table = owned.table
        context = AnswerContext(table, preferences, self._home, owned.cut)
        context.left = self._deadline - owned.took
        answer, owners, said = await self._settle(context, (image_id, letter_case), owned, pay)
        now = time.time()
        by_number = {o.number: o for o in owners}
        ranks = {offer.view.name: i for i, offer in enumerate(answer.offers)}
        rows = []
        for view in table.by_name.values():
            number = view.location.number
            owner = by_number.get(number)
            doubt = view.coverage_problem(now)
            if view.name in ranks:
                verdict = "chosen" if ranks[view.name] == 0 else "ranked"
                why = reasons(Candidate(view, owner or Owner(0)), preferences, self._home)
            elif owner is not None:
                verdict, why = "left out", [left_out(Candidate(view, owner), preferences)]
            elif view.location.state is State.MAINTENANCE:
                verdict, why = "left out", ["no claim", "in maintenance"]
            else:
                verdict = "not an owner"
                why = ["no claim", doubt or "its fresh and whole sweep does not list the image"]
            if (one := said.get(number)) is not None:
                why.append(_heard(one))
            rows.append(
                {
                    "location": view.name,
                    "verdict": verdict,
                    "rank": ranks[view.name] + 1 if view.name in ranks else None,
                    "reasons": why,
                    "covered": not doubt,
                }
            )
        last = len(rows) + 1  # outside the key: a list is empty while it is sorted
        rows.sort(key=lambda row: (row["rank"] or last, row["location"]))
        return {**answer.as_json(), "detail": answer.detail, "locations": rows}


def _stale_form(
    context: AnswerContext, image_id: bytes, owned: LookupResult, made: dict[object, AnswerTemplate]
) -> AnswerTemplate:
    """As `AnswerContext.form`, of what was known last; its age is told to a tenth of a second."""
    owned = owned._replace(age=round(owned.age, 1))
    order = context.order(image_id, owned.owners)
    key = order, owned.source, owned.age
    if order is None or (form := made.get(key)) is None:
        form = AnswerTemplate.of(_told(context.answer(image_id, owned.owners), owned))
        if order is not None and not context.id_occurs_in_owners(format_id(image_id), owned.owners):
            made[key] = form
    return form


def _affords(pay: Pay | None) -> bool:
    try:
        if pay is not None:
            pay()
    except TooManyRequests:
        return False
    return True


def _told(answer: Answer, owned: LookupResult) -> Answer:
    """The answer with where it came from, where Redis did not answer."""
    if owned.cut is None or answer.source != "index":
        return answer
    return replace(answer, source=owned.source, age=owned.age)


def _corrected(
    owners: Iterable[Owner], said: Mapping[int, ProbeResult], gone: Container[int]
) -> tuple[Owner, ...]:
    """The owners by the index, less those that are gone, and those that said so themselves."""
    there = {one.owner.number: one.owner for one in said.values() if one.owner is not None}
    kept = [o for o in owners if o.number not in there and o.number not in gone]
    return (*kept, *there.values())


def _heard(one: ProbeResult) -> str:
    """What a location said, for people."""
    if one.owner is not None:
        return "asked, it said yes"
    if one.no:
        age = time.monotonic() - one.at
        return f"asked {age:.1f} s ago, it said no"
    return f"{'asked' if one.asked else 'not asked'}: {one.why}"
