"""``RESOLVER_READ_AUTH=caller``: each client sees the images that an owner shows to its token."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from resolver.image_facts import ImageStatus
from resolver.models import format_id, parse_id
from resolver.resolution import Preferences
from tests.gateway.callers import ALICE, BOB, END, Begin, World, begin, comparable
from tests.support import faults
from tests.support.ids import make_ids

__all__ = ["begin"]

ID, OTHER, NOWHERE, UPPER = (format_id(image_id) for image_id in make_ids(4, seed=61))

READS = (
    *("/v1/images/%s", "/v2/images/%s", "/v2/images/%s/file", "/v2/images/%s/members"),
    *("/region/north/v2/images/%s", "/resolve/%s", "/resolve/%s?fresh=1", "/resolve/%s/explain"),
    *("/resolve/%s?region=north", "/resolve/%s?exclude=two", "/route/v2/images/%s"),
)
FORMS: tuple[tuple[str, ...], ...] = (
    (),
    *((f"Accept: application/{kind}",) for kind in ("problem+json", "json", "metalink4+xml")),
    ("Accept: text/uri-list",),
)


async def world_of(begin: Begin, **settings: Any) -> World:
    """Three locations. One and two have Alice's image `ID`; Bob may not see it."""
    world = await begin("caller", **{"probes_per_location": 1000, **settings})
    world.keystone.accepted = {ALICE: END, BOB: END}
    for name in ("one", "two", "three"):
        await world.add(name)
    await world.share(ID, "one", "two", owner="alice")
    return world


async def differences(world: World, token: str = BOB) -> list[str]:
    """Requests whose responses about `ID` and about `NOWHERE` differ, in all forms."""

    async def difference(method: str, path: str, form: tuple[str, ...]) -> str:
        forbidden, absent = [
            comparable(await world.ask(method, path % text, token, *form), text)
            for text in (ID, NOWHERE)
        ]
        same = forbidden == absent
        return "" if same else f"{method} {path} {form}\n{forbidden}\n{absent}"

    found = await asyncio.gather(
        *(
            difference(method, path, form)
            for form in FORMS
            for path in READS
            for method in ("GET", "HEAD", "DELETE")
            if method == "GET" or not path.startswith("/route")
            if method != "DELETE" or not path.startswith("/resolve")
        )
    )
    return [text for text in found if text]


async def test_a_caller_is_redirected_to_an_owner_that_shows_the_image(begin: Begin) -> None:
    world = await world_of(begin)
    servers = world.cloud.servers
    explained = (await world.ask("GET", f"/resolve/{ID}/explain", ALICE)).json()
    assert {owner["location"] for owner in explained["owners"]} == {"one", "two"}
    named = (await world.ask("GET", f"/resolve/{ID}", ALICE)).json()["owners"]
    assert {owner["location"] for owner in named} <= {"one", "two"}
    response = await world.ask("GET", f"/v2/images/{ID}", ALICE)
    assert response.status == 307
    assert any(
        f"Location: {servers[n].url}/v2/images/{ID}" in response.head for n in ("one", "two")
    )
    assert (await world.ask("DELETE", f"/v2/images/{ID}", ALICE)).status == 405


async def test_forbidden_is_answered_as_absent(begin: Begin) -> None:
    """In every form, by every route, byte for byte."""
    world = await world_of(begin)
    response = await world.ask("GET", f"/v2/images/{ID}", BOB)
    assert response.status == 404
    assert f"No image found with ID {ID}" in response.text
    assert await differences(world) == []


async def test_forbidden_costs_as_much_as_absent(begin: Begin) -> None:
    """Each location that is asked is paid for: the first one, and then all."""
    world = await world_of(begin)
    services = world.gateway.services
    assert services.caller_tokens is not None
    assert services.caller_images is not None

    async def paid(text: str, token: str) -> list[int]:
        charges: list[int] = []
        caller = await services.caller_tokens.identify(token, "", lambda _: None)
        await services.caller_images.resolve(
            caller, token, (parse_id(text), 0), Preferences(), charge=charges.append
        )
        return charges

    assert [await paid(text, BOB) for text in (ID, NOWHERE)] == [[1, 3], [1, 3]]
    assert [await paid(ID, ALICE) for _ in range(2)] == [[1, 1], []]


@pytest.mark.parametrize("silent", ["one", "three"])
async def test_forbidden_is_unknown_as_absent_is(begin: Begin, silent: str) -> None:
    """While an owner, or another location, does not answer."""
    world = await world_of(begin)
    world.cloud.set_fault(silent, faults.status(500))
    response = await world.ask("GET", f"/resolve/{ID}", BOB)
    assert (response.status, response.json()["missing"]) == (503, [silent])
    assert await differences(world) == []


async def test_an_owner_that_cannot_be_asked_is_unknown(begin: Begin) -> None:
    world = await world_of(begin)
    for name in ("one", "two"):
        world.cloud.set_fault(name, faults.status(500))
    response = await world.ask("GET", f"/resolve/{ID}", ALICE)
    assert (response.status, response.json()["outcome"]) == (503, "unknown")
    world.cloud.set_fault("two", None)
    response = await world.ask("GET", f"/resolve/{ID}", ALICE)
    assert [owner["location"] for owner in response.json()["owners"]] == ["two"]


async def test_an_owner_in_maintenance_is_unknown(begin: Begin) -> None:
    """Its images cannot be asked for, so neither are those absent that are nowhere."""
    world = await world_of(begin)
    for name in ("one", "two"):
        await world.gateway.services.registry.patch(
            name, {"state": "maintenance", "reason": "disk"}
        )
    for token, text in ((ALICE, ID), (BOB, ID), (ALICE, NOWHERE)):
        response = await world.ask("GET", f"/resolve/{text}", token)
        assert response.status == 503
        assert response.json()["missing"] == ["one", "two"]
        assert "one is in maintenance: disk" in response.json()["detail"]


async def test_a_silent_location_that_does_not_vouch_blocks_no_absence(begin: Begin) -> None:
    world = await world_of(begin)
    await world.gateway.services.registry.patch("three", {"vouches": False})
    world.cloud.set_fault("three", faults.status(500))
    assert (await world.ask("GET", f"/v2/images/{NOWHERE}", ALICE)).status == 404


async def test_only_owners_that_show_it_are_named(begin: Begin) -> None:
    """By every form that names several."""
    world = await world_of(begin)
    data = b"the same bytes"
    for name, owner in (("one", "alice"), ("two", "bob"), ("three", "alice")):
        await world.share(OTHER, name, owner=owner, data=data)
    two = world.cloud.servers["two"].url
    for form in FORMS:
        for path in READS:
            response = await world.ask("GET", path % OTHER, ALICE, *form)
            assert two not in response.text, (path, form)
    explained = (await world.ask("GET", f"/resolve/{OTHER}/explain", ALICE)).json()
    verdicts = {row["location"]: row["verdict"] for row in explained["locations"]}
    assert verdicts["two"] == "not an owner"
    assert set(verdicts.values()) == {"chosen", "ranked", "not an owner"}


async def test_an_image_that_the_index_does_not_know(begin: Begin) -> None:
    world = await world_of(begin)
    world.cloud.servers["three"].add(id=OTHER, visibility="private", owner="alice")
    response = await world.ask("GET", f"/resolve/{OTHER}", ALICE)
    assert response.json()["owners"][0]["location"] == "three"
    assert (await world.ask("GET", f"/resolve/{OTHER}", BOB)).status == 404
    assert await world.cloud.owners(OTHER) == set(), "what a client sees is no claim"


async def test_an_id_in_upper_case(begin: Begin) -> None:
    world = await world_of(begin)
    await world.share(UPPER.upper(), "one", owner="alice")
    for text in (UPPER, UPPER.upper()):
        response = await world.ask("GET", f"/v2/images/{text}", ALICE)
        assert f"{world.cloud.servers['one'].url}/v2/images/{UPPER.upper()}" in response.head


async def test_a_cached_permission_ends_with_the_claim(begin: Begin) -> None:
    world = await world_of(begin)
    assert (await world.ask("GET", f"/v2/images/{ID}", ALICE)).status == 307
    for name in ("one", "two"):
        world.cloud.servers[name].update(ID, deleted=True)
        number = world.cloud.numbers[name]
        await world.cloud.index.claims.release(number, [bytes.fromhex(ID.replace("-", ""))])
    assert (await world.ask("GET", f"/v2/images/{ID}", ALICE)).status == 404


async def test_a_fresh_request_asks_the_owners_again(begin: Begin) -> None:
    world = await world_of(begin)
    assert (await world.ask("GET", f"/v2/images/{ID}", ALICE)).status == 307
    for name in ("one", "two"):
        world.cloud.servers[name].update(ID, owner="bob")
    assert (await world.ask("GET", f"/resolve/{ID}?fresh=1", ALICE)).status == 404
    assert (await world.ask("GET", f"/v2/images/{ID}", ALICE, "X-Resolver-Fresh: 1")).status == 404


async def test_an_image_without_bytes_is_asked_about_again(begin: Begin) -> None:
    world = await world_of(begin)
    server = world.cloud.servers["one"]
    server.add(id=OTHER, visibility="private", owner="alice", status="queued")
    await world.gateway.claim_with_facts("one", OTHER, ImageStatus.PENDING)
    path = f"/v2/images/{OTHER}/file"
    assert (await world.ask("GET", path, ALICE)).status == 503
    server.update(OTHER, status="active")
    assert (await world.ask("GET", path, ALICE)).status == 307


@pytest.mark.parametrize(
    ("status", "known", "final"),
    [("killed", ImageStatus.DEAD, 410), ("deactivated", ImageStatus.DEACTIVATED, 307)],
)
async def test_bytes_are_not_refused_while_a_location_may_have_them(
    begin: Begin, status: str, known: ImageStatus, final: int
) -> None:
    world = await world_of(begin, probe_timeout=2)
    server, path = world.cloud.servers["one"], f"/v2/images/{OTHER}/file"
    server.add(id=OTHER, visibility="private", owner="alice", status=status)
    await world.gateway.claim_with_facts("one", OTHER, known)
    as_problem = "Accept: application/problem+json"

    async def is_unknown(why: str) -> bool:
        response = await world.ask("GET", path, ALICE, as_problem)
        body = response.json()
        assert (response.status, body["code"], body["missing"]) == (503, "image-unknown", ["three"])
        return f"three: {why}" in body["detail"]

    world.cloud.set_fault("three", faults.status(500))
    assert await is_unknown("it gave no usable answer")
    world.cloud.set_fault("three", None)
    await world.gateway.services.registry.patch("three", {"state": "maintenance"})
    assert await is_unknown("it is in maintenance")
    await world.gateway.services.registry.patch("three", {"state": "active"})
    assert (await world.ask("GET", path, ALICE, as_problem)).status == final
    three = world.cloud.servers["three"]
    three.add(id=OTHER, visibility="private", owner="alice", data=b"bytes")
    response = await world.ask("GET", path, ALICE)
    assert f"Location: {three.url}{path}" in response.head
    assert (await world.ask("GET", path, BOB)).status == 404


async def bulk(world: World, token: str, *ids: str) -> list[dict[str, Any]]:
    headers = {"X-Auth-Token": token}
    _, answers = await world.gateway.call("POST", "/resolve", json=list(ids), headers=headers)
    assert isinstance(answers, list), answers
    return answers


async def test_many_ids_are_answered_as_single_ones(begin: Begin) -> None:
    world = await world_of(begin)
    await world.share(OTHER, "three", owner="bob")
    ids = (ID, NOWHERE, OTHER, "no-uuid", ID)
    outcomes = [answer["outcome"] for answer in await bulk(world, ALICE, *ids)]
    assert outcomes == ["found", "absent", "absent", "invalid", "found"]
    outcomes = [answer["outcome"] for answer in await bulk(world, BOB, *ids)]
    assert outcomes == ["absent", "absent", "found", "invalid", "absent"]
    forbidden, absent = await bulk(world, BOB, ID, NOWHERE)
    for answer in (forbidden, absent):
        del answer["id"], answer["age"]
    assert forbidden == absent


async def test_ids_that_are_not_asked_in_time_are_unknown(begin: Begin) -> None:
    world = await world_of(begin, probe_timeout=3)
    world.cloud.set_fault("one", faults.slow)
    await world.share(OTHER, "three", owner="bob")
    found, unknown, absent = await bulk(world, BOB, OTHER, ID, NOWHERE)
    assert found["outcome"] == "found"
    for answer in (unknown, absent):
        assert answer["outcome"] == "unknown"
        del answer["id"], answer["age"]
    assert unknown == absent


async def test_a_listing_names_owners_that_list_the_image(begin: Begin) -> None:
    world = await world_of(begin)
    for name, owner in (("one", "alice"), ("two", "bob")):
        await world.share(OTHER, name, owner=owner, name="debian")
    response = await world.ask("GET", f"/v2/images?id=in:{OTHER}", ALICE)
    assert [row["resolver_locations"] for row in response.json()["images"]] == ["one"]
    headers = {"X-Auth-Token": ALICE}
    _, (answer,) = await world.gateway.get("/resolve?name=debian", headers=headers)
    assert [owner["location"] for owner in answer["owners"]] == ["one"]


@pytest.mark.parametrize("seed", range(3))
async def test_a_client_sees_exactly_the_images_that_some_server_shows_it(
    begin: Begin, seed: int
) -> None:
    """A model: random images at random locations, known to the index or not, with random faults."""
    rng = random.Random(seed)
    world = await world_of(begin)
    servers = world.cloud.servers
    ids = [format_id(image_id) for image_id in make_ids(10, seed=seed)]
    for text in ids:
        for name in servers:
            if rng.random() < 0.4:
                servers[name].add(
                    id=text,
                    owner=rng.choice(["alice", "bob", "carol"]),
                    visibility=rng.choice(["private", "private", "public"]),
                )
            if rng.random() < 0.4:  # true or not
                await world.cloud.claim(name, text)

    async def check(text: str, token: str, project: str, silent: set[str]) -> None:
        seen = {
            name
            for name, server in servers.items()
            if (image := server.get(text))
            and (image.visibility == "public" or image.owner == project)
        }
        response = await world.ask("GET", f"/resolve/{text}?fresh=1", token)
        document = json.loads(response.body)
        named = {owner["location"] for owner in document["owners"]}
        expected = "found" if seen - silent else "unknown" if silent else "absent"
        assert document["outcome"] == expected, (text, token, seen, silent, document)
        assert named <= seen - silent
        assert bool(named) == bool(seen - silent)

    for _ in range(3):
        silent = {name for name in servers if rng.random() < 0.25}
        for name in servers:
            world.cloud.set_fault(name, faults.status(503) if name in silent else None)
        await asyncio.gather(
            *(
                check(text, token, project, silent)
                for text in ids
                for token, project in ((ALICE, "alice"), (BOB, "bob"))
            )
        )
