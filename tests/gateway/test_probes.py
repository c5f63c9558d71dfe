"""Probes for unknown images, as clients of the gateway see them."""

from __future__ import annotations

import asyncio
import json

import pytest

from resolver.errors import SettingsError
from resolver.models import format_id
from resolver.settings import load_settings
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.support import faults
from tests.support.clouds import Cloud, Hold, cloud_of
from tests.support.ids import make_ids
from tests.support.wait import wait_until

ID, OTHER, THIRD, *MORE = [format_id(image_id) for image_id in make_ids(60)]


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    return await start(probe=True, probe_timeout=5, index_timeout=5)


async def owners(gateway: Gateway, path: str, **options: object) -> list[str]:
    _, body = await gateway.get(path, **options)
    return [owner["location"] for owner in body["owners"]]


async def test_a_new_image_is_redirected_to_at_once(gateway: Gateway, cloud: Cloud) -> None:
    await cloud.add("one")
    two = await cloud.add("two", v1=True, v2=False, prefix="/image")
    two.add(id=ID)
    for _ in range(2):
        response, _ = await gateway.get(f"/v1/images/{ID}")
        assert response.status == 307
        assert response.headers["Location"] == f"{two.url}/v1/images/{ID}"
    assert cloud.image_requests("two") == 1


async def test_absent_is_404_and_unknown_is_503(gateway: Gateway, cloud: Cloud) -> None:
    await cloud.add("one")
    await cloud.add("two")
    response, body = await gateway.get(f"/v2/images/{ID}")
    assert (response.status, body["outcome"], body["missing"]) == (404, "absent", [])
    cloud.set_fault("two", faults.status(500))
    response, body = await gateway.get(f"/resolve/{OTHER}")
    assert (response.status, body["outcome"], body["missing"]) == (503, "unknown", ["two"])
    assert int(response.headers["Retry-After"]) > 0


async def test_source_and_age_describe_the_origin_of_an_answer(
    gateway: Gateway, cloud: Cloud
) -> None:
    (await cloud.add("one")).add(id=ID)
    path = f"/resolve/{ID}"
    _, first = await gateway.get(path)
    assert (first["source"], first["age"]) == ("probe", 0)
    await wait_until(lambda: not gateway.services.prober.in_flight)
    _, second = await gateway.get(path)
    assert (second["source"], second["age"]) == ("index", 0)
    _, third = await gateway.get(path)
    assert third["source"] == "cache"
    await asyncio.sleep(0.01)
    _, fourth = await gateway.get(path)
    assert fourth["age"] >= third["age"] + 0.005
    _, fresh = await gateway.get(f"{path}?fresh=1")
    assert (fresh["source"], fresh["age"]) == ("probe", 0)
    _, absent = await gateway.get(f"/resolve/{OTHER}")
    assert absent["source"] == "probe"
    _, again = await gateway.get(f"/resolve/{OTHER}")
    assert again["source"] == "cache"
    assert again["age"] >= absent["age"]


@pytest.mark.parametrize("how", ["query", "header", "exclude", "exclude header"])
async def test_a_wrong_claim_is_released_after_a_probe(
    gateway: Gateway, cloud: Cloud, how: str
) -> None:
    await cloud.add("gone")
    (await cloud.add("there")).add(id=ID)
    for name in ("gone", "there"):
        await cloud.claim(name, ID)
    if how == "query":
        assert await owners(gateway, f"/resolve/{ID}?fresh=1") == ["there"]
    elif how == "exclude":
        assert await owners(gateway, f"/resolve/{ID}?exclude=gone") == ["there"]
    else:
        headers = {"X-Resolver-Fresh": "1"} if how == "header" else {"X-Resolver-Exclude": "gone"}
        response, _ = await gateway.get(f"/v2/images/{ID}/file", headers=headers)
        there = cloud.servers["there"].url
        assert (response.status, response.headers["Location"]) == (
            307,
            f"{there}/v2/images/{ID}/file",
        )
    await wait_until(lambda: not gateway.services.prober.in_flight)
    assert await owners(gateway, f"/resolve/{ID}") == ["there"]


async def test_fresh_finds_an_image_absent_that_its_only_owner_lost(
    gateway: Gateway, cloud: Cloud
) -> None:
    await cloud.add("one")
    await cloud.add("two")
    await cloud.claim("one", ID)
    assert await owners(gateway, f"/resolve/{ID}") == ["one"]
    assert await owners(gateway, f"/resolve/{ID}") == ["one"], "answered from the cache"
    response, body = await gateway.get(f"/v2/images/{ID}", headers={"X-Resolver-Fresh": "1"})
    assert (response.status, body["outcome"]) == (404, "absent")
    assert (await gateway.get(f"/v2/images/{ID}"))[0].status == 404


async def test_a_bulk_request_probes_only_unknown_ids(gateway: Gateway, cloud: Cloud) -> None:
    one, two = await cloud.add("one"), await cloud.add("two")
    known, new, upper = ID, OTHER, THIRD.upper()
    one.add(id=known)
    await cloud.claim("one", known)
    two.add(id=new)
    two.add(id=upper)
    asked = [new, "no-uuid", known, *MORE, upper]
    _, rows = await gateway.call("POST", "/resolve", json=asked)
    found = {row["id"]: row["owners"][0]["location"] for row in rows if row["outcome"] == "found"}
    assert found == {new: "two", known: "one", upper.lower(): "two"}
    assert [row["outcome"] for row in rows[3:-1]] == ["absent"] * len(MORE)
    assert rows[1]["outcome"] == "invalid"
    assert rows[-1]["owners"][0]["url"].endswith(upper)
    assert cloud.image_requests("one") == len(MORE) + 3, (
        "one probe for each spelling, none for the known image"
    )
    response, _ = await gateway.call(
        "POST", "/resolve", json=asked, headers={"Accept": "application/x-ndjson"}
    )
    lines = [json.loads(line) for line in (await response.text()).splitlines()]
    assert [row["outcome"] for row in lines] == [row["outcome"] for row in rows]


async def test_a_repeated_id_is_probed_once(gateway: Gateway, cloud: Cloud) -> None:
    (await cloud.add("one")).add(id=ID)
    _, rows = await gateway.call("POST", "/resolve", json=[ID] * 200)
    assert {row["outcome"] for row in rows} == {"found"}
    assert cloud.image_requests("one") == 1


async def test_a_bulk_request_takes_no_longer_than_one_probe(start: Start) -> None:
    gateway = await start(probe=True, probe_timeout=0.5)
    async with cloud_of(gateway.services) as cloud:
        (await cloud.add("one")).add(id=ID)
        await cloud.claim("one", ID)
        cloud.set_fault("one", hold := Hold())
        async with asyncio.timeout(5):
            _, rows = await gateway.call("POST", "/resolve", json=[ID, *MORE])
        assert rows[0]["outcome"] == "found"
        assert {row["outcome"] for row in rows[1:]} == {"unknown"}
        assert all(row["missing"] == ["one"] for row in rows[1:])
        assert 0 < hold.maximum <= gateway.services.settings.probes_per_location
        _, explained = await gateway.get(f"/resolve/{ID}/explain")
        assert explained["outcome"] == "found"


async def test_a_fresh_bulk_request_probes_the_owners(gateway: Gateway, cloud: Cloud) -> None:
    (await cloud.add("one")).add(id=ID)
    for text in (ID, OTHER):
        await cloud.claim("one", text)
    _, rows = await gateway.call("POST", "/resolve?fresh=1", json=[ID, OTHER])
    assert [row["outcome"] for row in rows] == ["found", "absent"]
    assert await cloud.owners(OTHER) == set()


async def test_explain_shows_the_probe_result_of_each_location(
    gateway: Gateway, cloud: Cloud
) -> None:
    for name in ("no", "yes", "dead", "limited"):
        await cloud.add(name, sees_all=name != "limited")
    cloud.servers["yes"].add(id=ID)
    cloud.set_fault("dead", faults.status(401))
    cloud.set_fault("yes", hold := Hold())
    request = asyncio.create_task(gateway.get(f"/resolve/{ID}/explain"))
    counts = gateway.services.prober.counts
    await wait_until(lambda: counts.total() == 3)
    hold.open.set()
    _, body = await request
    reasons = {row["location"]: row["reasons"][-1] for row in body["locations"]}
    assert reasons["yes"] == "asked, it has the image"
    assert "it does not have the image" in reasons["no"]
    assert "unauthorized" in reasons["dead"]
    assert "its credential does not see every image" in reasons["limited"]


async def test_probe_results_are_in_the_metrics(gateway: Gateway, cloud: Cloud) -> None:
    (await cloud.add("one")).add(id=ID)
    await gateway.get(f"/resolve/{ID}")
    await gateway.get(f"/resolve/{OTHER}")
    cloud.set_fault("one", faults.status(503))
    await gateway.get(f"/resolve/{THIRD}")
    response, _ = await gateway.get("/metrics")
    text = await response.text()
    for result in ("yes", "no", "server-error"):
        line = f'glance_resolver_probes_total{{location="one",result="{result}"}} 1.0'
        assert line in text


async def test_no_location_is_probed_when_probing_is_off(start: Start) -> None:
    gateway = await start(probe=False)
    async with cloud_of(gateway.services) as cloud:
        server = await cloud.add("one", swept=True)
        server.add(id=ID)
        response, body = await gateway.get(f"/resolve/{ID}")
        assert (response.status, body["outcome"]) == (404, "absent"), "proven by the sweep"
        await cloud.claim("one", OTHER)
        assert (await gateway.get(f"/resolve/{OTHER}?fresh=1"))[1]["outcome"] == "found"
        assert server.requests.total() == 0


@pytest.mark.parametrize(("word", "on"), [("off", False), ("on", True), ("false", False)])
def test_probes_are_turned_off_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, word: str, on: bool
) -> None:
    monkeypatch.setenv("RESOLVER_PROBE", word)
    assert load_settings().probe is on


def test_absent_ttl_must_not_exceed_cache_ttl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESOLVER_CACHE_TTL", "9")
    with pytest.raises(SettingsError, match=r"RESOLVER_ABSENT_TTL: 10 s .* RESOLVER_CACHE_TTL"):
        load_settings()
    monkeypatch.setenv("RESOLVER_ABSENT_TTL", "9")
    assert load_settings().absent_ttl == 9


async def test_a_manual_claim_replaces_a_cached_absence(gateway: Gateway, cloud: Cloud) -> None:
    await cloud.add("one")
    assert (await gateway.get(f"/resolve/{ID}"))[0].status == 404
    response, _ = await gateway.call("PUT", f"/locations/one/images/{ID}", headers=ADMIN)
    assert response.status < 300
    assert await owners(gateway, f"/resolve/{ID}") == ["one"]


@pytest.mark.redis
async def test_an_image_probed_by_one_gateway_is_found_by_another(
    start: Start, redis_url: str
) -> None:
    one, two = [
        await start(probe=True, probe_timeout=5, redis_url=redis_url, index_timeout=5)
        for _ in range(2)
    ]
    async with cloud_of(one.services) as cloud:
        server = await cloud.add("loc")
        assert (await two.get(f"/resolve/{ID}"))[0].status == 404
        server.add(id=ID)
        assert (await two.get(f"/resolve/{ID}"))[1]["source"] == "cache", (
            "the other gateway has cached the absence"
        )
        assert (await one.get(f"/resolve/{ID}"))[1]["outcome"] == "found"
        await wait_until(lambda: not one.services.prober.in_flight)
        assert (await two.get(f"/resolve/{ID}"))[1]["outcome"] == "found", (
            "the claim replaces the cached absence"
        )
        assert cloud.image_requests("loc") == 2
