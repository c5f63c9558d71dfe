"""Asking the locations themselves about an image that the index does not know, or may know wrongly.

One question is one image at one location. Whoever wants to know the same thing meanwhile waits for
the same question. Questions under way are bounded, for each location and in all: past the bound
nothing is asked, and so nothing is known. What they answer is claimed, or released, and a no is
remembered for a short time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp
import structlog

from resolver.errors import IndexUnavailable, LocationUnavailable
from resolver.glance import Clouds, Server, has_image, sees_all
from resolver.index import Index
from resolver.locations.table import Place, TableKeeper, blindness
from resolver.models import Health, Owner, format_id

REMEMBERED = 100_000
"""Most images of which answers of lately are remembered: some 40 MB where there are two
locations."""

SIGHT = 300.0
"""Seconds for which it is believed what a credential sees."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Said:
    """What a location said of an image."""

    owner: Owner | None = None
    """Its claim, where it has the image."""
    no: bool = False
    """It does not have it: its 404, with a credential that sees every image."""
    asked: bool = True
    """False where the question was not put to it at all."""
    why: str = ""
    """Why it said neither. Anybody may read it."""
    at: float = field(default_factory=time.monotonic)
    of: float = 0.0
    """When the location was last changed: what it said before that is of no use."""


class _Sight(NamedTuple):
    """What a credential was found to see."""

    credential: str
    of: float
    """When the location was last changed."""
    at: float
    blind: str
    """Why it may not see every image; empty when it does."""


class _Question:
    """One image at one location, being asked."""

    __slots__ = ("answer", "begun", "claimed", "noted", "owners", "task")

    def __init__(self, owners: tuple[Owner, ...], *, claimed: bool, noted: bool) -> None:
        self.owners = owners
        """Those that the index had when it was asked."""
        self.claimed = claimed
        """Whether the place that is asked was one of them."""
        self.noted = noted
        """Whether the index is told of the answer."""
        self.begun = time.monotonic()
        self.answer: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        """Ends when the index has the answer too."""


Pay = Callable[[], None]
"""Charges a client for the questions that it causes. Raises TooManyRequests."""

Image = tuple[bytes, int]
"""An id and its letter case, as a client spelt it."""


class _Noes(dict[int, Said]):
    """Locations that said no of an image, by number, while the index had these owners."""

    __slots__ = ("at", "owners")

    def __init__(self, owners: tuple[Owner, ...]) -> None:
        super().__init__()
        self.owners = owners
        self.at = 0.0
        """When the last of them said so."""


class Asker:
    """Asks locations about images."""

    def __init__(
        self,
        index: Index,
        tables: TableKeeper,
        session: aiohttp.ClientSession,
        clouds: Clouds,
        *,
        timeout: float,
        per_location: int,
        at_once: int,
        remember: float,
        patience: float,
    ) -> None:
        """``timeout``: seconds for a question; ``patience``: for the index to take what was said;
        ``remember``: for which a no is remembered."""
        self._index = index
        self._tables = tables
        self._session = session
        self._clouds = clouds
        self.timeout = timeout
        self._per_location = per_location
        self._at_once = at_once
        self._remember = remember
        self._patience = patience
        self._open: dict[tuple[Image, int], _Question] = {}
        self._busy: Counter[int] = Counter()
        self._memory: dict[Image, _Noes] = {}
        self._sights: dict[int, _Sight] = {}
        """By location number. The sweep's credential may have been another one, of another process
        or of before it was rotated."""
        self._aside: set[asyncio.Task[Any]] = set()
        self.counts: Counter[tuple[str, str]] = Counter()
        """(location, result) -> questions since the start."""

    async def ask(
        self,
        image: Image,
        places: Collection[Place],
        *,
        claimed: bool,
        fresh: bool,
        owners: tuple[Owner, ...] = (),
        exclude: Container[str] = (),
        until: float,
        noted: bool = True,
        pay: Pay | None = None,
    ) -> dict[int, Said]:
        """What these locations say, by number. ``owners``: those that the index has now.

        ``claimed``: the index says that they have it. Then all are waited for, and a no releases
        the claim. Otherwise the first yes will do of a location that is not to be left out
        (``exclude``); the rest answer in their own time, and what they have is claimed too. A
        location that is known to be down is asked, but not waited for when others have answered.
        ``fresh``: what was said before this call does not do. ``until``: `time.monotonic` after
        which nobody is waited for. ``noted``: the index is told. ``pay``: called before somebody is
        asked for the sake of this call.

        Raises:
            TooManyRequests: from ``pay``. Nobody was asked then.
        """
        arrived = time.monotonic()
        asked: dict[int, _Question] = {}
        said = {} if fresh else self._remembered(image)
        said = {
            p.location.number: one
            for p in places
            if (one := said.get(p.location.number)) and one.of == p.location.updated
        }
        todo = [p for p in places if p.location.number not in said]
        # What is being answered may be of before we came, or of before the claim that it would
        # release: such a question is waited for, and asked anew.
        before = [
            question.task
            for place in todo
            if (question := self._open.get((image, place.location.number)))
            and question.task
            and question.begun < arrived
            and (fresh or (claimed and not question.claimed))
        ]
        if before:
            await asyncio.wait(before, timeout=max(0.0, until - time.monotonic()))
        room = self._at_once - len(self._open)
        new = sum((image, p.location.number) not in self._open for p in todo)
        if pay is not None and 0 < new <= room:
            pay()
        for place in todo:
            number = place.location.number
            question = self._open.get((image, number))
            if question is not None and question.task in before:
                said[number] = Said(why="it has not answered yet", asked=False)
                continue
            if question is None:
                if new > room or self._busy[number] >= self._per_location:
                    said[number] = Said(why="too many questions are under way", asked=False)
                    self.counts[place.name, "refused"] += 1
                    continue
                question = self._begin(image, place, owners, claimed=claimed, noted=noted)
            asked[number] = question
        waiting = {question.answer for question in asked.values()}
        offered = {
            asked[place.location.number].answer
            for place in todo
            if place.location.number in asked and place.name not in exclude
        }
        urgent = {
            asked[place.location.number].answer
            for place in todo
            if place.location.number in asked and place.health is not Health.DOWN
        } or waiting
        while urgent & waiting and (left := until - time.monotonic()) > 0:
            done, waiting = await asyncio.wait(
                waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            if not claimed and any(answer.result().owner for answer in done & offered):
                break
        for number, question in asked.items():
            said[number] = (
                question.answer.result()
                if question.answer.done()
                else Said(why="it has not answered yet")
            )
        return said

    def aside(self, asking: Coroutine[Any, Any, Any]) -> None:
        """Lets somebody ask whom nobody waits for."""
        task = asyncio.create_task(asking)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    def forget(self, image: Image, owners: tuple[Owner, ...]) -> None:
        """The index has these owners: what was said to be nowhere else while it had others is of no
        use any more."""
        known = self._memory.get(image)
        if known is not None and known.owners != owners:
            del self._memory[image]

    def _remembered(self, image: Image) -> dict[int, Said]:
        """Each no of lately. Whoever asks those that said yes has reason to doubt it."""
        since = time.monotonic() - self._remember
        known: Mapping[int, Said] = self._memory.get(image) or {}
        return {n: one for n, one in known.items() if one.at > since}

    def _begin(
        self,
        image: Image,
        place: Place,
        owners: tuple[Owner, ...],
        *,
        claimed: bool,
        noted: bool,
    ) -> _Question:
        number = place.location.number
        key = image, number
        self._busy[number] += 1
        self._open[key] = question = _Question(owners, claimed=claimed, noted=noted)

        def ended(_: object) -> None:
            del self._open[key]
            self._busy[number] -= 1
            if not question.answer.done():  # it was cancelled before it began
                question.answer.set_result(Said(why="this gateway is stopping"))

        question.task = asyncio.create_task(
            self._pursue(question, image, place), name=f"probe:{place.name}"
        )
        question.task.add_done_callback(ended)
        return question

    async def _pursue(self, question: _Question, image: Image, place: Place) -> None:
        """Asks, and tells those who wait and the index what came out."""
        cases = {owner.number: owner.case for owner in question.owners}
        said = await self._answer_of(image, place, cases.get(place.location.number, 0))
        sightings, number = self._index.sightings, place.location.number
        try:
            if said.no:
                self._keep(image, number, said, question.owners)
            elif said.owner is not None and image in self._memory:
                self._memory[image].pop(number, None)
            if not question.noted:
                return
            if said.no and question.claimed:
                # First, so that who asks us next is not sent there once more; but not at length.
                releasing = asyncio.ensure_future(sightings.lost(number, [image[0]]))
                await asyncio.wait([releasing], timeout=self._patience)
                question.answer.set_result(said)
                await releasing
            else:
                question.answer.set_result(said)
            if said.owner is not None:
                await sightings.saw(number, {image[0]: said.owner.case}, question.begun)
                if number not in (await self._tables.current()).by_number:
                    # It was removed, and its claims may have been collected by now.
                    await self._index.claims.release(number, [image[0]])
        except IndexUnavailable as error:
            log.warning("what a location said is not in the index", reason=str(error))
        finally:
            if not question.answer.done():
                question.answer.set_result(said)

    async def _answer_of(self, image: Image, place: Place, claimed_case: int) -> Said:
        raw, case = image
        server = Server(self._session, place.location, self._clouds)
        owner = None
        result, why = "no", ""
        try:
            async with asyncio.timeout(self.timeout):
                # As it is claimed, as Glance writes ids, and as the client did: some databases
                # tell them apart.
                for one in dict.fromkeys((claimed_case, 0, case)):
                    if await has_image(server, place.versions, format_id(raw, one)):
                        owner = Owner(place.location.number, one)
                        result = "yes"
                        break
                else:
                    if why := await self._blind(server, place):
                        result = "blind"
        except LocationUnavailable as error:
            result, why = error.problem_code, f"it gave no answer ({error.problem_code})"
        except TimeoutError:
            result, why = "timeout", f"it did not answer within {self.timeout:g} s"
        except Exception:  # ours: the location is told as silent, and the log has the cause
            log.exception("question broke", location=place.name)
            result, why = "internal-error", "the question failed (internal-error)"
        self.counts[place.name, result] += 1
        return Said(owner, result == "no", why=why, of=place.location.updated)

    async def _blind(self, server: Server, place: Place) -> str:
        """Why a 404 of this server is no no; empty where it is one.

        Raises:
            LocationUnavailable: it failed while asked what its credential sees.
        """
        location, credential = place.location, await server.credential()
        sight = self._sights.get(location.number)
        if (
            sight is None
            or (sight.credential, sight.of) != (credential, location.updated)
            or time.monotonic() - sight.at > SIGHT
        ):
            at = time.monotonic()
            sees, why = await sees_all(server, place.versions)
            sight = _Sight(credential, location.updated, at, blindness(sees, why))
            self._sights[location.number] = sight
        return sight.blind

    def _keep(self, image: Image, number: int, said: Said, owners: tuple[Owner, ...]) -> None:
        # To the end: the first is the one longest unasked.
        known = self._memory.pop(image, None) or _Noes(owners)
        known[number] = said
        known.at = said.at
        self._memory[image] = known
        for _ in range(2):  # faster than new ones come, and never at length
            first = next(iter(self._memory))
            if said.at - self._memory[first].at <= self._remember:
                break
            del self._memory[first]
        if len(self._memory) > REMEMBERED:
            del self._memory[next(iter(self._memory))]

    async def close(self) -> None:
        """Ends all questions, those that were answered when the index has the answer."""
        told = [q.task for q in self._open.values() if q.task and q.answer.done()]
        if told:
            await asyncio.wait(told, timeout=1)
        asked = [question.task for question in self._open.values() if question.task]
        tasks = [*asked, *self._aside]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1)
