"""What operators do with locations."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from resolver.errors import InvalidLocation, LocationNotFound
from resolver.index import Index
from resolver.models import Progress, State
from resolver.registry import FreshnessPolicy, Registry, TableKeeper
from resolver.settings import Settings
from tests.support.ids import make_id

ONE = {"url": "http://one.example"}


def make_registry(index: Index, **settings: Any) -> Registry:
    return Registry(index, TableKeeper(index, FreshnessPolicy(600)), Settings(**settings))


@pytest.fixture
def registry(index: Index) -> Registry:
    return make_registry(index)


async def test_putting_makes_then_replaces(registry: Registry) -> None:
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


async def test_patching_changes_what_is_given(registry: Registry) -> None:
    await registry.put("one", {**ONE, "region": "r", "weight": 5})
    changed = await registry.patch("one", {"weight": 7})
    assert (changed.region, changed.weight, changed.url) == ("r", 7, ONE["url"])


async def test_changes_made_at_once_are_all_kept(registry: Registry, index: Index) -> None:
    await registry.put("one", ONE)
    await asyncio.gather(
        registry.patch("one", {"weight": 7}),
        registry.patch("one", {"region": "r"}),
        registry.patch("one", {"priority": 3}),
    )
    location = (await index.records.load()).records["one"].location
    assert (location.weight, location.region, location.priority) == (7, "r", 3)


async def served(index: Index, number: int) -> None:
    """As an indexer at the end of a sweep that was asked for."""
    for wanted in (await index.records.requested_sweeps()).values():
        await index.records.finish_sweep_request(number, wanted)


async def test_what_changes_its_contents_asks_for_a_sweep(registry: Registry, index: Index) -> None:
    async def asked(**fields: Any) -> bool:
        location = await registry.patch("one", fields)
        wanted = await index.records.requested_sweeps()
        await served(index, location.number)
        return location.number in wanted

    await registry.put("one", ONE)
    assert await index.records.requested_sweeps() == {}  # never swept: due without asking
    assert await asked(auth={"token_env": "TOKEN"})
    assert await asked(api="v2")
    assert await asked(sees_all=True)
    assert not await asked(url="http://else.example")  # another number, never swept
    assert not await asked(weight=3, region="r", state="draining", reason="x", priority=1)


async def test_asking_for_a_sweep(registry: Registry, index: Index) -> None:
    location, _ = await registry.put("one", ONE)
    await registry.sweep("one", confirm_shrink=True)
    assert (await index.records.requested_sweeps())[location.number].confirm_shrink


@pytest.mark.parametrize("call", ["show", "patch", "remove", "sweep", "claim", "release"])
async def test_what_is_not_there(registry: Registry, call: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "patch": ({"weight": 1},),
        "claim": (make_id(1), 0),
        "release": (make_id(1),),
    }
    with pytest.raises(LocationNotFound, match="no location 'one'"):
        await getattr(registry, call)("one", *arguments.get(call, ()))
    with pytest.raises(InvalidLocation):
        await getattr(registry, call)("No Name", *arguments.get(call, ()))


async def test_claims_by_hand(registry: Registry, index: Index) -> None:
    location, _ = await registry.put("one", ONE)
    assert await registry.claim("one", make_id(1), 5)
    assert not await registry.claim("one", make_id(1), 5)
    (owners,) = (await index.claims.lookup([make_id(1)])).owners
    assert owners == ((location.number, 5),)
    assert await registry.release("one", make_id(1))
    assert not await registry.release("one", make_id(1))


async def test_what_is_shown(registry: Registry, index: Index) -> None:
    location, _ = await registry.put("one", {**ONE, "auth": {"token_env": "TOKEN"}})
    await registry.put("two", {"url": "http://two.example"})
    going = Progress(started=0, images=7, front="f")
    await index.records.set_progress(location.number, going)
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
        await registry.put("one", {"url": url}, host=host)
    await registry.put("one", {"url": "http://127.0.0.1:9292"}, host=host)
    with pytest.raises(InvalidLocation, match="this gateway itself"):
        await registry.patch("one", {"url": url}, host=host)


@pytest.mark.parametrize(
    ("settings", "url", "why"),
    [
        ({"require_https": True}, "http://one.example", "RESOLVER_REQUIRE_HTTPS"),
        ({"allowed_hosts": "*.example.org"}, "http://one.example", "RESOLVER_ALLOWED_HOSTS"),
    ],
)
async def test_what_settings_forbid(
    index: Index, settings: dict[str, Any], url: str, why: str
) -> None:
    registry = make_registry(index, **settings)
    with pytest.raises(InvalidLocation, match=re.escape(why)):
        await registry.put("one", {"url": url})
    assert not (await index.records.load()).records
