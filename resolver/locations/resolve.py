"""Resolving ids: from claims and the location table to one of the three answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resolver.index import Index
from resolver.locations.choose import Candidate, Wish, drawn, left_out, rank, reasons
from resolver.locations.table import Place, Table, TableKeeper, late
from resolver.models import Outcome, Owner, State, format_id

RETRY_AFTER = 5
"""Seconds that an `unknown` asks its client to wait: a first sweep of a small cloud."""


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

    def __init__(self, table: Table, wish: Wish, home: str) -> None:
        self._table = table
        self._wish = wish
        self._home = home
        self._doubts = table.doubts(time.time())
        self._forms: dict[tuple[Owner, ...], Form] = {}

    def candidates(self, owners: tuple[Owner, ...]) -> list[Candidate]:
        """The owners that are registered."""
        by_number = self._table.by_number
        return [Candidate(by_number[o.number], o) for o in owners if o.number in by_number]

    def answer(self, raw: bytes, owners: tuple[Owner, ...]) -> Answer:
        """The answer about one image with these claims."""
        candidates = self.candidates(owners)
        offered = rank(candidates, raw, self._wish, self._home)
        if offered:
            return Answer(raw, Outcome.FOUND, tuple(self._offer(raw, c) for c in offered))
        if candidates:
            why = "; ".join(f"{c.place.name} is {left_out(c, self._wish)}" for c in candidates)
            return Answer(
                raw,
                Outcome.UNKNOWN,
                missing=tuple(c.place.name for c in candidates),
                detail=f"It is known only where it may not be offered: {why}.",
            )
        if self._doubts:
            why = "; ".join(f"{name}: {doubt}" for name, doubt in self._doubts.items())
            return Answer(
                raw,
                Outcome.UNKNOWN,
                missing=tuple(self._doubts),
                detail=f"No owner is known, and not every location can vouch. {why}.",
            )
        if not self._table.in_service():
            return Answer(raw, Outcome.UNKNOWN, detail="No location is registered and in service.")
        return Answer(raw, Outcome.ABSENT, detail="Every location was covered and none lists it.")

    @staticmethod
    def _offer(raw: bytes, candidate: Candidate) -> Offer:
        place, case = candidate.place, candidate.owner.case
        return Offer(place, place.uri(raw, case), place.url(raw, case), case)

    def form(self, raw: bytes, owners: tuple[Owner, ...]) -> Form:
        """The answer about one image as JSON text, but for the id.

        Images with the same owners in the same order differ in their id only, so the text is made
        once for all of them. Only a draw among equals depends on the id, and a spelling.
        """
        form = self._forms.get(owners)
        if form is not None:
            return form
        if any(owner.case for owner in owners):
            return Form.of(self.answer(raw, owners))
        candidates = self.candidates(owners)
        if drawn(candidates, self._wish, self._home):
            ranked = rank(candidates, raw, self._wish, self._home)
            order = (_DRAWN, *(candidate.owner for candidate in ranked))
        else:
            order = owners
        if (form := self._forms.get(order)) is None:
            self._forms[order] = form = Form.of(self.answer(raw, owners))
        return form


_DRAWN = Owner(-1)
"""Heads the key of a form whose order was drawn, which no claim's owners are."""


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


class Resolver:
    """Answers for ids, from the index."""

    def __init__(
        self, index: Index, tables: TableKeeper, *, home: str = "", deadline: float = 0.25
    ) -> None:
        self._index = index
        self._tables = tables
        self._home = home
        self._deadline = deadline

    async def resolve(self, ids: Sequence[bytes], wish: Wish) -> list[Answer]:
        """The answers for ``ids``, in their order, in one round trip.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline, which grows with ``ids``.
        """
        table, owners = await self._read(ids)
        answer = Round(table, wish, self._home).answer
        return [answer(raw, owned) for raw, owned in zip(ids, owners, strict=True)]

    async def resolve_text(self, ids: Sequence[bytes], wish: Wish) -> list[Form]:
        """As `resolve`, for those who want JSON text and many of it.

        Raises:
            IndexUnavailable: as `resolve`.
        """
        table, owners = await self._read(ids)
        form = Round(table, wish, self._home).form
        return [form(raw, owned) for raw, owned in zip(ids, owners, strict=True)]

    async def _read(self, ids: Sequence[bytes]) -> tuple[Table, list[tuple[Owner, ...]]]:
        deadline = self._deadline * (1 + len(ids) / DEADLINE_IDS)
        try:
            async with asyncio.timeout(deadline):
                while True:
                    found = await self._index.claims.lookup(ids)
                    table = await self._tables.at_least(found.version)
                    # A table that is newer may vouch for claims made after this lookup.
                    if table.version == found.version:
                        return table, found.owners
        except TimeoutError as error:
            raise late(deadline) from error

    async def explain(self, raw: bytes, wish: Wish) -> dict[str, Any]:
        """Every location with its place among the owners, or why it has none.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline.
        """
        table, (owners,) = await self._read([raw])
        now = time.time()
        answer = Round(table, wish, self._home).answer(raw, owners)
        by_number = {o.number: o for o in owners}
        ranks = {offer.place.name: i for i, offer in enumerate(answer.offers)}
        rows = []
        for place in table.by_name.values():
            owner = by_number.get(place.location.number)
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
