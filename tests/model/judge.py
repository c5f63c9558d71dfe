"""What an answer may say, given what was true while it was made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from resolver.models import format_id
from resolver.resolution import Preferences
from tests.model.world import Spell, World

AGREED = 1.0
"""Seconds within which every gateway knows of a change."""


@dataclass
class Ask:
    """One question to a gateway."""

    image_id: bytes
    letter_case: int
    preferences: Preferences
    told: bool
    """Whether its gateway has surely heard of all changes made before."""
    down: set[int]
    """Locations that the resolver takes for down, or of which it does not know the API yet."""
    claimed: set[int]
    """Locations of which the index had a claim for it."""
    oldest: float = 0.0
    """Since when a question may have been asked whose answer is this one's too."""
    many: bool = False
    """One of several, which are given the time of one together."""
    begun: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        preferences = [
            *(["fresh"] if self.preferences.fresh else ()),
            *(f"not {n}" for n in self.preferences.exclude),
        ]
        return " ".join([format_id(self.image_id, self.letter_case)[:8], *preferences])


@dataclass
class Told:
    """What the gateway answered."""

    outcome: str
    owners: dict[str, str]
    """Location to the image's URI there."""
    missing: list[str]

    def __str__(self) -> str:
        return " ".join([self.outcome, *self.owners, *(f"?{name}" for name in self.missing)])


def faults(world: World, ask: Ask, told: Told) -> Iterator[str]:
    """What is wrong with an answer that has just come."""
    if told.outcome == "found":
        yield from _found(world, ask, told)
    elif told.outcome == "absent":
        for name, spell in world.serving(ask.begun).items():
            if _kept(world, name, ask):
                yield f"absent, and it is at {name} all the time"
            if spell.server.outage.on and spell.server.outage.began < ask.oldest:
                yield f"absent, and {name} could not be asked"
    else:
        yield from _unknown(world, ask, told)
    if ask.preferences.fresh and _clear(world, ask):
        yield from _exact(world, ask, told)


def _kept(world: World, name: str, ask: Ask) -> bool:
    """Whether the location has had the image for as long as any answer could be from, and under a
    name that we could have asked for."""
    spell = world.current()[name]
    life, oldest = spell.life(ask.image_id), ask.begun if ask.preferences.fresh else ask.oldest
    if not ask.preferences.fresh and spell.server.held.during(oldest):
        oldest = min(oldest, spell.server.held.began)
    if life is None or not life.throughout(oldest):
        return False
    # Nobody can ask for a spelling that nobody has told.
    return life.letter_case in (0, ask.letter_case) or spell.number in ask.claimed


def _found(world: World, ask: Ask, told: Told) -> Iterator[str]:
    heard = ask.begun if ask.told else ask.begun - AGREED
    for name, uri in told.owners.items():
        if name in ask.preferences.exclude:
            yield f"it names {name}, which was to be left out"
        spells = [s for s in world.during(heard).get(name, ()) if s.in_service]
        lives = [life for spell in spells if (life := spell.life(ask.image_id))]
        if not spells:
            yield f"it names {name}, which is not registered and in service"
        elif not lives:
            yield f"it names {name}, which never had it"
        elif not any(uri.endswith(format_id(ask.image_id, life.letter_case)) for life in lives):
            yield f"it spells {uri} as {name} does not"


def _unknown(world: World, ask: Ask, told: Told) -> Iterator[str]:
    serving = world.serving(ask.begun)
    if any(name not in world.during(ask.begun) for name in told.missing):
        yield "it misses a location that there is not"
    if serving and not any(_excused(world, name, ask) for name in told.missing):
        yield "it knows not, and none that it misses is in trouble"
    hurried = any(server.silent.during(ask.begun) for server in world.servers)
    if hurried or (ask.many and any(server.troubled(ask.begun) for server in world.servers)):
        return  # there may have been no time to hear the others
    for name, spell in serving.items():
        well = not spell.server.troubled(ask.begun) and spell.number not in ask.down
        if well and name not in ask.preferences.exclude and _kept(world, name, ask):
            yield f"it knows not, and {name} would have said so"


def _excused(world: World, name: str, ask: Ask) -> bool:
    """Whether a location may be missed."""
    spells = world.during(ask.begun)[name]
    lives = any(spell.life(ask.image_id) for spell in spells)
    return any(
        spell.server.troubled(ask.oldest)
        or spell.sure > ask.begun  # it came while others were being asked
        or spell.number in ask.down
        or (lives and (not spell.in_service or name in ask.preferences.exclude))
        for spell in spells
    )


def _clear(world: World, ask: Ask) -> bool:
    """Whether every location could be asked all the time, and nothing was changed by operators."""

    def clear(spell: Spell) -> bool:
        return (
            spell.sure <= ask.begun
            and spell.until > time.monotonic()
            and spell.number not in ask.down
            and not spell.server.troubled(ask.begun)
        )

    return all(clear(spell) for spells in world.during(ask.begun).values() for spell in spells)


def _exact(world: World, ask: Ask, told: Told) -> Iterator[str]:
    """A fresh answer when all can be asked is the truth."""
    serving = world.serving(ask.begun)
    for name in told.owners.keys() & serving.keys():
        life = serving[name].life(ask.image_id)
        if life is None or not life.during(ask.begun):
            yield f"fresh, and {name} had lost it before"
    for name in serving.keys() - ask.preferences.exclude:
        if told.outcome != "found" and _kept(world, name, ask):
            yield f"fresh, and {name} has it"
