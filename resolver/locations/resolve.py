"""Resolving ids: from claims and the location table to one of the three answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

from resolver.errors import IndexUnavailable, TooManyRequests
from resolver.index import Index
from resolver.locations.ask import Asker, Image, Pay, Said
from resolver.locations.breaker import Breaker
from resolver.locations.choose import Candidate, Wish, drawn, left_out, rank, reasons
from resolver.locations.table import Place, Table, TableKeeper, late
from resolver.locations.together import Tell, Together
from resolver.models import Outcome, Owner, State, format_id

RETRY_AFTER = 5
"""Seconds that an `unknown` asks its client to wait: a first sweep of a small cloud."""


NOT_ASKED = Said(why="it was not asked in time", asked=False)

GRACE = 0.05
"""Seconds for which a question that has just failed may still say why."""

BULK_AT_ONCE = 16
"""Ids of one request about which locations are asked at the same time."""

BULK_READS = 2
"""Requests for many ids that are with the index at the same time: one is read of while the other
is answered. More of them would make each other late, and single ids too."""

DEADLINE_IDS = 1000
"""Ids that lengthen the index's deadline by as much as one request's."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One owner of an image, ready to be named to a client."""

    place: Place
    uri: str
    url: str
    case: int

    def as_json(self) -> dict[str, Any]:
        return {
            "location": self.place.name,
            "region": self.place.location.region,
            "uri": self.uri,
            "url": self.url,
            "health": str(self.place.health),
            "state": str(self.place.location.state),
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the three answers about one image."""

    raw: bytes
    outcome: Outcome
    offers: tuple[Offer, ...] = ()
    """The owners, best first."""
    missing: tuple[str, ...] = ()
    """Locations that could not vouch."""
    detail: str = ""
    source: str = "index"
    age: float = 0.0
    """Seconds since the source said so."""

    @property
    def id(self) -> str:
        return format_id(self.raw)

    def as_json(self) -> dict[str, Any]:
        best = self.offers[0] if self.offers else None
        return {
            "id": self.id,
            "outcome": str(self.outcome),
            "uri": best.uri if best else None,
            "url": best.url if best else None,
            "owners": [offer.as_json() for offer in self.offers],
            "missing": list(self.missing),
            "source": self.source,
            "age": round(self.age, 3),
        }


class Round:
    """Answers from one table, for one client, as of one moment."""

    def __init__(
        self, table: Table, wish: Wish, home: str, cut: IndexUnavailable | None = None
    ) -> None:
        """``cut``: why Redis does not answer. A location that was registered meanwhile is not in
        the table then, so nothing is absent."""
        self.table = table
        self.cut = cut
        self.wish = wish
        self.left: float | None = None
        """Seconds for which the index may still be waited for; None: a deadline each time."""
        self._home = home
        self._begun = time.monotonic()
        self._covered: dict[str, str] | None = None
        self._forms: dict[Order, Form] = {}
        self._plain: dict[tuple[Owner, ...], _Plain] = {}

    def on(self, table: Table) -> Round:
        """The same from another table."""
        other = Round(table, self.wish, self._home, self.cut)
        other._begun, other.left = self._begun, self.left
        return other

    def candidates(self, owners: Iterable[Owner]) -> list[Candidate]:
        """The owners that are registered."""
        by_number = self.table.by_number
        return [Candidate(by_number[o.number], o) for o in owners if o.number in by_number]

    def found(self, raw: bytes, candidates: Sequence[Candidate]) -> Answer | None:
        """The answer that names those who may be offered; None where nobody may."""
        offered = rank(candidates, raw, self.wish, self._home)
        if not offered:
            return None
        return Answer(raw, Outcome.FOUND, tuple(self._offer(raw, c) for c in offered))

    def answer(
        self, raw: bytes, owners: tuple[Owner, ...], said: Mapping[int, Said] | None = None
    ) -> Answer:
        """The answer about one image with these claims.

        ``said``: what locations answered when they were asked about it; None where none was, so
        that their coverage must do.
        """
        candidates = self.candidates(owners)
        if (found := self.found(raw, candidates)) is not None:
            return found
        doubts = self._doubts() if said is None else self._silence(said)
        if candidates:
            why = "; ".join(f"{c.place.name} is {left_out(c, self.wish)}" for c in candidates)
            return Answer(
                raw,
                Outcome.UNKNOWN,
                missing=tuple(dict.fromkeys((*(c.place.name for c in candidates), *doubts))),
                detail=f"It is known only where it may not be offered: {why}.",
            )
        if doubts:
            why = "; ".join(f"{name}: {doubt}" for name, doubt in doubts.items())
            return Answer(
                raw,
                Outcome.UNKNOWN,
                missing=tuple(doubts),
                detail=f"No owner is known, and not every location can vouch. {why}.",
            )
        if self.cut is not None:
            detail = f"No owner is known here, and {self.cut.detail}."
            return Answer(raw, Outcome.UNKNOWN, detail=detail)
        if not self.table.in_service():
            return Answer(raw, Outcome.UNKNOWN, detail="No location is registered and in service.")
        if said is None:
            detail = "Every location was covered and none lists it."
            return Answer(raw, Outcome.ABSENT, detail=detail)
        age = time.monotonic() - min(one.at for one in said.values())
        source = "probe" if any(one.at >= self._begun for one in said.values()) else "cache"
        return Answer(
            raw,
            Outcome.ABSENT,
            detail="Every location was asked and none has it.",
            source=source,
            age=age,
        )

    def _doubts(self) -> dict[str, str]:
        if self._covered is None:
            self._covered = self.table.doubts(time.time())
        return self._covered

    def _silence(self, said: Mapping[int, Said]) -> dict[str, str]:
        """Why locations in service have not said that they lack the image; only those."""
        doubts = {}
        for place in self.table.in_service():
            one = said.get(place.location.number, NOT_ASKED)
            if one.owner is None and not one.no:
                doubts[place.name] = one.why
        return doubts | self.table.missed()

    @staticmethod
    def _offer(raw: bytes, candidate: Candidate) -> Offer:
        place, case = candidate.place, candidate.owner.case
        return Offer(place, place.uri(raw, case), place.url(raw, case), case)

    def form(self, raw: bytes, owners: tuple[Owner, ...]) -> Form:
        """The answer about one image as JSON text, but for the id.

        Images with the same owners in the same order differ in their id only, so the text is made
        once for all of them. Only a draw among equals depends on the id, and a spelling.
        """
        order = self.order(raw, owners)
        if order is None:
            return Form.of(self.answer(raw, owners))
        if (form := self._forms.get(order)) is None:
            form = Form.of(self.answer(raw, owners))
            if not self.stands_in(format_id(raw), owners):
                self._forms[order] = form
        return form

    def stands_in(self, text: str, owners: tuple[Owner, ...]) -> bool:
        """Whether an image's id also stands in what is said of its owners, such as in a URL's
        prefix: text of its answer cut at the id is then no other image's."""
        return any(
            text in part
            for candidate in self.candidates(owners)
            for part in (candidate.place.location.url, candidate.place.location.region)
        )

    def order(self, raw: bytes, owners: tuple[Owner, ...]) -> Order | None:
        """What answers about images with these owners have in common but for the id: equal for
        two images, so are they. None: nothing, since an owner spells the id its own way."""
        plain = self._plain.get(owners)
        if plain is None:
            plain = _Plain.NO
            if not any(owner.case for owner in owners):
                drawn_ = drawn(self.candidates(owners), self.wish, self._home)
                plain = _Plain.DRAWN if drawn_ else _Plain.YES
            self._plain[owners] = plain
        if plain is _Plain.YES:
            return owners
        if plain is _Plain.NO:
            return None
        ranked = rank(self.candidates(owners), raw, self.wish, self._home)
        return (_DRAWN, *(candidate.owner for candidate in ranked))


Order = tuple[Owner, ...]

_DRAWN = Owner(-1)
"""Heads an order that was drawn, which no claim's owners are."""


class _Plain(Enum):
    """Whether the answers about images with the same owners are the same but for the id."""

    YES = 1
    DRAWN = 2
    """It depends on the image which of them comes first."""
    NO = 3


@dataclass(frozen=True, slots=True)
class Form:
    """The JSON text of an answer, cut where the image's id stands."""

    outcome: Outcome
    parts: tuple[str, ...]

    @classmethod
    def of(cls, answer: Answer) -> Form:
        return cls(answer.outcome, tuple(json.dumps(answer.as_json()).split(answer.id)))

    def fill(self, text: str) -> str:
        """The answer for an id in its usual, dashed and lower-case, form."""
        return text.join(self.parts)


class Owned(NamedTuple):
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
        asker: Asker | None = None,
        *,
        home: str = "",
        deadline: float = 0.25,
        stale_for: float = 3600.0,
    ) -> None:
        """``asker`` None: no location is asked, so the index alone must know. ``stale_for``: how
        long what was known last will do while Redis does not answer."""
        self._index = index
        self._tables = tables
        self._asker = asker
        self._home = home
        self._deadline = deadline
        self._stale_for = stale_for
        self._together: Together[Owned] = Together(self._read_each)
        self._bulks = asyncio.Semaphore(BULK_READS)
        self.breaker = Breaker(self._try)
        self._failed: Sequence[bytes] = ()
        """What was asked for last in vain: on a cluster, one node may answer and another not."""

    async def close(self) -> None:
        await self.breaker.close()

    async def _try(self) -> None:
        await self._ask_index(self._failed[:1], keep=False)

    def ask(self, raw: bytes, tell: Tell[Owned]) -> None:
        """Has ``tell`` called with an image's owners, and the table that their numbers are of."""
        self._together.ask(raw, tell)

    def known(self, raw: bytes) -> Owned | None:
        """The same, where this process knows it and would have been told of a change; or where it
        knew it last and Redis does not answer."""
        if self._tables.known and (kept := self._index.claims.kept(raw)):
            return Owned(self._tables.table, kept[0], "cache", kept[1])
        if self.breaker.why is not None:
            return self._last(raw, self.breaker.why)
        return None

    def _last(self, raw: bytes, why: IndexUnavailable) -> Owned | None:
        """An image's owners as they were known last."""
        table = self._tables.last(self._stale_for)
        if table is None or (found := self._index.claims.stale(raw)) is None:
            return None
        return Owned(table, found[0], "stale", found[1], why)

    def _cut(self, raw: bytes, why: IndexUnavailable) -> Owned:
        """The same, or that no owner is known.

        Raises:
            IndexUnavailable: nor is any location, or nobody is asked.
        """
        if (last := self._last(raw, why)) is not None:
            return last
        table = self._tables.last(self._stale_for)
        if table is None or not table.in_service() or self._asker is None:
            raise IndexUnavailable(why.detail, headers=why.headers) from why
        return Owned(table, (), "stale", 0.0, why)

    async def _read_each(self, ids: Sequence[bytes]) -> Sequence[Owned | BaseException]:
        begun = time.monotonic()
        try:
            table, owners = await self._read(ids, keep=True)
        except IndexUnavailable as error:
            return [self._last(raw, error) or error for raw in ids]
        took = time.monotonic() - begun
        if self._asker is not None:
            for raw, owned in zip(ids, owners, strict=True):
                if owned:
                    self._asker.forget((raw, 0), owned)
        return [Owned(table, owned, took=took) for owned in owners]

    async def resolve(
        self,
        raw: bytes,
        wish: Wish,
        case: int = 0,
        *,
        told: Owned | BaseException | None = None,
        pay: Pay | None = None,
    ) -> Answer:
        """The answer about one image. ``case``: how its client spelt it; ``told``: what `ask` told
        of it for the same request, which waits for the index no longer than one deadline in all.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline, and nothing else helps.
            TooManyRequests: from ``pay``.
        """
        if not (wish.fresh or wish.exclude) and (known := self.known(raw)):
            round_ = Round(known.table, wish, self._home)
            if found := round_.found(raw, round_.candidates(known.owners)):
                return replace(found, source=known.source, age=known.age)
        try:
            if isinstance(told, IndexUnavailable):
                raise told
            owned = told if isinstance(told, Owned) else await self._together.get(raw)
        except IndexUnavailable as error:
            owned = self._cut(raw, error)
        round_ = Round(owned.table, wish, self._home, owned.cut)
        round_.left = self._deadline - owned.took
        answer, _, _ = await self._settle(round_, (raw, case), owned, pay)
        return answer

    async def resolve_text(
        self,
        ids: Sequence[bytes],
        wish: Wish,
        cases: Mapping[int, int] | None = None,
        pay: Pay | None = None,
    ) -> list[Form]:
        """The answers for many ids, in their order, as JSON text. ``cases``: by where they stand,
        how those are spelt that are not as usual.

        Locations are asked about as many as can be within one question's time, and as ``pay``
        allows; the rest are answered as the index has them.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline, which grows with ``ids``,
                and nothing else helps.
        """
        async with self._bulks:
            round_, every, forms = await self._known_forms(ids, wish)
        if self._asker is None:
            return forms
        todo = [
            at for at, form in enumerate(forms) if wish.fresh or form.outcome is not Outcome.FOUND
        ]
        places: dict[Image, list[int]] = {}
        for at in todo:
            places.setdefault((ids[at], (cases or {}).get(at, 0)), []).append(at)
        coming = iter(places.items())

        async def some() -> None:
            for image, where in coming:
                try:
                    answer, _, _ = await self._settle(round_, image, every[where[0]], pay)
                except TooManyRequests:
                    return
                form = Form.of(answer)
                for at in where:
                    forms[at] = form
                unasked.difference_update(where)

        unasked = set(todo)
        if todo:
            workers = [asyncio.create_task(some()) for _ in range(min(BULK_AT_ONCE, len(places)))]
            _, late_ones = await asyncio.wait(workers, timeout=self._asker.timeout)
            for task in late_ones:
                task.cancel()
            await asyncio.gather(*late_ones, return_exceptions=True)
            for task in workers:
                if not task.cancelled():
                    task.result()
        for at in unasked:
            if wish.fresh or forms[at].outcome is not Outcome.FOUND:
                known = () if wish.fresh else every[at].owners
                forms[at] = Form.of(_told(round_.answer(ids[at], known, said={}), every[at]))
        return forms

    async def _known_forms(
        self, ids: Sequence[bytes], wish: Wish
    ) -> tuple[Round, list[Owned], list[Form]]:
        """What the index tells of many ids, or this process knew last."""
        try:
            table, owners = await self._read(ids)
        except IndexUnavailable as cut:
            last = self._tables.last(self._stale_for)
            if last is None or not last.in_service():
                raise
            nowhere = Owned(last, (), "stale", 0.0, cut)
            every = [self._last(raw, cut) or nowhere for raw in ids]
            round_ = Round(last, wish, self._home, cut)
            made: dict[object, Form] = {}
            pairs = zip(ids, every, strict=True)
            return round_, every, [_stale_form(round_, *pair, made) for pair in pairs]
        round_ = Round(table, wish, self._home)
        forms = [round_.form(raw, owned) for raw, owned in zip(ids, owners, strict=True)]
        return round_, [Owned(table, owned) for owned in owners], forms

    async def _settle(
        self, round_: Round, image: Image, owned: Owned, pay: Pay | None
    ) -> tuple[Answer, tuple[Owner, ...], Mapping[int, Said]]:
        answer, owners, said = await self._settled(round_, image, owned.owners, pay)
        return _told(answer, owned), owners, said

    async def _settled(
        self, round_: Round, image: Image, owners: tuple[Owner, ...], pay: Pay | None
    ) -> tuple[Answer, tuple[Owner, ...], Mapping[int, Said]]:
        """The answer about an image with these claims, asking the locations where they do not do.

        Those that a client doubts, by wanting it fresh or leaving an owner out, are asked whether
        they still have it; all others where none is left. Returns the owners and what was said too.
        """
        raw, _ = image
        wish = round_.wish
        candidates = round_.candidates(owners)
        found = round_.found(raw, candidates)
        asker = self._asker
        if asker is None:
            return found or round_.answer(raw, owners), owners, {}
        if owners:
            asker.forget(image, owners)
        doubted = [
            c.place
            for c in candidates
            if (wish.fresh or c.place.name in wish.exclude)
            and c.place.location.state is not State.MAINTENANCE
        ]
        if found and not doubted:
            return found, owners, {}
        said: dict[int, Said] = {}
        until = time.monotonic() + asker.timeout + GRACE
        if doubted:
            ask = partial(
                asker.ask,
                image,
                doubted,
                claimed=True,
                fresh=wish.fresh,
                owners=owners,
                until=until,
                noted=round_.cut is None,
            )
            if found and not wish.fresh:  # it is not among those that are offered: no haste
                if _affords(pay):
                    asker.aside(ask())
                return found, owners, {}
            said = await ask(pay=pay)
            # One that could not even be asked is nobody's fresh answer.
            gone = {n for n, one in said.items() if one.no or (wish.fresh and not one.asked)}
            owners = _corrected(owners, said, gone)
            round_ = await self._now(round_)
            if found := round_.found(raw, round_.candidates(owners)):
                best = said.get(found.offers[0].place.location.number, NOT_ASKED)
                return replace(found, source="probe" if best.owner else "index"), owners, said
        known = {owner.number for owner in owners}
        others = [
            place
            for place in round_.table.in_service()
            if place.location.number not in known | said.keys()
        ]
        said |= await asker.ask(
            image,
            others,
            claimed=False,
            fresh=wish.fresh,
            owners=owners,
            exclude=wish.exclude,
            until=until,
            noted=round_.cut is None,
            pay=pay,
        )
        owners = _corrected(owners, said, set())
        round_ = await self._now(round_)
        answer = round_.answer(raw, owners, said)
        if answer.outcome is Outcome.FOUND:
            answer = replace(answer, source="probe")
        return answer, owners, said

    async def _now(self, round_: Round) -> Round:
        """The same with the table of now: while some were asked, others may have left or come."""
        if round_.cut is not None:
            return round_
        table = self._tables.table
        if not self._tables.known:
            begun = time.monotonic()
            try:
                left = self._deadline if round_.left is None else max(round_.left, 0.0)
                table = await self._tables.current(left)
            except IndexUnavailable as error:
                return Round(round_.table, round_.wish, self._home, error)
            if round_.left is not None:
                round_.left -= time.monotonic() - begun
        return round_ if table is round_.table else round_.on(table)

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
            if self._index.link.owing() > self._deadline:  # we would wait behind that
                raise late(self._deadline)
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
                    found = await self._index.claims.lookup(ids, keep=keep)
                    table = await self._tables.at_least(found.version)
                    # A table that is newer may vouch for claims made after this lookup.
                    if (table.identity, table.version) == found[:2]:
                        self._tables.is_of(changes)
                        return table, found.owners
        except TimeoutError as error:
            raise late(deadline) from error

    async def explain(
        self, raw: bytes, wish: Wish, case: int = 0, pay: Pay | None = None
    ) -> dict[str, Any]:
        """Every location with its place among the owners, or why it has none.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline.
            TooManyRequests: from ``pay``.
        """
        begun = time.monotonic()
        try:
            table, (owners,) = await self._read([raw])
            owned = Owned(table, owners, took=time.monotonic() - begun)
        except IndexUnavailable as error:
            owned = self._cut(raw, error)
        table = owned.table
        round_ = Round(table, wish, self._home, owned.cut)
        round_.left = self._deadline - owned.took
        answer, owners, said = await self._settle(round_, (raw, case), owned, pay)
        now = time.time()
        by_number = {o.number: o for o in owners}
        ranks = {offer.place.name: i for i, offer in enumerate(answer.offers)}
        rows = []
        for place in table.by_name.values():
            number = place.location.number
            owner = by_number.get(number)
            doubt = place.doubt(now)
            if place.name in ranks:
                verdict = "chosen" if ranks[place.name] == 0 else "ranked"
                why = reasons(Candidate(place, owner or Owner(0)), wish, self._home)
            elif owner is not None:
                verdict, why = "left out", [left_out(Candidate(place, owner), wish)]
            elif place.location.state is State.MAINTENANCE:
                verdict, why = "left out", ["no claim", "in maintenance"]
            else:
                verdict = "not an owner"
                why = ["no claim", doubt or "its fresh and whole sweep does not list the image"]
            if (one := said.get(number)) is not None:
                why.append(_heard(one))
            rows.append(
                {
                    "location": place.name,
                    "verdict": verdict,
                    "rank": ranks[place.name] + 1 if place.name in ranks else None,
                    "reasons": why,
                    "covered": not doubt,
                }
            )
        last = len(rows) + 1  # outside the key: a list is empty while it is sorted
        rows.sort(key=lambda row: (row["rank"] or last, row["location"]))
        return {**answer.as_json(), "detail": answer.detail, "locations": rows}


def _stale_form(round_: Round, raw: bytes, owned: Owned, made: dict[object, Form]) -> Form:
    """As `Round.form`, of what was known last; its age is told to a tenth of a second."""
    owned = owned._replace(age=round(owned.age, 1))
    order = round_.order(raw, owned.owners)
    key = order, owned.source, owned.age
    if order is None or (form := made.get(key)) is None:
        form = Form.of(_told(round_.answer(raw, owned.owners), owned))
        if order is not None and not round_.stands_in(format_id(raw), owned.owners):
            made[key] = form
    return form


def _affords(pay: Pay | None) -> bool:
    try:
        if pay is not None:
            pay()
    except TooManyRequests:
        return False
    return True


def _told(answer: Answer, owned: Owned) -> Answer:
    """The answer with where it came from, where Redis did not answer."""
    if owned.cut is None or answer.source != "index":
        return answer
    return replace(answer, source=owned.source, age=owned.age)


def _corrected(
    owners: Iterable[Owner], said: Mapping[int, Said], gone: Container[int]
) -> tuple[Owner, ...]:
    """The owners by the index, less those that are gone, and those that said so themselves."""
    there = {one.owner.number: one.owner for one in said.values() if one.owner is not None}
    kept = [o for o in owners if o.number not in there and o.number not in gone]
    return (*kept, *there.values())


def _heard(one: Said) -> str:
    """What a location said, for people."""
    if one.owner is not None:
        return "asked, it said yes"
    if one.no:
        age = time.monotonic() - one.at
        return f"asked {age:.1f} s ago, it said no"
    return f"{'asked' if one.asked else 'not asked'}: {one.why}"
