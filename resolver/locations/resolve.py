"""Resolving ids: from claims and the location table to one of the three answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from resolver.errors import IndexUnavailable
from resolver.index import Index
from resolver.locations.choose import Candidate, Wish, left_out, rank, reasons
from resolver.locations.table import Place, Table, TableKeeper
from resolver.models import Outcome, Owner, State, format_id

RETRY_AFTER = 5
"""Seconds that an `unknown` asks its client to wait: a first sweep of a small cloud."""


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
        """The answers for ``ids``, in their order.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline.
        """
        table, owners = await self._read(ids)
        now = time.time()
        doubts = table.doubts(now)
        return [
            self._answer(raw, table, owned, doubts, wish)
            for raw, owned in zip(ids, owners, strict=True)
        ]

    async def _read(self, ids: Sequence[bytes]) -> tuple[Table, list[tuple[Owner, ...]]]:
        try:
            async with asyncio.timeout(self._deadline):
                found = await self._index.claims.lookup(ids)
                return await self._tables.at_least(found.version), found.owners
        except TimeoutError as error:
            raise IndexUnavailable(
                f"Redis did not answer within {self._deadline:g} s", headers={"Retry-After": "2"}
            ) from error

    def _answer(
        self,
        raw: bytes,
        table: Table,
        owners: tuple[Owner, ...],
        doubts: dict[str, str],
        wish: Wish,
    ) -> Answer:
        by_number = table.by_number
        candidates = [Candidate(by_number[o.number], o) for o in owners if o.number in by_number]
        offered = rank(candidates, raw, wish, self._home)
        if offered:
            return Answer(raw, Outcome.FOUND, tuple(self._offer(raw, c) for c in offered))
        if candidates:
            why = "; ".join(f"{c.place.name} is {left_out(c, wish)}" for c in candidates)
            return Answer(
                raw,
                Outcome.UNKNOWN,
                missing=tuple(c.place.name for c in candidates),
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
        if not table.in_service():
            return Answer(raw, Outcome.UNKNOWN, detail="No location is registered and in service.")
        return Answer(raw, Outcome.ABSENT, detail="Every location was covered and none lists it.")

    @staticmethod
    def _offer(raw: bytes, candidate: Candidate) -> Offer:
        place, case = candidate.place, candidate.owner.case
        return Offer(place, place.uri(raw, case), place.url(raw, case), case)

    async def explain(self, raw: bytes, wish: Wish) -> dict[str, Any]:
        """Every location with its place among the owners, or why it has none.

        Raises:
            IndexUnavailable: Redis gave no answer within the deadline.
        """
        table, (owners,) = await self._read([raw])
        now = time.time()
        answer = self._answer(raw, table, owners, table.doubts(now), wish)
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
