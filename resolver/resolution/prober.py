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
from resolver.glance import CloudCredentials, Server, has_image, sees_all
from resolver.index import Index
from resolver.models import Health, Owner, format_id
from resolver.registry import LocationView, TableKeeper
from resolver.registry.location_view import scope_problem

REMEMBERED = 100_000
"""Most images of which answers of lately are remembered: some 40 MB where there are two
locations."""

SIGHT = 300.0
"""Seconds for which it is believed what a credential sees."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ProbeResult:
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


class CredentialScope(NamedTuple):
    """What a credential was found to see."""

    credential: str
    of: float
    """When the location was last changed."""
    at: float
    blind: str
    """Why it may not see every image; empty when it does."""


class InFlightProbe:
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
        self.answer: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        """Ends when the index has the answer too."""


Pay = Callable[[], None]
"""Charges a client for the questions that it causes. Raises TooManyRequests."""

Image = tuple[bytes, int]
"""An id and its letter case, as a client spelt it."""


class NegativeCacheEntry(dict[int, ProbeResult]):
    """Locations that said no of an image, by number, while the index had these owners."""

    __slots__ = ("at", "owners")

    def __init__(self, owners: tuple[Owner, ...]) -> None:
        super().__init__()
        self.owners = owners
        self.at = 0.0
        """When the last of them said so."""


class Prober:
    """Asks locations about images."""

    def __init__(
        self,
        index: Index,
        tables: TableKeeper,
        session: aiohttp.ClientSession,
        cloud_credentials: CloudCredentials,
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
        self._cloud_credentials = cloud_credentials
        self.timeout = timeout
        self._per_location = per_location
        self._at_once = at_once
        self._remember = remember
        self._patience = patience
        self._open: dict[tuple[Image, int], InFlightProbe] = {}
        self._busy: Counter[int] = Counter()
        self._memory: dict[Image, NegativeCacheEntry] = {}
        self._sights: dict[int, CredentialScope] = {}
        """By location number. The sweep's credential may have been another one, of another process
        or of before it was rotated."""
        self._aside: set[asyncio.Task[Any]] = set()
        self.counts: Counter[tuple[str, str]] = Counter()
        """(location, result) -> questions since the start."""

    async def ask(
        self,
        image: Image,
        views: Collection[LocationView],
        *,
        claimed: bool,
        fresh: bool,
        owners: tuple[Owner, ...] = (),
        exclude: Container[str] = (),
        until: float,
        noted: bool = True,
        pay: Pay | None = None,
    ) -> dict[int, ProbeResult]:
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
        asked: dict[int, InFlightProbe] = {}
        said = {} if fresh else self._remembered(image)
        said = {
            p.location.number: one
            for p in views
            if (one := said.get(p.location.number)) and one.of == p.location.updated
        }
        todo = [p for p in views if p.location.number not in said]
        # What is being answered may be of before we came, or of before the claim that it would
        # release: such a question is waited for, and asked anew.
        before = [
            question.task
            for view in todo
            if (question := self._open.get((image, view.location.number)))
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
        for view in todo:
            number = view.location.number
            question = self._open.get((image, number))
            if question is not None and question.task in before:
                said[number] = ProbeResult(why="it has not answered yet", asked=False)
                continue
            if question is None:
                if new > room or self._busy[number] >= self._per_location:
                    said[number] = ProbeResult(why="too many questions are under way", asked=False)
                    self.counts[view.name, "refused"] += 1
                    continue
                question = self._begin(image, view, owners, claimed=claimed, noted=noted)
            asked[number] = question
        waiting = {question.answer for question in asked.values()}
        offered = {
            asked[view.location.number].answer
            for view in todo
            if view.location.number in asked and view.name not in exclude
        }
        urgent = {
            asked[view.location.number].answer
            for view in todo
            if view.location.number in asked and view.health is not Health.DOWN
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
                else ProbeResult(why="it has not answered yet")
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

    def _remembered(self, image: Image) -> dict[int, ProbeResult]:
        """Each no of lately. Whoever asks those that said yes has reason to doubt it."""
        since = time.monotonic() - self._remember
        known: Mapping[int, ProbeResult] = self._memory.get(image) or {}
        return {n: one for n, one in known.items() if one.at > since}

    def _begin(
        self,
        image: Image,
        view: LocationView,
        owners: tuple[Owner, ...],
        *,
        claimed: bool,
        noted: bool,
    ) -> InFlightProbe:
        number = view.location.number
        key = image, number
        self._busy[number] += 1
        self._open[key] = question = InFlightProbe(owners, claimed=claimed, noted=noted)

        def ended(_: object) -> None:
            del self._open[key]
            self._busy[number] -= 1
            if not question.answer.done():  # it was cancelled before it began
                question.answer.set_result(ProbeResult(why="this gateway is stopping"))

        question.task = asyncio.create_task(
            self._pursue(question, image, view), name=f"probe:{view.name}"
        )
        question.task.add_done_callback(ended)
        return question

    async def _pursue(self, question: InFlightProbe, image: Image, view: LocationView) -> None:
        """Asks, and tells those who wait and the index what came out."""
        letter_cases = {owner.number: owner.letter_case for owner in question.owners}
        said = await self._answer_of(image, view, letter_cases.get(view.location.number, 0))
        observations, number = self._index.observations, view.location.number
        try:
            if said.no:
                self._keep(image, number, said, question.owners)
            elif said.owner is not None and image in self._memory:
                self._memory[image].pop(number, None)
            if not question.noted:
                return
            if said.no and question.claimed:
                # First, so that who asks us next is not sent there once more; but not at length.
                releasing = asyncio.ensure_future(observations.record_absent(number, [image[0]]))
                await asyncio.wait([releasing], timeout=self._patience)
                question.answer.set_result(said)
                await releasing
            else:
                question.answer.set_result(said)
            if said.owner is not None:
                await observations.record_present(
                    number, {image[0]: said.owner.letter_case}, question.begun
                )
                if number not in (await self._tables.current()).by_number:
                    # It was removed, and its claims may have been collected by now.
                    await self._index.claims.release(number, [image[0]])
        except IndexUnavailable as error:
            log.warning("what a location said is not in the index", reason=str(error))
        finally:
            if not question.answer.done():
                question.answer.set_result(said)

    async def _answer_of(self, image: Image, view: LocationView, claimed_case: int) -> ProbeResult:
        image_id, letter_case = image
        server = Server(self._session, view.location, self._cloud_credentials)
        owner = None
        result, why = "no", ""
        try:
            async with asyncio.timeout(self.timeout):
                # As it is claimed, as Glance writes ids, and as the client did: some databases
                # tell them apart.
                for one in dict.fromkeys((claimed_case, 0, letter_case)):
                    if await has_image(server, view.versions, format_id(image_id, one)):
                        owner = Owner(view.location.number, one)
                        result = "yes"
                        break
                else:
                    if why := await self._blind(server, view):
                        result = "blind"
        except LocationUnavailable as error:
            result, why = error.problem_code, f"it gave no answer ({error.problem_code})"
        except TimeoutError:
            result, why = "timeout", f"it did not answer within {self.timeout:g} s"
        except Exception:  # ours: the location is told as silent, and the log has the cause
            log.exception("question broke", location=view.name)
            result, why = "internal-error", "the question failed (internal-error)"
        self.counts[view.name, result] += 1
        return ProbeResult(owner, result == "no", why=why, of=view.location.updated)

    async def _blind(self, server: Server, view: LocationView) -> str:
        """Why a 404 of this server is no no; empty where it is one.

        Raises:
            LocationUnavailable: it failed while asked what its credential sees.
        """
        location, credential = view.location, await server.credential()
        sight = self._sights.get(location.number)
        if (
            sight is None
            or (sight.credential, sight.of) != (credential, location.updated)
            or time.monotonic() - sight.at > SIGHT
        ):
            at = time.monotonic()
            sees, why = await sees_all(server, view.versions)
            sight = CredentialScope(credential, location.updated, at, scope_problem(sees, why))
            self._sights[location.number] = sight
        return sight.blind

    def _keep(
        self, image: Image, number: int, said: ProbeResult, owners: tuple[Owner, ...]
    ) -> None:
        # To the end: the first is the one longest unasked.
        known = self._memory.pop(image, None) or NegativeCacheEntry(owners)
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
