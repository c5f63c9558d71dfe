"""The registry: what operators do with locations."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from resolver.errors import InvalidLocation, LocationNotFound
from resolver.index import Index
from resolver.models import Owner, Progress, State
from resolver.registry import FreshnessPolicy, Registry, TableKeeper
from resolver.settings import Settings
from tests.support.ids import make_id

ONE = {"url": "http://one.example"}


def make_registry(index: Index, **settings: Any) -> Registry:
    return Registry(index, TableKeeper(index, FreshnessPolicy(600)), Settings(**settings))


@pytest.fixture
def registry(index: Index) -> Registry:
    return make_registry(index)


async def test_put_registers_then_replaces(registry: Registry) -> None:
    first, new = await registry.put("one", {**ONE, "region": "r", "weight": 5})
    assert new
    second, new = await registry.put("one", {**ONE, "state": "draining"})
    assert not new
    assert (second.number, second.created) == (first.number, first.created)
    assert second.updated >= first.updated
    assert (second.region, second.weight, second.state) == ("", 1, State.DRAINING)


async def test_putting_the_same_again_changes_nothing(registry: Registry, index: Index) -> None:
    await registry.put("one", ONE)
    before = await index.records.load()
    await registry.put("one", ONE)
    await registry.patch("one", {})
    assert await index.records.load() == before


async def test_patch_changes_only_the_given_fields(registry: Registry) -> None:
    await registry.put("one", {**ONE, "region": "r", "weight": 5})
    changed = await registry.patch("one", {"weight": 7})
    assert (changed.region, changed.weight, changed.url) == ("r", 7, ONE["url"])


async def test_concurrent_changes_are_all_made(registry: Registry, index: Index) -> None:
    await registry.put("one", ONE)
    await asyncio.gather(
        registry.patch("one", {"weight": 7}),
        registry.patch("one", {"region": "r"}),
        registry.patch("one", {"priority": 3}),
    )
    location = (await index.records.load()).records["one"].location
    assert (location.weight, location.region, location.priority) == (7, "r", 3)


async def complete_requested_sweeps(index: Index, number: int) -> None:
    """What an indexer records at the end of a requested sweep."""
    for wanted in (await index.records.requested_sweeps()).values():
        await index.records.finish_sweep_request(number, wanted)


async def test_a_change_of_its_contents_requests_a_sweep(registry: Registry, index: Index) -> None:
    async def requests_sweep(**fields: Any) -> bool:
        location = await registry.patch("one", fields)
        wanted = await index.records.requested_sweeps()
        await complete_requested_sweeps(index, location.number)
        return location.number in wanted

    await registry.put("one", ONE)
    assert await index.records.requested_sweeps() == {}  # never swept: due without a request
    assert await requests_sweep(auth={"token_env": "TOKEN"})
    assert await requests_sweep(api="v2")
    assert await requests_sweep(sees_all=True)
    assert not await requests_sweep(url="http://else.example")  # another number, never swept
    assert not await requests_sweep(weight=3, region="r", state="draining", reason="x", priority=1)


async def test_a_sweep_can_be_requested(registry: Registry, index: Index) -> None:
    location, _ = await registry.put("one", ONE)
    await registry.sweep("one", confirm_shrink=True)
    assert (await index.records.requested_sweeps())[location.number].confirm_shrink


@pytest.mark.parametrize("call", ["show", "patch", "remove", "sweep", "claim", "release"])
async def test_operations_on_a_missing_location_raise_location_not_found(
    registry: Registry, call: str
) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "patch": ({"weight": 1},),
        "claim": (make_id(1), 0),
        "release": (make_id(1),),
    }
    with pytest.raises(LocationNotFound, match="no location 'one'"):
        await getattr(registry, call)("one", *arguments.get(call, ()))
    with pytest.raises(InvalidLocation):
        await getattr(registry, call)("No Name", *arguments.get(call, ()))


async def test_operators_claim_and_release_images(registry: Registry, index: Index) -> None:
    location, _ = await registry.put("one", ONE)
    assert await registry.claim("one", make_id(1), 5)
    assert not await registry.claim("one", make_id(1), 5)
    (owners,) = (await index.claims.lookup([make_id(1)])).owners
    assert owners == (Owner(location.number, 5),)
    assert await registry.release("one", make_id(1))
    assert not await registry.release("one", make_id(1))


async def test_a_location_as_json(registry: Registry, index: Index) -> None:
    location, _ = await registry.put("one", {**ONE, "auth": {"token_env": "TOKEN"}})
    await registry.put("two", {"url": "http://two.example"})
    progress = Progress(started=0, images=7, front="f")
    await index.records.set_progress(location.number, progress)
    shown = await registry.show("one")
    assert shown == (await registry.list())[0]
    assert [row["name"] for row in await registry.list()] == ["one", "two"]
    assert shown["auth"] == {"token_env": "TOKEN"}
    assert shown["coverage"] == {
        "covered": False,
        "why": "not swept yet",
        "sweep": "not swept yet",
        "poll": "off",
        "events": "none: the location has no `notifications`",
        "credential": "whether its credential sees every image is not known yet",
    }
    running = shown["sweep"]["running"]
    assert running == {"started": "1970-01-01T00:00:00.000+00:00", "images": 7, "front": "f"}
    assert shown["health"]["state"] == "unknown"


@pytest.mark.parametrize(
    ("settings", "url", "host"),
    [
        ({"port": 9393}, "http://127.0.0.1:9393", ""),
        ({"port": 9393}, "http://localhost:9393/image", ""),
        ({"port": 9393, "host": "0.0.0.0"}, "http://[::1]:9393", ""),
        ({"port": 9393, "host": "10.0.0.1"}, "http://10.0.0.1:9393", ""),
        ({"port": 80}, "http://localhost", ""),
        ({"public_url": "https://images.example"}, "https://images.example/x", ""),
        ({}, "http://gate.example:8080", "Gate.example:8080"),
    ],
)
async def test_a_location_cannot_be_this_gateway(
    index: Index, settings: dict[str, Any], url: str, host: str
) -> None:
    registry = make_registry(index, **settings)
    with pytest.raises(InvalidLocation, match="this gateway itself"):
        await registry.put("one", {"url": url}, request_host=host)
    await registry.put("one", {"url": "http://127.0.0.1:9292"}, request_host=host)
    with pytest.raises(InvalidLocation, match="this gateway itself"):
        await registry.patch("one", {"url": url}, request_host=host)


@pytest.mark.parametrize(
    ("settings", "url", "setting"),
    [
        ({"require_https": True}, "http://one.example", "RESOLVER_REQUIRE_HTTPS"),
        ({"allowed_hosts": "*.example.org"}, "http://one.example", "RESOLVER_ALLOWED_HOSTS"),
    ],
)
async def test_a_location_that_the_settings_forbid_is_refused(
    index: Index, settings: dict[str, Any], url: str, setting: str
) -> None:
    registry = make_registry(index, **settings)
    with pytest.raises(InvalidLocation, match=re.escape(setting)):
        await registry.put("one", {"url": url})
    assert not (await index.records.load()).records
