"""What a client is charged: each question to a location that it causes, before it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from resolver.errors import TooManyRequests
from resolver.models import Outcome, parse_id
from resolver.resolution import Answer, Preferences
from tests.resolution.probing import ID, OTHER, wait_until_idle
from tests.support.clouds import ANY, FRESH, Cloud, Hold, clouds
from tests.support.wait import wait_until

NAMES = ("one", "two", "three", "four")


@pytest.fixture
async def four() -> AsyncIterator[Cloud]:
    """Four locations, of which the first has an image that the index knows."""
    async with clouds(probes_per_location=1) as cloud:
        for name in NAMES:
            await cloud.add(name)
        cloud.servers["one"].add(id=ID)
        await cloud.claim("one", ID)
        yield cloud


class Client:
    """Pays for its questions."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.paid: list[int] = []
        self.asked_before: list[int] = []
        """How many requests had reached the locations when it paid."""

    def charge(self, questions: int) -> None:
        self.paid.append(questions)
        self.asked_before.append(asked(self._cloud))

    async def resolve(self, text: str, preferences: Preferences = ANY) -> Answer:
        return await self._cloud.services.resolver.resolve(
            parse_id(text), preferences, charge=self.charge
        )


def asked(cloud: Cloud) -> int:
    return sum(cloud.image_requests(name) for name in NAMES)


async def test_what_the_index_knows_costs_nothing(four: Cloud) -> None:
    client = Client(four)
    assert (await client.resolve(ID)).outcome is Outcome.FOUND
    assert client.paid == []


async def test_a_miss_costs_as_much_as_there_are_locations(four: Cloud) -> None:
    client = Client(four)
    assert (await client.resolve(OTHER)).outcome is Outcome.ABSENT
    assert (client.paid, client.asked_before, asked(four)) == ([4], [0], 4)
    assert (await client.resolve(OTHER)).outcome is Outcome.ABSENT
    assert client.paid == [4], "what is remembered costs nothing"


async def test_a_fresh_answer_costs_the_owners_and_then_the_others(four: Cloud) -> None:
    client = Client(four)
    assert (await client.resolve(ID, FRESH)).outcome is Outcome.FOUND
    assert client.paid == [1]
    four.servers["one"].delete(ID)
    assert (await client.resolve(ID, FRESH)).outcome is Outcome.ABSENT
    assert (client.paid, client.asked_before) == ([1, 1, 3], [0, 1, 2])


async def test_an_excluded_owner_that_is_asked_in_the_background_is_paid_for(four: Cloud) -> None:
    four.servers["two"].add(id=ID)
    await four.claim("two", ID)
    client = Client(four)
    answer = await client.resolve(ID, Preferences(exclude=frozenset({"one"})))
    assert [owner.name for owner in answer.owners] == ["two"]
    await wait_until(lambda: asked(four) == 1)
    await wait_until_idle(four)
    assert (client.paid, client.asked_before, asked(four)) == ([1], [0], 1)


async def test_an_excluded_owner_that_is_being_asked_costs_nothing(four: Cloud) -> None:
    four.servers["two"].add(id=ID)
    await four.claim("two", ID)
    four.set_fault("one", hold := Hold())
    client = Client(four)
    for _ in range(3):
        await client.resolve(ID, Preferences(exclude=frozenset({"one"})))
        await wait_until(lambda: hold.waiting == 1)
    hold.open.set()
    await wait_until_idle(four)
    assert (client.paid, asked(four)) == ([1], 1)


async def test_only_those_that_are_asked_are_paid_for(four: Cloud) -> None:
    """A question that is shared is paid for once, and one that is not asked not at all."""
    four.set_fault("four", hold := Hold())
    first, second, third = Client(four), Client(four), Client(four)
    asking = asyncio.create_task(first.resolve(OTHER))
    prober = four.services.prober
    await wait_until(lambda: hold.waiting == 1 and asked(four) == 3 and prober.in_flight == 1)
    sharing = asyncio.create_task(second.resolve(OTHER))
    another = await third.resolve("00000000-0000-4000-8000-00000000abcd")
    assert another.missing == ("four",), "it has too many questions in flight"
    hold.open.set()
    assert {(await task).outcome for task in (asking, sharing)} == {Outcome.ABSENT}
    assert (first.paid, second.paid, third.paid) == ([4], [], [3])


async def test_nobody_is_asked_for_a_client_that_cannot_pay(four: Cloud) -> None:
    def refuse(_: int) -> None:
        raise TooManyRequests("enough")

    resolver = four.services.resolver
    for text, preferences in ((OTHER, ANY), (ID, FRESH)):
        with pytest.raises(TooManyRequests):
            await resolver.resolve(parse_id(text), preferences, charge=refuse)
    excluding = Preferences(exclude=frozenset({"one"}))
    with pytest.raises(TooManyRequests):
        await resolver.resolve(parse_id(ID), excluding, charge=refuse)
    await wait_until_idle(four)
    assert asked(four) == 0


async def test_each_id_of_a_bulk_request_is_paid_for(four: Cloud) -> None:
    client = Client(four)
    ids = [parse_id(ID), parse_id(OTHER), bytes(16)]
    many = await four.services.bulk_resolver.resolve_many(ids, ANY, {}, client.charge)
    outcomes = [template.outcome for template in many]
    assert outcomes[0] is Outcome.FOUND
    assert 4 <= sum(client.paid) == asked(four) <= 8
