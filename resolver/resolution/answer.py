"""Answers: from an image's owners and one table of locations to one of the three outcomes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from resolver.errors import IndexUnavailable
from resolver.models import Outcome, Owner, format_id
from resolver.registry import LocationView, Table
from resolver.resolution.prober import ProbeResult
from resolver.resolution.ranking import Candidate, Preferences, has_ties, left_out, rank

NOT_ASKED = ProbeResult(why="it was not asked in time", asked=False)


@dataclass(frozen=True, slots=True)
class Offer:
    """One owner of an image, ready to be named to a client."""

    view: LocationView
    uri: str
    url: str
    letter_case: int

    def as_json(self) -> dict[str, Any]:
        return {
            "location": self.view.name,
            "region": self.view.location.region,
            "uri": self.uri,
            "url": self.url,
            "health": str(self.view.health),
            "state": str(self.view.location.state),
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the three answers about one image."""

    image_id: bytes
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
        return format_id(self.image_id)

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


class AnswerContext:
    """Answers from one table, for one client, as of one moment."""

    def __init__(
        self, table: Table, preferences: Preferences, home: str, cut: IndexUnavailable | None = None
    ) -> None:
        """``cut``: why Redis does not answer. A location that was registered meanwhile is not in
        the table then, so nothing is absent."""
        self.table = table
        self.cut = cut
        self.preferences = preferences
        self.left: float | None = None
        """Seconds for which the index may still be waited for; None: a deadline each time."""
        self._home = home
        self._begun = time.monotonic()
        self._covered: dict[str, str] | None = None
        self._forms: dict[Order, AnswerTemplate] = {}
        self._plain: dict[tuple[Owner, ...], _Sharing] = {}

    def on(self, table: Table) -> AnswerContext:
        """The same from another table."""
        other = AnswerContext(table, self.preferences, self._home, self.cut)
        other._begun, other.left = self._begun, self.left
        return other

    def candidates(self, owners: Iterable[Owner]) -> list[Candidate]:
        """The owners that are registered."""
        by_number = self.table.by_number
        return [Candidate(by_number[o.number], o) for o in owners if o.number in by_number]

    def found(self, image_id: bytes, candidates: Sequence[Candidate]) -> Answer | None:
        """The answer that names those who may be offered; None where nobody may."""
        offered = rank(candidates, image_id, self.preferences, self._home)
        if not offered:
            return None
        return Answer(image_id, Outcome.FOUND, tuple(self._offer(image_id, c) for c in offered))

    def answer(
        self,
        image_id: bytes,
        owners: tuple[Owner, ...],
        said: Mapping[int, ProbeResult] | None = None,
    ) -> Answer:
        """The answer about one image with these claims.

        ``said``: what locations answered when they were asked about it; None where none was, so
        that their coverage must do.
        """
        candidates = self.candidates(owners)
        if (found := self.found(image_id, candidates)) is not None:
            return found
        doubts = self._doubts() if said is None else self._silence(said)
        if candidates:
            why = "; ".join(f"{c.view.name} is {left_out(c, self.preferences)}" for c in candidates)
            return Answer(
                image_id,
                Outcome.UNKNOWN,
                missing=tuple(dict.fromkeys((*(c.view.name for c in candidates), *doubts))),
                detail=f"It is known only where it may not be offered: {why}.",
            )
        if doubts:
            why = "; ".join(f"{name}: {doubt}" for name, doubt in doubts.items())
            return Answer(
                image_id,
                Outcome.UNKNOWN,
                missing=tuple(doubts),
                detail=f"No owner is known, and not every location can vouch. {why}.",
            )
        if self.cut is not None:
            detail = f"No owner is known here, and {self.cut.detail}."
            return Answer(image_id, Outcome.UNKNOWN, detail=detail)
        if not self.table.in_service():
            return Answer(
                image_id, Outcome.UNKNOWN, detail="No location is registered and in service."
            )
        if said is None:
            detail = "Every location was covered and none lists it."
            return Answer(image_id, Outcome.ABSENT, detail=detail)
        age = time.monotonic() - min(one.at for one in said.values())
        source = "probe" if any(one.at >= self._begun for one in said.values()) else "cache"
        return Answer(
            image_id,
            Outcome.ABSENT,
            detail="Every location was asked and none has it.",
            source=source,
            age=age,
        )

    def _doubts(self) -> dict[str, str]:
        if self._covered is None:
            self._covered = self.table.coverage_problems(time.time())
        return self._covered

    def _silence(self, said: Mapping[int, ProbeResult]) -> dict[str, str]:
        """Why locations in service have not said that they lack the image; only those."""
        doubts = {}
        for view in self.table.in_service():
            one = said.get(view.location.number, NOT_ASKED)
            if one.owner is None and not one.no:
                doubts[view.name] = one.why
        return doubts | self.table.lost_locations()

    @staticmethod
    def _offer(image_id: bytes, candidate: Candidate) -> Offer:
        view, letter_case = candidate.view, candidate.owner.letter_case
        return Offer(
            view, view.uri(image_id, letter_case), view.url(image_id, letter_case), letter_case
        )

    def form(self, image_id: bytes, owners: tuple[Owner, ...]) -> AnswerTemplate:
        """The answer about one image as JSON text, but for the id.

        Images with the same owners in the same order differ in their id only, so the text is made
        once for all of them. Only a draw among equals depends on the id, and a spelling.
        """
        order = self.order(image_id, owners)
        if order is None:
            return AnswerTemplate.of(self.answer(image_id, owners))
        if (form := self._forms.get(order)) is None:
            form = AnswerTemplate.of(self.answer(image_id, owners))
            if not self.id_occurs_in_owners(format_id(image_id), owners):
                self._forms[order] = form
        return form

    def id_occurs_in_owners(self, text: str, owners: tuple[Owner, ...]) -> bool:
        """Whether an image's id also stands in what is said of its owners, such as in a URL's
        prefix: text of its answer cut at the id is then no other image's."""
        return any(
            text in part
            for candidate in self.candidates(owners)
            for part in (candidate.view.location.url, candidate.view.location.region)
        )

    def order(self, image_id: bytes, owners: tuple[Owner, ...]) -> Order | None:
        """What answers about images with these owners have in common but for the id: equal for
        two images, so are they. None: nothing, since an owner spells the id its own way."""
        plain = self._plain.get(owners)
        if plain is None:
            plain = _Sharing.NO
            if not any(owner.letter_case for owner in owners):
                drawn_ = has_ties(self.candidates(owners), self.preferences, self._home)
                plain = _Sharing.DRAWN if drawn_ else _Sharing.YES
            self._plain[owners] = plain
        if plain is _Sharing.YES:
            return owners
        if plain is _Sharing.NO:
            return None
        ranked = rank(self.candidates(owners), image_id, self.preferences, self._home)
        return (_DRAWN, *(candidate.owner for candidate in ranked))


Order = tuple[Owner, ...]

_DRAWN = Owner(-1)
"""Heads an order that was drawn, which no claim's owners are."""


class _Sharing(Enum):
    """Whether the answers about images with the same owners are the same but for the id."""

    YES = 1
    DRAWN = 2
    """It depends on the image which of them comes first."""
    NO = 3


@dataclass(frozen=True, slots=True)
class AnswerTemplate:
    """The JSON text of an answer, cut where the image's id stands."""

    outcome: Outcome
    parts: tuple[str, ...]

    @classmethod
    def of(cls, answer: Answer) -> AnswerTemplate:
        return cls(answer.outcome, tuple(json.dumps(answer.as_json()).split(answer.id)))

    def fill(self, text: str) -> str:
        """The answer for an id in its usual, dashed and lower-case, form."""
        return text.join(self.parts)
