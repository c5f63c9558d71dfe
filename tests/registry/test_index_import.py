"""The import of an export, without HTTP."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resolver.errors import Conflict, IndexLost, InvalidLocation
from resolver.index import Index
from resolver.models import Location
from resolver.registry import FreshnessPolicy, Registry, TableKeeper
from resolver.registry.export_format import Block, Head
from resolver.registry.index_import import MAX_BLOCKS_IN_FLIGHT, IndexImport
from resolver.registry.presentation import fields_of
from resolver.settings import Settings
from tests.support.ids import make_ids

ONE = Location(name="one", url="http://one.example")
TWO = Location(name="two", url="http://two.example")


class Target:
    """The gateway that an export is imported into."""

    def __init__(self, index: Index, settings: Settings) -> None:
        self.index = index
        self.tables = TableKeeper(index, FreshnessPolicy(600))
        self.registry = Registry(index, self.tables, settings)

    def start_import(
        self, *, update_locations: bool = False, with_auth: bool = False
    ) -> IndexImport:
        return IndexImport(
            self.registry,
            self.tables,
            self.index.claims,
            update_locations=update_locations,
            with_auth=with_auth,
            by="ops",
        )

    async def names(self) -> list[str]:
        return list((await self.index.records.load()).records)

    async def ids_of(self, name: str) -> set[bytes]:
        number = (await self.registry.view(name)).location.number
        return {
            image_id
            async for _, claims in self.index.claims.of_location(number)
            for image_id in claims
        }


@pytest.fixture
def target(index: Index) -> Target:
    return Target(index, Settings(allowed_hosts="*.example"))


def head(*locations: Location) -> Head:
    return Head(locations, [fields_of(location) for location in locations])


def block(number: int, ids: list[bytes]) -> Block:
    return Block({number: dict.fromkeys(ids, 0)}, len(ids), len(ids))


async def test_locations_are_registered_and_images_claimed(target: Target) -> None:
    batches = [make_ids(10, seed=seed) for seed in range(3 * MAX_BLOCKS_IN_FLIGHT)]
    index_import = target.start_import()
    await index_import.add(head(ONE, TWO))
    for ids in batches:
        await index_import.add(block(1, ids))
    await index_import.finish()
    count = 10 * len(batches)
    assert index_import.summary() == {
        "locations": 2,
        "registered": ["one", "two"],
        "without_auth": [],
        "updated": [],
        "different": [],
        "images": count,
        "claims": count,
        "new": count,
    }
    assert await target.ids_of("two") == {image_id for ids in batches for image_id in ids}
    assert await target.ids_of("one") == set()


async def test_an_import_without_changes_reports_none(target: Target) -> None:
    index_import = target.start_import()
    await index_import.finish()
    assert index_import.summary_text() == "nothing was imported"


async def test_no_location_is_registered_if_one_is_not_allowed(target: Target) -> None:
    elsewhere = Location(name="two", url="http://elsewhere.test")
    with pytest.raises(InvalidLocation, match="RESOLVER_ALLOWED_HOSTS") as caught:
        await target.start_import().add(head(ONE, elsewhere))
    assert caught.value.detail.startswith("location two: ")
    assert await target.names() == []


async def test_a_location_with_another_url_is_a_conflict(target: Target) -> None:
    await target.registry.put("two", {"url": "http://moved.example"})
    with pytest.raises(Conflict, match=r"'two' is http://moved\.example here"):
        await target.start_import().add(head(ONE, TWO))
    assert await target.names() == ["two"]


@pytest.mark.parametrize("with_auth", [False, True])
@pytest.mark.parametrize("update", [False, True])
async def test_an_existing_location_gets_the_fields_of_the_export_where_that_is_wanted(
    target: Target, update: bool, with_auth: bool
) -> None:
    """Those that the export lacks, since an older version wrote it, stay as they are. Credentials
    must be wanted by themselves."""
    await target.registry.put("one", {"url": ONE.url, "weight": 7, "region": "old"})
    index_import = target.start_import(update_locations=update, with_auth=with_auth)
    auth = {"token_env": "GLANCE_ONE"}
    fields = {"url": ONE.url, "region": "new", "auth": auth}
    await index_import.add(Head([replace(ONE, region="new", auth=auth)], [fields]))
    summary = index_import.summary()
    location = (await target.registry.view("one")).location
    if update:
        assert (summary["updated"], summary["different"]) == (["one"], [])
        assert location.region == "new"
        assert location.auth == (auth if with_auth else None)
        assert summary["without_auth"] == ([] if with_auth else ["one"])
    else:
        assert (summary["updated"], summary["different"]) == ([], ["one"])
        assert (location.region, location.auth) == ("old", None)
    assert location.weight == 7


async def test_an_import_creates_the_index_that_redis_has_lost(target: Target) -> None:
    before = await target.registry.put("one", {"url": ONE.url})
    await target.index.client.command("FLUSHDB")
    index_import = target.start_import()
    ids = make_ids(10)
    await index_import.add(head(ONE, TWO))
    await index_import.add(block(1, ids))
    await index_import.finish()
    assert index_import.summary()["registered"] == ["one", "two"]
    assert await target.ids_of("two") == set(ids)
    number = (await target.registry.view("one")).location.number
    assert number > before.location.number, "claims by its earlier number may be cached elsewhere"


async def test_a_refused_import_creates_no_index(target: Target) -> None:
    await target.registry.put("one", {"url": ONE.url})
    await target.index.client.command("FLUSHDB")
    elsewhere = Location(name="two", url="http://elsewhere.test")
    with pytest.raises(InvalidLocation):
        await target.start_import().add(head(ONE, elsewhere))
    with pytest.raises(IndexLost):
        await target.start_import().add(head())
    with pytest.raises(IndexLost):
        await target.index.identity()


async def test_claims_of_a_location_that_is_removed_meanwhile_are_released(target: Target) -> None:
    index_import = target.start_import()
    await index_import.add(head(ONE))
    number = (await target.registry.view("one")).location.number
    await target.registry.remove("one")
    await index_import.add(block(0, make_ids(10)))
    with pytest.raises(Conflict, match="'one' was removed"):
        await index_import.finish()
    await index_import.stop()
    assert [claims async for _, claims in target.index.claims.of_location(number) if claims] == []
