"""The rule: from an image's claims and one table of locations to found, absent or unknown.

`decide` is the whole rule. It is pure: no HTTP, no Redis and no waiting. The resolver gathers what
`decide` needs (claims from the index, answers from the locations).

- **found**: some owner may be offered.
- **absent**: every location that vouches has proved that it lacks the image: it was asked, or with
  ``RESOLVER_ABSENT_PROOF=covered`` what the index has of it is complete and recent.
- **unknown**: everything else. An image is never absent because somebody could not be asked.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from resolver.errors import IndexUnavailable
from resolver.image_facts import STATUS_ORDER, ImageStatus, differ
from resolver.index import UNREADABLE
from resolver.models import Outcome, Owner, format_id
from resolver.registry import Table
from resolver.resolution.ranking import (
    DEFAULT_PREFERENCES,
    ImageOwner,
    Preferences,
    exclusion_reason,
    owners_of,
    rank,
)


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one location answered about one image, or what the index proves in its place."""

    owner: Owner | None = None
    """Its claim, where it has the image."""
    absent: bool = False
    """It does not have the image: a 404 to a credential that sees every image, or it is covered by
    the index and does not list the image."""
    asked: bool = True
    """False where the location was never asked."""
    is_claimed: bool = False
    """Whether the index says that a location which was not asked has the image."""
    reason: str = ""
    """Why the answer is neither. Clients may read it."""
    at: float = field(default_factory=time.monotonic)
    """`time.monotonic` of the answer, or of what the index has."""
    location_updated: float = 0.0
    """When the location was last changed. An answer from before a change does not count."""

    @property
    def is_usable(self) -> bool:
        """Whether the location has the image, and it can be downloaded there as far as is known."""
        return self.owner is not None and STATUS_ORDER[self.owner.status] == 0


NOT_ASKED = ProbeResult(reason="it was not asked in time", asked=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the three answers about one image."""

    image_id: bytes
    outcome: Outcome
    owners: tuple[ImageOwner, ...] = ()
    """Owners that may be offered, best first."""
    missing: tuple[str, ...] = ()
    """Names of locations that could not vouch for the image's absence; where no owner has its
    bytes, those that may still have it."""
    detail: str = ""
    """Why the image is absent, or why that is not known. Where no owner has its bytes: why another
    location may still have them; empty where none does."""
    source: str = "index"
    """``index``, ``cache``, ``probe`` or ``stale``."""
    age: float = 0.0
    """Seconds since the source was read; where the image is absent, those since the oldest of the
    proofs."""
    proof: str = ""
    """What proves that the image is absent: ``asked`` (every location that vouches was) or
    ``covered`` (for some of them, what the index has); empty where it is not absent."""

    @property
    def conflict(self) -> bool:
        """Whether the image is known to have different bytes at some of its owners."""
        return differ(owner.content for owner in self.owners)

    @property
    def best_status(self) -> ImageStatus | None:
        """The image's status as a client that wants its bytes should see it, from all its owners:
        active where some owner is usable, else pending where one will be. None without owners."""
        if not self.owners:
            return None
        best = min((owner.status for owner in self.owners), key=STATUS_ORDER.__getitem__)
        return best or ImageStatus.ACTIVE

    @property
    def lacks_bytes(self) -> bool:
        """Whether no owner hands out the image's bytes to everybody, as far as is known."""
        return self.best_status not in (None, ImageStatus.ACTIVE)

    @property
    def id(self) -> str:
        """The image's id, dashed and in lower case."""
        return format_id(self.image_id)

    def head_json(self, text: str) -> dict[str, Any]:
        """The members up to ``source``; ``text`` is the image's id in lower case.

        Owners with upper-case digits in their spelling need the real id, which `image_id` is.
        """
        rows = [_owner_json(owner, self.image_id, text) for owner in self.owners]
        best = rows[0] if rows else None
        return {
            "id": text,
            "outcome": str(self.outcome),
            "uri": best["uri"] if best else None,
            "url": best["url"] if best else None,
            "owners": rows,
            "conflict": self.conflict,
            "missing": list(self.missing),
            "proof": self.proof or None,
        }

    def as_json(self) -> dict[str, Any]:
        """All members, as the HTTP API shows them."""
        return {
            **self.head_json(self.id),
            "source": self.source,
            "age": round(self.age, 3),
        }


def corrected_claims(
    claims: Iterable[Owner], probes: Mapping[int, ProbeResult], *, fresh: bool = False
) -> tuple[Owner, ...]:
    """The claims without those that a probe refuted, and with those that a probe confirmed.

    ``fresh``: a location that could not even be asked gives no fresh answer, so that its claim
    does not count.
    """
    owners = (probe.owner for probe in probes.values())
    confirmed = {owner.number: owner for owner in owners if owner is not None}
    refuted = {
        number for number, probe in probes.items() if probe.absent or (fresh and not probe.asked)
    }
    remaining = [c for c in claims if c.number not in confirmed and c.number not in refuted]
    return (*remaining, *confirmed.values())


def json_tail(source: str, age: float) -> str:
    """The end of an answer's JSON text, behind that of `Answer.head_json` without its brace."""
    return f', "source": "{source}", "age": {round(age, 3)!r}}}'


def json_text(answer: Answer, text: str) -> str:
    """The JSON text of an answer up to its `json_tail`. Unknown images have the `Answer.detail`."""
    members = answer.head_json(text)
    if answer.outcome is Outcome.UNKNOWN:
        members["detail"] = answer.detail
    return json.dumps(members)[:-1]


def _owner_json(owner: ImageOwner, image_id: bytes, text: str) -> dict[str, Any]:
    view = owner.view
    spelled = owner.spell(image_id, text)
    return {
        "location": view.name,
        "region": view.location.region,
        "uri": view.images_v1 + spelled,
        "url": view.images_url + spelled,
        "health": str(view.health),
        "state": str(view.location.state),
        "status": owner.status and str(owner.status),
        "digest": owner.content.hex if owner.content else None,
    }


MAX_REASONS = 4
"""Locations whose reason is in the text of an answer."""


@dataclass(frozen=True, slots=True)
class AnswerContext:
    """What all answers to one request have in common."""

    table: Table
    preferences: Preferences = DEFAULT_PREFERENCES
    home_region: str = ""
    index_error: IndexUnavailable | None = None
    """Why Redis did not answer. A location may have been registered since the table was read, so
    nothing is absent then."""
    absent_age: float | None = None
    """Seconds for which the index proves absence in place of a location. None: locations must be
    asked, unless nobody can ask."""
    started: float = field(default_factory=time.monotonic)

    def with_table(self, table: Table) -> AnswerContext:
        return replace(self, table=table, preferences=self.preferences.for_table(table))

    def owners_of(self, claims: Iterable[Owner]) -> list[ImageOwner]:
        """The claims whose locations are registered."""
        return owners_of(self.table, claims)

    def ranked(self, image_id: bytes, owners: Iterable[ImageOwner]) -> list[ImageOwner]:
        return rank(owners, image_id, self.preferences, self.home_region)


def join_briefly(reasons: Iterable[str]) -> str:
    """The first of these reasons, and how many more there are. The text of an answer stays short
    however many locations there are; ``missing`` names them all."""
    listed = list(reasons)
    rest = len(listed) - MAX_REASONS
    if rest <= 0:
        return "; ".join(listed)
    return f"{'; '.join(listed[:MAX_REASONS])}; and {rest} more"


def decide_found(
    context: AnswerContext, image_id: bytes, owners: Iterable[ImageOwner]
) -> Answer | None:
    """The answer ``found``; None where no owner may be offered."""
    offered = context.ranked(image_id, owners)
    return Answer(image_id, Outcome.FOUND, tuple(offered)) if offered else None


def decide(
    context: AnswerContext,
    image_id: bytes,
    claims: tuple[Owner, ...],
    probes: Mapping[int, ProbeResult] | None = None,
) -> Answer:
    """The answer about one image.

    Args:
        claims: the image's claims, from the index and from probes.
        probes: what locations answered when they were asked about this image, by location number;
            None where nobody asks, so that the coverage of the index must prove absence.
    """
    owners = context.owners_of(claims)
    if (found := decide_found(context, image_id, owners)) is not None:
        return found
    doubts = _coverage_doubts(context) if probes is None else _probe_doubts(context, probes)
    if owners:
        return _unknown_where_excluded(context, image_id, owners, doubts)
    if doubts:
        reasons = join_briefly(f"{name}: {doubt}" for name, doubt in doubts.items())
        return Answer(
            image_id,
            Outcome.UNKNOWN,
            missing=tuple(doubts),
            detail=f"No owner is known, and not every location can vouch. {reasons}.",
        )
    if probes is None and claims == UNREADABLE:
        detail = "What the index has about this image cannot be read; the next sweep replaces it."
        return Answer(image_id, Outcome.UNKNOWN, detail=detail)
    if context.index_error is not None:
        detail = f"No owner is known here, and {context.index_error.detail}."
        return Answer(image_id, Outcome.UNKNOWN, detail=detail)
    if not context.table.in_service():
        return Answer(image_id, Outcome.UNKNOWN, detail="No location is registered and in service.")
    if not context.table.vouching():
        detail = "No owner is known, and no location vouches for what it lacks."
        return Answer(image_id, Outcome.UNKNOWN, detail=detail)
    return _absent(context, image_id, probes)


def decide_after_probes(
    context: AnswerContext,
    image_id: bytes,
    claims: tuple[Owner, ...],
    probes: Mapping[int, ProbeResult],
    *,
    needs_bytes: bool,
) -> Answer:
    """The answer when all locations were asked."""
    answer = decide(context, image_id, claims, probes)
    if answer.outcome is not Outcome.FOUND:
        return answer
    answer = replace(answer, source="probe")
    return doubt_lack_of_bytes(context, answer, claims, probes) if needs_bytes else answer


def doubt_lack_of_bytes(
    context: AnswerContext,
    answer: Answer,
    claims: tuple[Owner, ...],
    probes: Mapping[int, ProbeResult] | None = None,
    doubts: Mapping[str, str] | None = None,
    loss_doubt: str = "",
) -> Answer:
    """The answer ``found``. Where no owner has the image's bytes, it names the other locations that
    may still have them.

    Args:
        claims, probes: as of `decide`.
        doubts: more locations that may have them, each with the reason.
        loss_doubt: why the index may have lost claims; empty if it cannot.
    """
    if not answer.lacks_bytes:
        return answer
    offered = {owner.name for owner in answer.owners}
    reasons = {
        owner.name: f"it is {exclusion_reason(owner.view, context.preferences)}"
        for owner in context.owners_of(claims)
        if owner.status is not ImageStatus.DEAD
    }
    reasons |= doubts or {}
    reasons |= _coverage_doubts(context) if probes is None else _probe_doubts(context, probes)
    reasons = {name: reason for name, reason in reasons.items() if name not in offered}
    detail = join_briefly(f"{name}: {reason}" for name, reason in reasons.items())
    if not detail:  # of a Redis that does not answer, locations may not be known either
        detail = loss_doubt or (context.index_error.detail if context.index_error else "")
    return replace(answer, missing=tuple(reasons), detail=detail)


def doubt_absence(context: AnswerContext, answer: Answer, doubt: str) -> Answer:
    """The answer ``absent`` that the coverage of the index proved, where there is a doubt that it
    still has what it was given: then it is unknown. Any other answer stays."""
    if not doubt or answer.outcome is not Outcome.ABSENT:
        return answer
    names = tuple(view.name for view in context.table.in_service())
    detail = f"No owner is known, and the index proves nothing. {doubt}."
    return replace(answer, outcome=Outcome.UNKNOWN, missing=names, detail=detail, proof="", age=0.0)


def _absent(
    context: AnswerContext, image_id: bytes, probes: Mapping[int, ProbeResult] | None
) -> Answer:
    if probes is None:
        now = time.time()
        return absent_by_coverage(
            image_id, max(view.proof_age(now) for view in context.table.vouching())
        )
    proofs = [probe for probe in probes.values() if probe.absent]
    age = time.monotonic() - min(proof.at for proof in proofs)
    asked = [proof for proof in proofs if proof.asked]
    source = "index"
    if asked:
        source = "probe" if any(proof.at >= context.started for proof in asked) else "cache"
    if len(asked) < len(proofs):
        return absent_by_coverage(image_id, age, source)
    return absent_by_probes(image_id, source, age)


def absent_by_probes(image_id: bytes, source: str, age: float) -> Answer:
    """The answer ``absent`` about an image that every location that vouches says it lacks, the
    first of them ``age`` seconds ago."""
    detail = "Every location that must vouch was asked, and none has it."
    return Answer(image_id, Outcome.ABSENT, detail=detail, source=source, age=age, proof="asked")


def absent_by_coverage(image_id: bytes, age: float, source: str = "index") -> Answer:
    """The answer ``absent`` about an image that the index does not have, and locations that were
    not asked do not list in it. What it has of them is complete up to ``age`` seconds ago."""
    detail = f"Every location is covered by the index up to {age:.0f} s ago, and none lists it."
    return Answer(image_id, Outcome.ABSENT, detail=detail, source=source, age=age, proof="covered")


def _unknown_where_excluded(
    context: AnswerContext, image_id: bytes, owners: list[ImageOwner], doubts: Mapping[str, str]
) -> Answer:
    """There are owners, and none of them may be offered."""
    reasons = join_briefly(
        f"{owner.name} is {exclusion_reason(owner.view, context.preferences)}" for owner in owners
    )
    names = dict.fromkeys((*(owner.name for owner in owners), *doubts))
    return Answer(
        image_id,
        Outcome.UNKNOWN,
        missing=tuple(names),
        detail=f"It is known only where it may not be offered: {reasons}.",
    )


def _coverage_doubts(context: AnswerContext) -> dict[str, str]:
    """Locations whose part of the index does not prove absence, each with the reason."""
    return context.table.coverage_problems(time.time(), context.absent_age)


def _probe_doubts(context: AnswerContext, probes: Mapping[int, ProbeResult]) -> dict[str, str]:
    """Locations that must vouch and have not proved absence, each with the reason. One that does
    not vouch must do so where it was not even asked, and the index says that it has it."""
    doubts = {}
    for view in context.table.in_service():
        probe = probes.get(view.location.number, NOT_ASKED)
        if not (view.location.vouches or probe.is_claimed):
            continue
        if probe.owner is None and not probe.absent:
            doubts[view.name] = probe.reason
        elif probe.owner is None and view.guard_problem:
            doubts[view.name] = view.guard_problem
    for name, reason in context.table.unasked_problems(time.time()).items():
        number = context.table.by_name[name].location.number
        if not probes.get(number, NOT_ASKED).absent:
            doubts[name] = reason
    return doubts | context.table.lost_locations()
