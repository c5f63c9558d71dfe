"""Many locations at once: one read of the registry, one batch of writes, safe to repeat."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resolver.errors import Conflict, InvalidLocation, SettingsError
from resolver.index import Index
from resolver.index.records import LOAD, PUT
from resolver.registry import BatchRequest, FreshnessPolicy, Registry, TableKeeper
from resolver.registry.location_batch import BatchResult
from resolver.settings import Settings
from tests.support.instrumented_client import InstrumentedClient

MANY = {f"l{n:03}": {"url": f"http://s{n}.example", "region": "r"} for n in range(300)}
QUEUE = {"url_env": "QUEUE"}


@pytest.fixture
def client() -> InstrumentedClient:
    return InstrumentedClient()


@pytest.fixture
async def index(client: InstrumentedClient) -> Index:
    index = client.index()
    await index.create_if_missing()
    return index


@pytest.fixture
def registry(index: Index) -> Registry:
    return Registry(index, TableKeeper(index, FreshnessPolicy(600)), Settings())


async def names(index: Index) -> set[str]:
    return set((await index.records.load()).records)


async def test_the_registry_is_read_once_for_any_number_of_locations(
    registry: Registry, client: InstrumentedClient, index: Index
) -> None:
    seen: list[tuple[int, int]] = []
    await registry.register(MANY, lambda done, total: seen.append((done, total)))
    assert (client.runs_of(LOAD), client.runs_of(PUT)) == (2, len(MANY)), "and the table once"
    assert seen[-1] == (len(MANY), len(MANY))
    assert await names(index) == set(MANY)
    loads = client.runs_of(LOAD)
    await registry.register(MANY)
    assert (client.runs_of(LOAD) - loads, client.runs_of(PUT)) == (1, len(MANY)), "nothing differs"


async def test_startup_locations_keep_what_operators_have_set(registry: Registry) -> None:
    await registry.register(MANY)
    await registry.patch("l007", {"state": "draining", "weight": 3})
    await registry.register({**MANY, "l007": {"url": "http://s7.example", "region": "other"}})
    row = await registry.show("l007")
    assert (row["state"], row["weight"], row["region"]) == ("draining", 3, "other")


async def test_an_operator_replaces_all_fields_and_removes(registry: Registry) -> None:
    await registry.register(MANY)
    request = BatchRequest(
        put={"l007": {"url": "http://s7.example", "weight": 2}, "new": {"url": "http://n.example"}},
        remove=["l008", "nobody"],
        by="ops",
    )
    result = await registry.apply(request)
    assert (result.added, result.changed, result.removed) == (["new"], ["l007"], ["l008"])
    assert (await registry.show("l007"))["region"] == ""
    entries = [(row["what"], row["location"], row["by"]) for row in await registry.log(3)]
    assert set(entries) == {
        ("add", "new", "ops"),
        ("change", "l007", "ops"),
        ("remove", "l008", "ops"),
    }
    again = await registry.apply(request)
    assert again == BatchResult()


@pytest.mark.parametrize(
    ("name", "fields", "problem"),
    [
        ("bad", {"url": "nonsense"}, "bad: `url` must begin with"),
        ("bad", {"region": "r"}, "bad: `url` is missing"),
        ("bad", {"url": "http://bad.example", "color": "red"}, "bad: unknown field color"),
        ("Bad", {"url": "http://bad.example"}, "is not a location name"),
        ("bad", {"url": "http://127.0.0.1:9393"}, "bad: `url` is this gateway itself"),
        ("bad", {"url": "http://bad.example", "region": False}, "in YAML, quote words such as NO"),
    ],
)
async def test_nothing_is_written_if_one_location_is_invalid(
    registry: Registry, index: Index, name: str, fields: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidLocation, match=problem):
        await registry.apply(BatchRequest(put={**MANY, name: fields}))
    with pytest.raises(SettingsError, match=problem):
        await registry.register({**MANY, name: fields})
    assert await names(index) == set()


async def test_a_server_that_is_a_resolver_is_refused(registry: Registry, index: Index) -> None:
    async def is_resolver(url: str) -> bool:
        if url == "http://s5.example":
            return True
        if url == "http://s6.example":
            await asyncio.Event().wait()  # it does not answer
        return False

    with pytest.raises(InvalidLocation, match="l005: `url` is a glance-resolver"):
        await registry.apply(BatchRequest(put=MANY), is_resolver=is_resolver)
    one = {"url": "http://one.example", "public_url": "http://s5.example"}
    with pytest.raises(InvalidLocation, match="one: `public_url` is a glance-resolver"):
        await registry.apply(BatchRequest(put={"one": one}), is_resolver=is_resolver)
    with pytest.raises(InvalidLocation, match="`public_url` is a glance-resolver"):
        await registry.put("one", one, is_resolver=is_resolver)
    assert await names(index) == set()


async def test_notifications_belong_to_one_location(registry: Registry) -> None:
    one = {"url": "http://one.example", "notifications": QUEUE}
    two = {"url": "http://two.example", "notifications": QUEUE}
    with pytest.raises(InvalidLocation, match="`notifications` are those of location 'one'"):
        await registry.apply(BatchRequest(put={"one": one, "two": two}))
    await registry.apply(BatchRequest(put={"one": one}))
    with pytest.raises(InvalidLocation, match="two: `notifications` are those of location 'one'"):
        await registry.apply(BatchRequest(put={"two": two}))
    await registry.apply(BatchRequest(put={"two": two}, remove=["one"]))
    # They can change hands in one batch.
    await registry.apply(BatchRequest(put={"two": {"url": "http://two.example"}, "three": {**one}}))
    assert (await registry.show("three"))["notifications"] == QUEUE


async def test_concurrent_changes_of_the_same_locations_are_all_made(index: Index) -> None:
    registries = [
        Registry(index, TableKeeper(index, FreshnessPolicy(600)), Settings()) for _ in range(3)
    ]
    await asyncio.gather(*(registry.register(MANY) for registry in registries))
    assert await names(index) == set(MANY)
    await asyncio.gather(
        registries[0].apply(BatchRequest(put={name: {**MANY[name], "weight": 2} for name in MANY})),
        registries[1].patch("l000", {"priority": 7}),
    )
    assert {row["weight"] for row in await registries[2].list()} == {2}


async def test_a_change_of_what_is_no_longer_there_is_reported(
    registry: Registry, index: Index
) -> None:
    await registry.register(MANY)
    location = (await index.records.load()).records["l000"].location
    assert await index.records.put_many([(location, None)]) == [0], "it is there already"
    with pytest.raises(Conflict, match="'l000' was changed"):
        await index.records.put(location, None)
