"""Which images a client sees: those that an owner shows to the client's own token.

A client that may not see an image must not find out that it exists: neither by what is answered
nor by how long that takes. So an image that is not shown is answered for from one thing only, the
same for all images: what every location of the client's domain answers to its token. That is asked
at the same moment whatever the index knows:

1. The best owner is asked; where the index knows none, a location chosen by the image's id. Where
   it shows the image, the other owners are asked too, and the answer names those that show it.
2. Otherwise all locations of the domain are asked, a fixed time after the request came, neither
   sooner nor later (`HEAD_START_SHARE`). Their answers decide.

A forbidden image and one that is nowhere cause the same requests, so the same answer, in the same
time. What Glance itself answers to a token is the same for both.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace

import structlog

from resolver.callers.caller_tokens import Caller
from resolver.errors import LocationUnavailable, TooManyRequests
from resolver.image_facts import ImageFacts
from resolver.models import Health, Location, Outcome, Owner
from resolver.registry import LocationView, Table
from resolver.resolution import (
    Answer,
    AnswerContext,
    AnswerTemplate,
    LookupResult,
    Preferences,
    Resolver,
    decide,
)
from resolver.resolution.answer import (
    NOT_ASKED,
    ProbeResult,
    decide_found,
    doubt_lack_of_bytes,
    join_briefly,
)
from resolver.resolution.image_resolver import Resolution
from resolver.resolution.index_reader import Claims, IndexBudget
from resolver.resolution.negative_cache import ProbedImage
from resolver.resolution.prober import ChargeCallback, failure_text
from resolver.resolution.ranking import DEFAULT_PREFERENCES, exclusion_reason, rendezvous_score
from resolver.resolution.templates import json_template
from resolver.task_groups import end_all, run_for

HEAD_START_SHARE = 0.1
"""How long the best owner alone has to show the image, as a share of the time that locations have.
Every answer without an owner takes at least as long."""

MAX_HEAD_START_SECONDS = 0.5

SHOWN_SECONDS = 60.0
"""How long it is remembered that owners showed an image to a token; no longer than the token."""

MAX_SHOWN = 100_000
"""Pairs of a token and an image that are remembered, some 300 bytes each."""

MAX_OTHER_OWNERS = 8
"""Owners besides the best one that are asked whether they show the image too: as many as a ``Link``
names."""

BULK_ASKED_AT_ONCE = 64
"""Ids of bulk requests about which locations are asked at the same time, of all requests
together."""

log = structlog.get_logger()

AskAs = Callable[[Location, tuple[str, ...], bytes, int, str], Awaitable[ImageFacts | None]]
"""What a location shows the holder of a token; see `resolver.glance.ImageProbe.ask_as`."""


class CallerImages:
    """Answers about images for clients by their tokens."""

    def __init__(
        self, resolver: Resolver, ask_as: AskAs, *, timeout: float, per_location: int
    ) -> None:
        """``timeout``: seconds that a location has to answer. ``per_location``: questions that it
        is asked at the same time."""
        self._resolver = resolver
        self._ask_as = ask_as
        self._timeout = timeout
        self._head_start = min(timeout * HEAD_START_SHARE, MAX_HEAD_START_SECONDS)
        self._per_location = per_location
        self._shown: dict[bytes, tuple[float, frozenset[int]]] = {}
        """By the token's hash and the image's id: until when (`time.monotonic`) these locations, by
        number, count as showing it. Oldest first."""
        self._asked_at: Counter[int] = Counter()
        """Questions under way, by location number."""
        self._bulk = asyncio.Semaphore(BULK_ASKED_AT_ONCE)
        self._tasks: set[asyncio.Task[ProbeResult]] = set()

    def shown_claims(self, caller: Caller | None, image_id: bytes, claims: Claims) -> Claims:
        """The claims of locations that are remembered to show the image to this client. None: it is
        not known who that is."""
        remembered = self._shown.get(caller.key + image_id) if caller is not None else None
        if remembered is None or remembered[0] < time.monotonic():
            return ()
        numbers = remembered[1]
        for claim in claims:
            if claim.number not in numbers:
                return tuple(claim for claim in claims if claim.number in numbers)
        return claims

    async def resolve(
        self,
        caller: Caller,
        token: str,
        image: ProbedImage,
        preferences: Preferences,
        *,
        needs_bytes: bool = False,
        prefetched: LookupResult | BaseException | None = None,
        charge: ChargeCallback | None = None,
        in_full: bool = False,
    ) -> Resolution:
        """The answer about one image for the holder of ``token``, with what it was decided from. It
        says nothing that this client may not know.

        Args:
            in_full: every location is asked at once, and nothing remembered counts.
            other arguments: as of `Resolver.resolve`.

        Raises:
            IndexUnavailable: the locations are not known.
            TooManyRequests: from ``charge``.
        """
        image_id, _ = image
        lookup = await self._resolver.look_up(image_id, prefetched)
        context = self._resolver.context(lookup, preferences)
        if not (preferences.fresh or in_full):
            claims = self.shown_claims(caller, image_id, lookup.claims)
            found = decide_found(context, image_id, context.owners_of(claims))
            if found is not None and not (needs_bytes and found.lacks_bytes):
                found = replace(found, source=lookup.source, age=lookup.age)
                return Resolution(found, context, claims, {})
        views = [v for v in context.table.in_service() if v.location.domain == caller.domain]
        asking = _Questions(self, image, lookup.claims, token, charge)
        if not in_full:
            resolution = await self._ask_owners(context, views, asking, needs_bytes=needs_bytes)
            if resolution is not None:
                self._remember(caller, resolution)
                return resolution
        results = await asking.ask(views, self._timeout, any_yes_is_enough=not in_full)
        claims = tuple(result.owner for result in results.values() if result.owner is not None)
        # Locations may have been registered or removed while others were asked.
        budget = IndexBudget(self._resolver.reader.deadline - lookup.seconds)
        context = await self._resolver.with_current_table(context, budget)
        answer = _decide(context, caller.domain, image_id, claims, results, needs_bytes=needs_bytes)
        probes = {**_in_other_domains(context.table, caller.domain, absent=False), **results}
        resolution = Resolution(answer, context, claims, probes)
        self._remember(caller, resolution)
        return resolution

    async def _ask_owners(
        self,
        context: AnswerContext,
        views: Sequence[LocationView],
        asking: _Questions,
        *,
        needs_bytes: bool,
    ) -> Resolution | None:
        """The answer, where the best owner shows the image within its head start (where bytes are
        needed: and some owner has them). Otherwise this takes all of that time."""
        until = time.monotonic() + self._head_start
        image_id = asking.image_id
        numbers = {view.location.number for view in views}
        claims = [claim for claim in asking.claims if claim.number in numbers]
        ranked = context.ranked(image_id, context.owners_of(claims))
        first = (
            ranked[0].view
            if ranked
            else max(views, key=lambda view: rendezvous_score(view, image_id), default=None)
        )
        if first is not None:
            results = await asking.ask([first], self._head_start)
            if any(result.owner for result in results.values()):
                others = [owner.view for owner in ranked[1:] if owner.view is not first]
                results |= await asking.ask(others[:MAX_OTHER_OWNERS], self._head_start)
                shown = tuple(r.owner for r in results.values() if r.owner is not None)
                found = decide_found(context, image_id, context.owners_of(shown))
                if found is not None and not (needs_bytes and found.lacks_bytes):
                    return Resolution(replace(found, source="probe"), context, shown, results)
        await asyncio.sleep(until - time.monotonic())
        return None

    def _remember(self, caller: Caller, resolution: Resolution) -> None:
        if resolution.answer.outcome is not Outcome.FOUND:
            return
        key = caller.key + resolution.answer.image_id
        until = min(caller.until, time.monotonic() + SHOWN_SECONDS)
        self._shown.pop(key, None)
        self._shown[key] = until, frozenset(claim.number for claim in resolution.claims)
        if len(self._shown) > MAX_SHOWN:
            del self._shown[next(iter(self._shown))]

    def start(
        self, view: LocationView, image: ProbedImage, claimed_case: int, token: str
    ) -> asyncio.Task[ProbeResult]:
        """Asks a location, for as long as it may take. The task raises nothing."""
        task = asyncio.create_task(self._ask(view, image, claimed_case, token))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ask(
        self, view: LocationView, image: ProbedImage, claimed_case: int, token: str
    ) -> ProbeResult:
        image_id, sent_case = image
        number = view.location.number
        if self._asked_at[number] >= self._per_location:
            return ProbeResult(reason="too many questions are in flight", asked=False)
        self._asked_at[number] += 1
        try:
            async with asyncio.timeout(self._timeout):
                for letter_case in dict.fromkeys((claimed_case, 0, sent_case)):
                    facts = await self._ask_as(
                        view.location, view.versions, image_id, letter_case, token
                    )
                    if facts is not None:
                        return ProbeResult(Owner(number, letter_case, *facts))
            return ProbeResult(absent=True)
        except LocationUnavailable as error:
            if error.problem_code == "unauthorized":
                return ProbeResult(reason="it does not accept your token (unauthorized)")
            return ProbeResult(reason=failure_text(error.problem_code))
        except TimeoutError:
            return ProbeResult(reason=f"it did not answer within {self._timeout:g} s")
        except Exception:  # a bug of ours: the location counts as silent, the log has the cause
            log.exception("caller probe failed", location=view.name)
            return ProbeResult(reason="the question failed (internal-error)")
        finally:
            self._asked_at[number] -= 1

    async def resolve_many(
        self,
        caller: Caller,
        token: str,
        ids: Sequence[bytes],
        preferences: Preferences,
        letter_cases: Mapping[int, int],
        charge: ChargeCallback,
    ) -> list[AnswerTemplate]:
        """The answers for many ids, in their order, as JSON texts to be joined by the id. Locations
        are asked about as many as fit into the time of one question, and as ``charge`` allows; the
        rest is unknown.

        Raises:
            IndexUnavailable: the locations are not known.
        """
        positions: dict[ProbedImage, list[int]] = {}
        for position, image_id in enumerate(ids):
            positions.setdefault((image_id, letter_cases.get(position, 0)), []).append(position)
        answers: dict[ProbedImage, AnswerTemplate] = {}
        pending = iter(positions)

        async def answer_pending() -> None:
            while True:
                async with self._bulk:
                    if (image := next(pending, None)) is None:
                        return
                    try:
                        found = await self.resolve(caller, token, image, preferences, charge=charge)
                    except TooManyRequests:
                        return
                    answers[image] = json_template(found.answer)
                    await asyncio.sleep(0)  # what is remembered is answered at once

        workers = min(BULK_ASKED_AT_ONCE, len(positions))
        seconds = self._timeout + self._head_start
        await run_for(seconds, [answer_pending() for _ in range(workers)])
        if len(answers) < len(positions):
            table = await self._resolver.reader.usable_table()
            not_asked = json_template(_not_asked(table, caller.domain, ids[0]))
            for image in positions:
                answers.setdefault(image, not_asked)
        return [
            answers[image_id, letter_cases.get(position, 0)]
            for position, image_id in enumerate(ids)
        ]

    async def close(self) -> None:
        """Ends the questions that are under way."""
        await end_all(self._tasks)


class _Questions:
    """Questions about one image for one client."""

    def __init__(
        self,
        images: CallerImages,
        image: ProbedImage,
        claims: Claims,
        token: str,
        charge: ChargeCallback | None,
    ) -> None:
        self._images = images
        self._image = image
        self.image_id = image[0]
        self.claims = claims
        self._cases = {claim.number: claim.letter_case for claim in claims}
        self._token = token
        self._charge = charge
        self._late: dict[int, asyncio.Task[ProbeResult]] = {}
        """Earlier ones that have not been answered. A late yes still counts."""

    async def ask(
        self, views: Collection[LocationView], seconds: float, *, any_yes_is_enough: bool = False
    ) -> dict[int, ProbeResult]:
        """What these locations answer within some seconds, by number. One that is known to be down
        is asked, but not waited for when all others have answered.

        Raises:
            TooManyRequests: from ``charge``. None of these was asked then.
        """
        if not views:
            return {}
        if self._charge is not None:
            self._charge(len(views))
        until = time.monotonic() + seconds
        tasks = {
            view.location.number: self._images.start(
                view, self._image, self._cases.get(view.location.number, 0), self._token
            )
            for view in views
        }
        late, self._late = self._late, dict(tasks)
        awaited = {tasks[v.location.number] for v in views if v.health is not Health.DOWN}
        awaited = awaited or set(tasks.values())
        waiting = {*tasks.values(), *late.values()}
        while awaited & waiting and (left := until - time.monotonic()) > 0:
            done, waiting = await asyncio.wait(
                waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            if any_yes_is_enough and any(_result_of(task).is_usable for task in done):
                break
        results = {number: _result_of(task) for number, task in tasks.items()}
        for number, task in late.items():
            result = _result_of(task)
            if result.owner is not None:
                results[number] = result
        return results


def _result_of(task: asyncio.Task[ProbeResult]) -> ProbeResult:
    if not task.done() or task.cancelled():
        return ProbeResult(reason="it has not answered yet")
    return task.result()


def _in_other_domains(table: Table, domain: str, *, absent: bool) -> dict[int, ProbeResult]:
    """The locations of other domains. The client's token is not for them, and their images are not
    for this client."""
    reason = "its tokens come from another Keystone"
    result = ProbeResult(absent=True) if absent else ProbeResult(asked=False, reason=reason)
    views = table.by_name.values()
    return {v.location.number: result for v in views if v.location.domain != domain}


def _decide(
    context: AnswerContext,
    domain: str,
    image_id: bytes,
    claims: Claims,
    results: Mapping[int, ProbeResult],
    *,
    needs_bytes: bool,
) -> Answer:
    """The answer from what all locations of the client's domain answered to its token."""
    vouching = _vouching(context.table, domain)
    # Those that are not in service count below, whatever the index has of them.
    out = {v.location.number: ProbeResult(absent=True) for v in vouching if not v.in_service}
    probes = {**_in_other_domains(context.table, domain, absent=True), **out, **results}
    answer = decide(context, image_id, claims, probes)
    # An image may be where nobody can be asked. To say so for its own images only would show which
    # images it has.
    unasked = {view.name: exclusion_reason(view, DEFAULT_PREFERENCES) for view in vouching}
    unasked = {name: reason for name, reason in unasked.items() if reason}
    if answer.outcome is Outcome.FOUND:
        answer = replace(answer, source="probe")
        if not needs_bytes:
            return answer
        doubts = {name: f"it is {reason}" for name, reason in unasked.items()}
        return doubt_lack_of_bytes(context, answer, claims, probes, doubts)
    if answer.outcome is not Outcome.ABSENT:
        return answer
    if not vouching:
        detail = "No location that takes this token is registered and vouches for what it lacks."
        return replace(answer, outcome=Outcome.UNKNOWN, detail=detail, proof="", age=0.0)
    if not unasked:
        return answer
    reasons = join_briefly(f"{name} is {reason}" for name, reason in unasked.items())
    detail = f"No owner is known, and not every location can be asked: {reasons}."
    return Answer(image_id, Outcome.UNKNOWN, missing=tuple(unasked), detail=detail)


def _vouching(table: Table, domain: str) -> list[LocationView]:
    """The locations of a domain that vouch, in service or not."""
    views = table.by_name.values()
    return [v for v in views if v.location.domain == domain and v.location.vouches]


def _not_asked(table: Table, domain: str, image_id: bytes) -> Answer:
    names = tuple(view.name for view in _vouching(table, domain))
    detail = f"{NOT_ASKED.reason}: ask about fewer ids at once.".capitalize()
    return Answer(image_id, Outcome.UNKNOWN, missing=names, detail=detail)
