"""``GET /resolve?name=…`` and ``glance-resolver resolve --name``."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest

from resolver.standin.call import Caller
from tests.cli.test_commands import Run, run
from tests.gateway.conftest import Gateway, Start
from tests.support import faults
from tests.support.clouds import Cloud, cloud_of
from tests.support.redis import RedisServer

__all__ = ["run"]

IDS = [f"{digit * 8}-0000-4000-8000-00000000c0de" for digit in "0123456789"]
DATA = b"the bytes"


@pytest.fixture
async def images(cloud: Cloud) -> Cloud:
    """Image 0 at both locations, 1 and 2 at one of them each; 2 has another name."""
    for name in ("one", "two"):
        await cloud.add(name, tokens={"demo": Caller("demo")}, fields={"region": f"R-{name}"})
    for name, number, tag in (("one", 0, "a"), ("two", 0, "b"), ("one", 1, "a"), ("two", 2, "a")):
        fields: dict[str, Any] = {"name": "debian" if number < 2 else "other", "data": DATA}
        cloud.servers[name].add(id=IDS[number], tags=(tag,), **fields)
        await cloud.claim(name, IDS[number])
    return cloud


def found(answers: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {a["id"]: [owner["location"] for owner in a["owners"]] for a in answers}


DEMO = {"X-Auth-Token": "demo"}


async def test_images_are_found_by_name_hash_and_tag(gateway: Gateway, images: Cloud) -> None:
    sha, md5 = hashlib.sha512(DATA).hexdigest(), hashlib.md5(DATA).hexdigest()
    for query, numbers in (
        ("name=debian", {0, 1}),
        (f"os_hash_value={sha}", {0, 1, 2}),
        (f"checksum={md5}", {0, 1, 2}),
        ("tag=a&name=other", {2}),
        ("tag=a&tag=b", set()),
        ("name=nothing", set()),
        ("name=debian&exclude=two", {0, 1}),
    ):
        response, answers = await gateway.get(f"/resolve?{query}", headers=DEMO)
        assert response.status == 200
        assert set(found(answers)) == {IDS[number] for number in numbers}, query
    _, answers = await gateway.get("/resolve?name=debian&region=R-two", headers=DEMO)
    assert found(answers)[IDS[0]] == ["two", "one"]
    assert {answer["outcome"] for answer in answers} == {"found"}


async def test_each_answer_is_that_of_the_id(gateway: Gateway, images: Cloud) -> None:
    _, answers = await gateway.get("/resolve?name=debian", headers=DEMO)
    for answer in answers:
        _, same = await gateway.get(f"/resolve/{answer['id']}")
        for volatile in ("age", "source"):
            answer.pop(volatile), same.pop(volatile)
        assert answer == same
    headers = {**DEMO, "Accept": "application/x-ndjson"}
    async with gateway.http.get("/resolve?name=debian", headers=headers) as response:
        assert response.content_type == "application/x-ndjson"
        lines = (await response.text()).splitlines()
    assert [json.loads(line)["id"] for line in lines] == [answer["id"] for answer in answers]


async def test_more_images_are_on_the_next_page(gateway: Gateway, images: Cloud) -> None:
    seen, path = [], "/resolve?name=debian&limit=1&region=R-one"
    for _ in range(4):
        response, answers = await gateway.get(path, headers=DEMO)
        seen += [answer["id"] for answer in answers]
        if "Link" not in response.headers:
            break
        target, _, relation = response.headers["Link"].partition(">; ")
        path = target.removeprefix("<")
        assert relation == 'rel="next"'
    assert sorted(seen) == [IDS[0], IDS[1]]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("", "give one or more of name, os_hash_value, checksum, tag"),
        ("limit=5", "give one or more of name"),
        ("name=x&sort=id", "unknown parameter 'sort'"),
        ("name=x&limit=y", "limit param must be an integer"),
        ("name=%ff", "the query cannot be read"),
        ("name=x&fresh=2", "fresh is 1 or 0"),
    ],
)
async def test_invalid_lookups_are_400(
    gateway: Gateway, images: Cloud, query: str, text: str
) -> None:
    response, problem = await gateway.get(f"/resolve?{query}", headers=DEMO)
    assert response.status == 400
    assert text in problem["detail"]


async def test_a_lookup_requires_the_right_to_list(gateway: Gateway, images: Cloud) -> None:
    response, problem = await gateway.get("/resolve?name=debian")
    assert (response.status, problem["code"]) == (401, "token-refused")
    images.set_fault("two", faults.status(503))
    response, problem = await gateway.get("/resolve?name=debian", headers=DEMO)
    assert (response.status, problem["missing"]) == (503, ["two"])
    headers = {**DEMO, "X-Resolver-Partial": "allow"}
    response, answers = await gateway.get("/resolve?name=debian", headers=headers)
    assert (len(answers), response.headers["X-Resolver-Missing"]) == (2, "two")


async def test_that_nothing_matches_is_no_answer_while_a_location_is_left_out(
    gateway: Gateway, images: Cloud, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = gateway.services.registry
    await registry.patch("two", {"state": "maintenance"})
    response, answers = await gateway.get("/resolve?name=debian", headers=DEMO)
    assert (len(answers), response.headers["X-Resolver-Missing"]) == (2, "two")
    response, problem = await gateway.get("/resolve?name=other", headers=DEMO)
    assert (response.status, problem["code"]) == (503, "listing-incomplete")
    assert (problem["missing"], response.headers["Retry-After"]) == (["two"], "5")
    assert "two: in maintenance" in problem["detail"]
    headers = {**DEMO, "X-Resolver-Partial": "allow"}
    response, answers = await gateway.get("/resolve?name=other", headers=headers)
    assert (response.status, answers, response.headers["X-Resolver-Missing"]) == (200, [], "two")
    response, answers = await gateway.get("/resolve?name=other&exclude=two", headers=DEMO)
    assert (response.status, answers) == (200, [])
    monkeypatch.setenv("OS_TOKEN", "demo")
    status, _, err = await run("resolve", "--name", "other", "--partial")
    assert (status, "may be missing here: two" in err) == (4, True)
    await registry.patch("two", {"vouches": False})
    response, answers = await gateway.get("/resolve?name=other", headers=DEMO)
    assert (response.status, answers, response.headers["X-Resolver-Missing"]) == (200, [], "two")
    assert (await run("resolve", "--name", "other"))[0] == 3


@pytest.mark.redis
async def test_that_nothing_matches_is_no_answer_without_redis(
    start: Start, own_redis: RedisServer
) -> None:
    """A location may have been registered since."""
    gateway = await start(redis_url=own_redis.url, index_timeout=0.1)
    async with cloud_of(gateway.services) as cloud:
        await cloud.add("one")
        assert (await gateway.get("/resolve?name=debian"))[0].status == 200
        await asyncio.to_thread(own_redis.kill)
        response, problem = await gateway.get("/resolve?name=debian")
        assert (response.status, problem["code"]) == (503, "index-unavailable")
        cloud.servers["one"].add(name="debian")
        assert (await gateway.get("/resolve?name=debian"))[0].status == 200


async def test_lookups_are_off_where_listings_are_off(start: Start) -> None:
    gateway = await start(listing=False)
    response, problem = await gateway.get("/resolve?name=debian")
    assert (response.status, problem["code"]) == (404, "no-listing")


async def test_the_command_looks_images_up(
    run: Run, images: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = await run("resolve", "--name", "debian")
    assert (status, "Give --auth-token or OS_TOKEN" in err) == (1, True)
    monkeypatch.setenv("OS_TOKEN", "demo")
    status, out, _ = await run("resolve", "--name", "debian", "--json")
    assert status == 0
    assert set(found(json.loads(out))) == {IDS[0], IDS[1]}
    status, out, _ = await run("resolve", "--tag", "a", "--hash", hashlib.md5(DATA).hexdigest())
    assert status == 0
    assert {line.split()[0] for line in out.splitlines()} == set(IDS[:3])
    status, out, _ = await run("resolve", "--name", "other", "--explain")
    assert (status, IDS[2] in out) == (0, True)
    status, out, err = await run("resolve", "--name", "nothing")
    assert (status, out, err) == (3, "", "no image matches\n")
    assert (await run("resolve"))[0] == 2
    assert (await run("resolve", IDS[0], "--name", "debian"))[0] == 2
    images.set_fault("two", faults.status(503))
    status, _, err = await run("resolve", "--name", "debian")
    assert (status, "two" in err) == (1, True)
    assert (await run("resolve", "--name", "debian", "--partial"))[0] == 0


async def test_a_name_in_place_of_an_id_is_404(gateway: Gateway, images: Cloud) -> None:
    for path in ("/v2/images/debian", "/v2/images/debian/file", "/v1/images/debian%2012"):
        for method in ("GET", "HEAD", "DELETE", "PATCH"):
            response, problem = await gateway.call(method, path)
            assert response.status == 404, (method, path)
            assert method == "HEAD" or problem["code"] == "invalid-image-id"
