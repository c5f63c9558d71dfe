"""`/report/…`, the counts of conflicts, and the commands for both."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from resolver.image_facts import ImageStatus
from resolver.models import Sweep, format_id
from resolver.standin import Caller
from tests.cli.test_commands import Run, run
from tests.gateway.conftest import ADMIN, TOKEN, Gateway, Start
from tests.support.clouds import Cloud
from tests.support.contents import ONE, OTHER
from tests.support.faults import status as fault_status
from tests.support.ids import make_ids
from tests.support.wait import wait_until

__all__ = ["run"]

ACTIVE = ImageStatus.ACTIVE
IDS = sorted(make_ids(6))
SAME, CONFLICT, ONLY_ONE, QUEUED, UPPER, NAMELESS = map(format_id, IDS)
LOCATIONS = {"one": "RegionOne", "two": "Region Two", "other": ""}


@pytest.fixture
async def filled(gateway: Gateway) -> Gateway:
    for name, region in LOCATIONS.items():
        await gateway.location(name, region=region)
    await gateway.services.tables.current()
    claim = gateway.claim_with_facts
    for _ in range(2):
        await claim("one", SAME, ACTIVE, ONE)
        await claim("two", SAME, ACTIVE, ONE)
        await claim("one", CONFLICT, ACTIVE, ONE)
        await claim("two", CONFLICT, ACTIVE, OTHER)
        await claim("other", CONFLICT, ACTIVE)
    await claim("one", ONLY_ONE, ACTIVE)
    await claim("one", QUEUED, ImageStatus.PENDING)
    await claim("one", UPPER.upper(), ACTIVE)
    await claim("other", NAMELESS, ACTIVE)
    return gateway


async def report(gateway: Gateway, path: str) -> tuple[Any, list[dict[str, Any]]]:
    async with gateway.http.get(path, headers=ADMIN) as response:
        text = await response.text()
        if response.status != 200:
            return response, [json.loads(text)]
        assert response.content_type == "application/x-ndjson"
        return response, [json.loads(line) for line in text.splitlines()]


async def test_conflicts_are_listed(filled: Gateway) -> None:
    _, rows = await report(filled, "/report/conflicts")
    assert [row["id"] for row in rows] == [CONFLICT]
    owners = {owner["location"]: owner for owner in rows[0]["owners"]}
    assert owners["other"]["content"] is None
    assert {owners["one"]["content"], owners["two"]["content"]} == {1, 2}
    assert owners["one"]["url"] == f"https://one.example:9292/v2/images/{CONFLICT}"
    _, figures = await filled.get("/index")
    assert figures["conflicts"] == 1


async def test_what_a_region_lacks_has_the_command_that_brings_it(filled: Gateway) -> None:
    _, rows = await report(filled, "/report/missing?region=Region%20Two")
    found = {row["id"]: row for row in rows}
    assert list(found) == [ONLY_ONE, QUEUED, UPPER, NAMELESS]
    assert found[ONLY_ONE] == {
        "id": ONLY_ONE,
        "region": "Region Two",
        "locations": ["one"],
        "source": "one",
        "create": f"OS_REGION_NAME='Region Two' openstack image create --id {ONLY_ONE} {ONLY_ONE} "
        "</dev/tty",
        "command": f"OS_REGION_NAME='Region Two' openstack image import {ONLY_ONE} --method "
        f"glance-download --remote-region RegionOne --remote-image {ONLY_ONE} "
        "--remote-service-interface public",
        "glance_command": f"OS_REGION_NAME='Region Two' glance image-import {ONLY_ONE} "
        "--import-method glance-download --remote-region RegionOne "
        f"--remote-image-id {ONLY_ONE}",
    }
    assert found[UPPER]["command"].count(f" --remote-image {UPPER.upper()} ") == 1
    for text in (QUEUED, NAMELESS):
        assert found[text]["source"] is None
        assert found[text]["reason"]
    _, rows = await report(filled, "/report/missing?region=RegionOne")
    assert [row["id"] for row in rows] == [NAMELESS]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/report/missing", 400, "invalid-request"),
        ("/report/missing?region=", 400, "invalid-request"),
        ("/report/missing?region=RegionOne&what=x", 400, "invalid-request"),
        ("/report/missing?region=RegionOne&min_age=old", 400, "invalid-request"),
        ("/report/conflicts?region=RegionOne", 400, "invalid-request"),
        ("/report/missing?region=Nowhere", 404, "region-not-found"),
    ],
)
async def test_invalid_queries_are_refused(
    filled: Gateway, path: str, status: int, code: str
) -> None:
    response, (body,) = await report(filled, path)
    assert (response.status, body["code"]) == (status, code)


async def test_reports_need_a_token(filled: Gateway) -> None:
    for path in ("/report/conflicts", "/report/missing?region=RegionOne"):
        response, _ = await filled.get(path)
        assert response.status == 401


async def test_a_report_names_locations_that_are_not_covered(filled: Gateway) -> None:
    await filled.location("new", region="Region Two", covered=False)
    response, _ = await report(filled, "/report/missing?region=Region%20Two")
    assert response.headers["X-Resolver-Missing"] == "new"
    response, _ = await report(filled, "/report/missing?region=RegionOne")
    assert "X-Resolver-Missing" not in response.headers
    response, _ = await report(filled, "/report/conflicts")
    assert response.headers["X-Resolver-Missing"] == "new"
    await filled.services.registry.patch("new", {"vouches": False, "state": "maintenance"})
    response, _ = await report(filled, "/report/missing?region=Region%20Two")
    assert response.headers["X-Resolver-Missing"] == "new"


async def test_conflicts_of_a_sweep_are_in_status_and_metrics(start: Start) -> None:
    gateway = await start(role="all", health_interval=3600, sweep_interval=3600)
    number = await gateway.location("one")
    swept = Sweep(started=time.time(), ended=time.time(), sees_all=True, conflicts=3)
    await gateway.services.index.records.set_sweep(number, swept)
    await gateway.services.tables.current()
    stats = gateway.services.indexer.stats
    await wait_until(lambda: stats.works_on(number), message="it is checked here")
    _, body = await gateway.get("/status")
    (problem,) = [p for p in body["problems"] if p["code"] == "conflict"]
    assert (problem["location"], "for 3 of the images" in problem["text"]) == ("one", True)
    response, _ = await gateway.get("/metrics")
    assert 'glance_resolver_location_conflicts{location="one"} 3.0' in await response.text()


@pytest.mark.usefixtures("filled")
async def test_commands(run: Run) -> None:
    status, out, err = await run("report", "conflicts")
    assert (status, out.split()[0], err) == (
        0,
        CONFLICT,
        "1 image with different bytes at the owners\n",
    )
    status, out, err = await run("report", "missing", "--region", "Region Two")
    assert status == 0
    *head, first, second, _, _ = out.splitlines()
    assert "OS_REGION_NAME='Region Two' openstack image import info" in "\n".join(head)
    create = f"OS_REGION_NAME='Region Two' openstack image create --id {ONLY_ONE} {ONLY_ONE} <"
    assert first.startswith(create)
    assert second.startswith(f"# {QUEUED}: ")
    assert "lacks 4 images; 2 of them" in err
    status, out, _ = await run("report", "missing", "--region", "Region Two", "--json")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [
        ONLY_ONE,
        QUEUED,
        UPPER,
        NAMELESS,
    ]
    status, _, err = await run("report", "missing", "--region", "Nowhere")
    assert (status, "there are: Region Two, RegionOne" in err) == (1, True)
    _, out, _ = await run("index", "stats")
    assert "conflicts       1" in out


@pytest.fixture
async def golden(gateway: Gateway, cloud: Cloud) -> dict[str, str]:
    """Images of one region by name, of which another region has only ``debian-11``."""
    day = 86_400
    ages = {"debian-11": 1, "debian-12": 40 * day, "debian-13": 1, "ubuntu": 50 * day}
    ids = dict(zip(ages, IDS, strict=False))
    for name in ("one", "two"):
        await cloud.add(name, fields={"region": f"region-{name}"})
    for name, age in ages.items():
        tags = ("golden", "x86") if name != "debian-13" else ("golden",)
        created = time.time() - age
        cloud.servers["one"].add(id=format_id(ids[name]), name=name, tags=tags, created=created)
        await gateway.claim_with_facts("one", format_id(ids[name]), ACTIVE)
    cloud.servers["two"].add(id=format_id(ids["debian-11"]), name="debian-11", tags=("golden",))
    await gateway.claim_with_facts("two", format_id(ids["debian-11"]), ACTIVE)
    return {name: format_id(image_id) for name, image_id in ids.items()}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("tag=golden", ["debian-12", "debian-13", "ubuntu"]),
        ("tag=golden&tag=x86", ["debian-12", "ubuntu"]),
        ("name=debian-*", ["debian-12", "debian-13"]),
        ("name=debian-12", ["debian-12"]),
        ("min_age=30d", ["debian-12", "ubuntu"]),
        ("min_age=999999999w", []),
        ("min_age=30d&name=*buntu&tag=x86", ["ubuntu"]),
        ("tag=none", []),
    ],
)
async def test_what_a_region_lacks_of_some_images(
    gateway: Gateway, golden: dict[str, str], query: str, expected: list[str]
) -> None:
    path = f"/report/missing?region=region-two&{query}"
    headers = {**ADMIN, "X-Auth-Token": "token"}
    async with gateway.http.get(path, headers=headers) as response:
        text = await response.text()
        assert response.status == 200, text
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["id"] for row in rows] == [golden[name] for name in expected]
    assert all(row["source"] == "one" and row["region"] == "region-two" for row in rows)


async def test_a_report_of_some_images_needs_every_location(
    gateway: Gateway, golden: dict[str, str], cloud: Cloud
) -> None:
    path = "/report/missing?region=region-two&tag=golden"
    cloud.set_fault("one", fault_status(500))
    async with gateway.http.get(path, headers={**ADMIN, "X-Auth-Token": "token"}) as failed:
        assert (failed.status, (await failed.json())["code"]) == (503, "listing-incomplete")
    cloud.set_fault("one", None)
    await gateway.services.registry.patch("one", {"state": "maintenance"})
    response, rows = await report(gateway, path)
    assert (response.headers["X-Resolver-Missing"], rows) == ("one, two", [])


async def test_the_command_takes_the_same_filters(
    run: Run, golden: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("report", "missing", "--region", "region-two")
    monkeypatch.delenv("OS_TOKEN", raising=False)
    status, out, _ = await run(*command, "--tag", "golden")
    assert (status, out.count("image create")) == (0, 3)
    monkeypatch.setenv("OS_TOKEN", "token")
    options = ("--tag", "golden", "--name", "debian-*", "--min-age", "30d")
    status, out, err = await run(*command, *options)
    assert (status, out.count("image create"), golden["debian-12"] in out) == (0, 1, True)
    assert "lacks 1 image" in err


@pytest.fixture
async def domains(gateway: Gateway, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two locations of one Keystone and one of another, each of which accepts its own token only.
    The first and the last have a golden image each."""
    for name, domain in (("a", "north"), ("b", "north"), ("c", "south")):
        monkeypatch.setenv(f"GLANCE_{name.upper()}", f"token-of-{name}")
        fields = {"auth": {"token_env": f"GLANCE_{name.upper()}"}}
        await cloud.add(
            name,
            tokens={f"token-of-{name}": Caller("operators", admin=True)},
            fields={"region": f"region-{name}", "domain": domain, **fields},
        )
    for name, image_id in (("a", SAME), ("c", CONFLICT)):
        cloud.servers[name].add(id=image_id, name="debian", tags=("golden",))
        await gateway.claim_with_facts(name, image_id, ACTIVE)


@pytest.mark.usefixtures("domains")
async def test_each_location_is_asked_with_its_own_credential(gateway: Gateway) -> None:
    _, rows = await report(gateway, "/report/missing?region=region-b&tag=golden")
    found = {row["id"]: row for row in rows}
    assert {image_id: row["source"] for image_id, row in found.items()} == {
        SAME: "a",
        CONFLICT: None,  # Keystone's catalog, which region-b imports by, does not have region-c
    }
    assert "domain" in found[CONFLICT]["reason"]
    _, rows = await report(gateway, "/report/missing?region=region-b&tag=none")
    assert rows == []


@pytest.mark.usefixtures("domains")
async def test_a_token_is_sent_to_no_location_of_another_domain(
    gateway: Gateway, cloud: Cloud
) -> None:
    before = {name: sum(server.requests.values()) for name, server in cloud.servers.items()}
    path = "/report/missing?region=region-b&tag=golden"
    async with gateway.http.get(path, headers={**ADMIN, "X-Auth-Token": "token-of-a"}) as response:
        body = await response.json()
    assert (response.status, "leave X-Auth-Token" in body["detail"]) == (400, True)
    assert {name: sum(s.requests.values()) for name, s in cloud.servers.items()} == before


async def test_a_token_is_sent_to_the_locations_of_the_region_that_is_named_with_it(
    gateway: Gateway, cloud: Cloud, domains: None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.servers["b"].tokens["token-of-a"] = Caller("operators", admin=True)
    monkeypatch.setenv("RESOLVER_URL", gateway.url)
    monkeypatch.setenv("RESOLVER_TOKEN", TOKEN)
    monkeypatch.setenv("OS_TOKEN", "token-of-a")
    before = sum(cloud.servers["c"].requests.values())
    command = ("report", "missing", "--region", "region-b", "--tag", "golden", "--json")
    status, out, err = await run(*command, "--token-region", "region-a")
    assert (status, [json.loads(line)["id"] for line in out.splitlines()]) == (0, [SAME]), err
    assert sum(cloud.servers["c"].requests.values()) == before
    status, _, err = await run(*command)
    assert (status, "--token-region" in err) == (1, True)


async def test_a_location_that_forbids_its_listing_is_named(gateway: Gateway, cloud: Cloud) -> None:
    await cloud.add("a", fields={"region": "here"})
    await cloud.add("b", fields={"region": "there"})
    cloud.set_fault("b", fault_status(403))
    response, (body,) = await report(gateway, "/report/missing?region=here&tag=golden")
    assert (response.status, body["code"], body["missing"]) == (503, "listing-incomplete", ["b"])
    assert "X-Resolver-Partial" not in body["detail"]


@pytest.mark.usefixtures("domains")
async def test_a_location_that_refuses_its_credential_is_named(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLANCE_C", "expired")
    response, (body,) = await report(gateway, "/report/missing?region=region-b&tag=golden")
    assert (response.status, body["code"]) == (503, "listing-incomplete")
    assert "c: it does not accept the credential" in body["detail"]
