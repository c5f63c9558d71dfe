"""Which answers are correct, given what was true while they were made."""

from __future__ import annotations

import math
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any

from resolver.image_facts import STATUSES
from resolver.models import format_id
from resolver.resolution import Preferences
from tests.model.world import SHORT_PROBE_TIMEOUT, ImageLife, Registration, World
from tests.support.clock import Stopwatch

CONVERGENCE_SECONDS = 1.0
"""How long a gateway may use the table from before a change."""


@dataclass
class Question:
    """A request to a gateway for one image."""

    image_id: bytes
    letter_case: int
    preferences: Preferences
    is_up_to_date: bool
    """Whether its gateway has received the invalidations of all changes made before."""
    down: set[int]
    """Numbers of locations whose last check failed, or whose API is not known yet."""
    claimed: set[int]
    """Numbers of locations with a claim in the index."""
    claimed_before: set[int] = field(default_factory=set)
    """Numbers of locations that had a claim at `oldest`."""
    doubted: set[int] = field(default_factory=set)
    """Numbers of locations whose "no" proves nothing: see `ModelRun._doubted`."""
    oldest: float = 0.0
    """Start of the oldest question whose probe results this answer may share."""
    bytes_refused: bool = False
    """Whether the client gets 410, or leads to an owner that refuses: no location has the bytes."""
    is_in_bulk: bool = False
    """Whether it shares the deadline of a bulk request."""
    begun: float = field(default_factory=time.monotonic)
    _watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def is_starved(self) -> bool:
        """Whether other processes had the processor for too long for the short probe timeout."""
        return self._watch.elapsed - self._watch.own_seconds > SHORT_PROBE_TIMEOUT / 4

    @property
    def known_since(self) -> float:
        """Since when its gateway certainly knows what was registered then."""
        return self.begun if self.is_up_to_date else self.begun - CONVERGENCE_SECONDS

    def __str__(self) -> str:
        preferences = [
            *(["fresh"] if self.preferences.fresh else ()),
            *(["bytes refused"] if self.bytes_refused else ()),
            *(f"not {n}" for n in self.preferences.exclude),
        ]
        return " ".join([format_id(self.image_id, self.letter_case)[:8], *preferences])


@dataclass
class ReceivedAnswer:
    """What the gateway answered."""

    outcome: str
    owners: dict[str, str]
    """Location to the image's URI there."""
    missing: list[str]
    facts: dict[str, dict[str, Any]]
    """Location to the row of its owner, with the status and a digest of the bytes."""
    conflict: bool
    duplicates: set[tuple[str, str]] = field(default_factory=set)
    """Pairs of locations of which one may be named as a duplicate of the other."""

    def __str__(self) -> str:
        return " ".join([self.outcome, *self.owners, *(f"?{name}" for name in self.missing)])


def check_answer(world: World, question: Question, answer: ReceivedAnswer) -> Iterator[str]:
    """Yields everything that is wrong with an answer that has just arrived."""
    if answer.outcome == "found":
        yield from _check_found(world, question, answer)
        if question.bytes_refused:
            yield from _check_refused(world, question, answer)
    elif answer.outcome == "absent":
        for name in world.serving(question.begun):
            if _had_image_throughout(world, name, question):
                yield f"absent, and it is at {name} all the time"
        if _is_claimed_and_moved(world, question):
            yield "absent, and it has only moved"
        yield from _check_all_could_answer(world, question)
    else:
        yield from _check_unknown(world, question, answer)
    if (
        question.preferences.fresh
        and not question.doubted
        and not _may_miss_deadline(world, question)
        and _nothing_changed(world, question)
    ):
        yield from _check_fresh(world, question, answer)


def _check_all_could_answer(
    world: World, question: Question, besides: Container[str] = ()
) -> Iterator[str]:
    for name, registration in world.serving(question.begun).items():
        for disturbance in (registration.server.outage, registration.server.weak):
            if disturbance.on and disturbance.began < question.oldest and name not in besides:
                yield f"a no, and {name} could not answer"


def _check_refused(world: World, question: Question, answer: ReceivedAnswer) -> Iterator[str]:
    """The status of an owner that did not answer is as the index knows it. One that is excluded may
    have answered that it has the image, and not its bytes."""
    known = set(answer.owners)
    for name, registration in world.serving(question.begun).items():
        life = registration.life(question.image_id)
        if life is not None and life.status != "active" and name in question.preferences.exclude:
            known.add(name)
        if (
            life is not None
            and life.statuses == {"active"}
            and _had_image_throughout(world, name, question)
        ):
            yield f"its bytes are refused, and {name} has them all the time"
    yield from _check_all_could_answer(world, question, besides=known)


def _is_hurried(world: World, question: Question) -> bool:
    """Whether a server was silent, so that probes had the short timeout."""
    return any(server.silent.during(question.begun) for server in world.servers)


def _may_miss_deadline(world: World, question: Question) -> bool:
    """Whether any location may have missed the short timeout, because of a busy machine."""
    return _is_hurried(world, question) and question.is_starved


def _had_image_throughout(world: World, name: str, question: Question) -> bool:
    """Whether the location has had the image since before the oldest probe that the answer may
    come from, under a spelling that the resolver can ask for."""
    registration = world.current()[name]
    life = registration.life(question.image_id)
    oldest = question.begun if question.preferences.fresh else question.oldest
    if not question.preferences.fresh and registration.server.held.during(oldest):
        oldest = min(oldest, registration.server.held.began)
    if life is None or not life.throughout(oldest):
        return False
    # Another spelling is known only from a claim.
    return life.letter_case in (0, question.letter_case) or registration.number in question.claimed


def _is_claimed_and_moved(world: World, question: Question) -> bool:
    """Whether a location had the image, and a claim on it, before any answer that this one may come
    from, and another one has it since before the image was deleted there."""
    lives = {
        registration.number: life
        for registration in world.serving(question.begun).values()
        if (life := registration.life(question.image_id))
        and (
            life.letter_case in (0, question.letter_case) or registration.number in question.claimed
        )
    }
    return any(
        before.born <= question.oldest < before.died
        and now.born < before.died
        and now.died == math.inf
        for number, before in lives.items()
        if number in question.claimed_before
        for now in lives.values()
    )


def _check_found(world: World, question: Question, answer: ReceivedAnswer) -> Iterator[str]:
    for name, uri in answer.owners.items():
        if name in question.preferences.exclude:
            yield f"it names {name}, which was excluded"
        registrations = [
            s for s in world.during(question.known_since).get(name, ()) if s.in_service
        ]
        lives = [
            life for registration in registrations if (life := registration.life(question.image_id))
        ]
        if not registrations:
            yield f"it names {name}, which is not registered and in service"
        elif not lives:
            yield f"it names {name}, which never had it"
        elif not any(
            uri.endswith(format_id(question.image_id, life.letter_case)) for life in lives
        ):
            yield f"it spells {uri} as {name} does not"
        else:
            yield from _check_facts(name, answer.facts[name], lives)
    data = {data for name in answer.owners for data in _bytes_at(world, name, question)}
    if answer.conflict and len(data) < 2:
        yield "it has a conflict, and all owners have the same bytes"
    for name, other in answer.duplicates:
        if not _bytes_at(world, name, question) & _bytes_at(world, other, question):
            yield f"{name} is a duplicate of {other}, and has other bytes"


def _bytes_at(world: World, name: str, question: Question) -> set[bytes]:
    """The bytes that the image has had at a location."""
    return {
        life.data
        for registration in world.during(question.known_since).get(name, ())
        if (life := registration.life(question.image_id))
    }


def _check_facts(name: str, facts: dict[str, Any], lives: list[ImageLife]) -> Iterator[str]:
    """A status may be an earlier one. The bytes never change."""
    status, digest = facts["status"], facts["digest"]
    if status and not any(STATUSES[each] == status for life in lives for each in life.statuses):
        yield f"it has status {status}, which the image never had at {name}"
    if digest and not any(digest in life.digests for life in lives):
        yield f"it has digest {digest}, which is not that of {name}"


def _check_unknown(world: World, question: Question, answer: ReceivedAnswer) -> Iterator[str]:
    serving = world.serving(question.begun)
    registered = world.during(question.begun).keys()
    if not registered >= set(answer.missing):
        yield "it lists a missing location that is not registered"
    if _may_miss_deadline(world, question):
        return
    current = world.current()
    if any(name in current and current[name].number in question.doubted for name in answer.missing):
        return
    if serving and not any(_may_be_missing(world, name, question) for name in answer.missing):
        yield "it is unknown, and every missing location could answer"
    if _is_hurried(world, question) or (
        question.is_in_bulk
        and any(server.was_disturbed(question.begun) for server in world.servers)
    ):
        return  # the deadline may have left no time for the others
    for name, registration in serving.items():
        could_answer = (
            not registration.server.was_disturbed(question.begun)
            and registration.number not in question.down
            and registration.confirmed_at <= question.known_since
        )
        if (
            could_answer
            and name not in question.preferences.exclude
            and _had_image_throughout(world, name, question)
        ):
            yield f"it is unknown, and {name} would have answered"


def _may_be_missing(world: World, name: str, question: Question) -> bool:
    """Whether a location may be listed as missing."""
    if name in world.being_registered:  # again: the answer may be newer than what we know
        return True
    registrations = world.during(question.begun)[name]
    lives = any(registration.life(question.image_id) for registration in registrations)
    return any(
        registration.server.was_disturbed(question.oldest)
        or registration.confirmed_at > question.known_since  # its gateway may not know it
        or registration.number in question.down
        or not registration.in_service  # the index may not know its images
        or (lives and name in question.preferences.exclude)
        for registration in registrations
    )


def _nothing_changed(world: World, question: Question) -> bool:
    """Whether every location could answer all the time, and operators changed nothing."""

    def clear(registration: Registration) -> bool:
        return (
            registration.confirmed_at <= question.begun
            and registration.until > time.monotonic()
            and registration.number not in question.down
            and not registration.server.was_disturbed(question.begun)
        )

    return not world.being_removed and all(
        clear(registration)
        for registrations in world.during(question.begun).values()
        for registration in registrations
    )


def _check_fresh(world: World, question: Question, answer: ReceivedAnswer) -> Iterator[str]:
    """A fresh answer is exact when every location can answer."""
    serving = world.serving(question.begun)
    for name in answer.owners.keys() & serving.keys():
        life = serving[name].life(question.image_id)
        if life is None or not life.during(question.begun):
            yield f"fresh, and {name} had lost it before"
    for name in serving.keys() - question.preferences.exclude:
        if answer.outcome != "found" and _had_image_throughout(world, name, question):
            yield f"fresh, and {name} has it"
