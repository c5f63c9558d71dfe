"""``RESOLVER_READ_AUTH=token``: who may read, as Keystone says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from resolver.cli import main
from resolver.gateway.app import client_routes
from resolver.models import format_id
from tests.gateway.bridged_requests import BridgedRequests, bridged
from tests.gateway.callers import ALICE, BOB, END, OPS, Begin, World, begin
from tests.support.http_connection import connected
from tests.support.ids import make_ids

__all__ = ["begin", "bridged"]

ID, OTHER = (format_id(image_id) for image_id in make_ids(2, seed=16))
PATH = f"/v2/images/{ID}"

OPEN_TO_ALL = {
    *("/versions", "/{api}", "/{api}/", "/region/{region}", "/region/{region}/", "/openapi.json"),
    *("/v2/schemas{rest}", "/v1/images/detail", "/v1/images"),
}
"""Routes that say nothing of images: versions, schemas, and the listings that v1 does not have."""


async def world_of(begin: Begin, mode: str = "token", **settings: Any) -> World:
    world = await begin(mode, **settings)
    world.keystone.accepted = {ALICE: END}
    await world.add("one")
    await world.share(ID, "one", owner="alice")
    return world


@pytest.mark.parametrize("mode", ["token", "caller"])
async def test_every_route_for_clients_needs_a_token(begin: Begin, mode: str) -> None:
    """Also one that will be added."""
    world = await world_of(begin, mode)
    asked = 0
    for route in client_routes():
        canonical = re.sub(r"\{(\w+):(?:[^{}]|\{[^{}]*\})*\}", r"{\1}", route.path)
        if canonical.removeprefix("/region/{region}") in OPEN_TO_ALL or canonical in OPEN_TO_ALL:
            continue
        path = canonical.replace("{region}", "north").replace("{api}", "v2")
        path = path.replace("{id}", ID).replace("{rest}", "").replace("{path}", "other")
        path = path if path != "/resolve" or route.method == "POST" else "/resolve?name=x"
        method = {"*": "DELETE", "HEAD": "GET"}.get(route.method, route.method)
        method = "GET" if "{rest}" in canonical and "images" not in canonical else method
        path = f"/route{PATH}" if path.startswith("/route/") else path
        for token in ("", BOB):
            response = await world.ask(method, path, token)
            if path.startswith("/route/"):  # the proxy has the request itself answered
                assert response.status == 403
            else:
                assert response.status == 401, (method, path, response.text)
                assert "\r\nWWW-Authenticate: Keystone\r\n" in response.head
            assert world.cloud.servers["one"].url not in response.text
            asked += 1
    assert asked > 30


async def test_health_versions_and_schemas_need_none(begin: Begin) -> None:
    world = await world_of(begin)
    for path in ("/healthcheck", "/livez", "/readyz", "/versions", "/v2", "/v2/", "/region/a/v2/"):
        assert (await world.ask("GET", path)).status == 200, path
    assert (await world.ask("GET", "/")).status == 300
    assert (await world.ask("GET", "/v2/schemas/image")).status == 307
    assert world.keystone.asked == []


async def test_a_token_that_keystone_accepts_reads(begin: Begin) -> None:
    world = await world_of(begin)
    for path, status in ((PATH, 307), (f"/resolve/{ID}", 200), (f"/resolve/{ID}/explain", 200)):
        assert (await world.ask("GET", path, ALICE)).status == status
        assert (await world.ask("GET", path)).status == 401
    assert (await world.ask("GET", f"/v2/images/{OTHER}", ALICE)).status == 404
    assert world.keystone.asked == [(OPS, ALICE)], "once, with the gateway's own credential"


async def test_requests_at_the_same_time_ask_once(begin: Begin) -> None:
    world = await world_of(begin)
    found = await asyncio.gather(*(world.ask("GET", PATH, ALICE) for _ in range(20)))
    assert {response.status for response in found} == {307}
    assert len(world.keystone.asked) == 1


async def test_a_refused_token_is_remembered_too(begin: Begin) -> None:
    world = await world_of(begin)
    for _ in range(3):
        response = await world.ask("GET", PATH, BOB, "Accept: application/problem+json")
        assert response.status == 401
        assert response.problem_code == "token-required"
    assert world.keystone.asked == [(OPS, BOB)]
    assert "<h1>401 Unauthorized</h1>" in (await world.ask("GET", PATH)).text


@pytest.mark.parametrize("end", ["2020-01-01T00:00:00.000000Z", "2020-01-01T00:00:00Z"])
async def test_an_expired_token_is_refused(begin: Begin, end: str) -> None:
    world = await world_of(begin)
    world.keystone.accepted = {ALICE: end}
    assert (await world.ask("GET", PATH, ALICE)).status == 401


async def test_a_token_without_the_gateways_credential_asks_about_itself(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await world_of(begin)
    world.keystone.may_ask = False
    assert (await world.ask("GET", PATH, ALICE)).status == 307
    assert world.keystone.asked == [(OPS, ALICE), (ALICE, ALICE)]
    monkeypatch.delenv("GLANCE_OPS")
    assert (await world.ask("GET", PATH, BOB)).status == 401
    assert world.keystone.asked[2:] == [(BOB, BOB)]


@pytest.mark.parametrize("fault", [200, 301, 401, 404, 429, 500, 503])
async def test_a_keystone_without_a_clear_answer_is_503(begin: Begin, fault: int) -> None:
    """A proxy's 404 or 401 is none: it has no error of Keystone's in it."""
    world = await world_of(begin)
    world.keystone.fault = fault
    for path, form in ((PATH, "Accept: application/problem+json"), (f"/resolve/{ID}", "A: b")):
        response = await world.ask("GET", path, ALICE, form)
        assert (response.status, response.problem_code) == (503, "token-unchecked")
        assert "Retry-After: 5" in response.head
        document = response.json()
        assert (document["outcome"], document["owners"]) == ("unknown", [])
    codes = [problem.code for problem in world.gateway.services.problems.current()]
    assert "token-check" in codes
    world.keystone.fault = None
    assert (await world.ask("GET", PATH, ALICE)).status == 307
    codes = [problem.code for problem in world.gateway.services.problems.current()]
    assert "token-check" not in codes


async def test_a_remembered_token_reads_while_keystone_is_away(begin: Begin) -> None:
    world = await world_of(begin)
    assert (await world.ask("GET", PATH, ALICE)).status == 307
    await world.keystone.stop()
    assert (await world.ask("GET", PATH, ALICE)).status == 307
    assert (await world.ask("GET", PATH, BOB)).status == 503


@pytest.mark.parametrize("mode", ["token", "caller"])
async def test_the_front_answers_remembered_tokens(
    begin: Begin, mode: str, bridged: BridgedRequests
) -> None:
    """On one connection, of which only the first request asks anybody."""
    world = await world_of(begin, mode)
    server = world.cloud.servers["one"]
    async with connected(world.gateway.url) as connection:
        for number, path in enumerate((PATH, f"/resolve/{ID}", f"/v2/images/{ID}/file") * 3):
            if number == 1:
                # Of the stand-ins, which are aiohttp's too.
                before, asked = bridged.count, server.requests["GET", "image"]
            response = await connection.ask("GET", path, f"X-Auth-Token: {ALICE}")
            assert response.status == (200 if "resolve" in path else 307)
            assert server.url in response.text
        assert bridged.count == before
        assert len(world.keystone.asked) == 1
        assert server.requests["GET", "image"] == asked
        assert bool(asked) == (mode == "caller")
        # The same connection with the header fields of another client.
        assert (await connection.ask("GET", PATH, f"X-Auth-Token: {BOB}")).status == 401
        assert (await connection.ask("GET", PATH)).status == 401
        twice = (f"X-Auth-Token: {ALICE}", f"X-Auth-Token: {BOB}")
        assert (await connection.ask("GET", PATH, *twice)).status == 401
    assert len(world.keystone.asked) == 2


@pytest.mark.parametrize("token", ["x" * 9000, "tök", "a b\tc"])
async def test_an_impossible_token_is_refused_without_asking_keystone(
    begin: Begin, token: str
) -> None:
    world = await world_of(begin)
    async with connected(world.gateway.url) as connection:
        request = f"GET {PATH} HTTP/1.1\r\nHost: gateway\r\nX-Auth-Token: {token}\r\n\r\n"
        await connection.send(request.encode())
        assert (await connection.response()).status in (401, 431)
    assert world.keystone.asked == []


async def test_a_domain_without_a_known_keystone_is_503(begin: Begin) -> None:
    world = await begin("token", domains="")
    await world.add("one")
    response = await world.ask("GET", f"/resolve/{ID}", ALICE)
    assert response.status == 503
    assert "its Keystone is not known: set RESOLVER_DOMAINS" in response.json()["detail"]


async def test_a_location_with_a_cloud_names_its_keystone(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Then the settings need not, and the gateway's own login there asks."""
    pytest.importorskip("openstack")
    world = await begin("token", domains="")
    world.keystone.accepted = {ALICE: END}
    file = tmp_path / "clouds.yaml"
    file.write_text(yaml.safe_dump({"clouds": {"prod": {"auth": world.keystone.auth()}}}))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
    await world.add("one", fields={"auth": {"cloud": "prod"}})
    await world.share(ID, "one", owner="alice")
    assert (await world.ask("GET", PATH, ALICE)).status == 307
    assert (await world.ask("GET", PATH, BOB)).status == 401
    assert world.keystone.asked == [("token-1", ALICE), ("token-1", BOB)]


@pytest.mark.parametrize("mode", ["token", "caller"])
async def test_the_status_page_answers_those_who_type_a_token_in(begin: Begin, mode: str) -> None:
    world = await world_of(begin, mode)
    world.keystone.accepted[BOB] = END
    html = "Accept: text/html"
    for query in (f"id={ID}", "name=debian"):
        response = await world.ask("GET", f"/?{query}", "", html)
        assert response.status == 401
        assert "OS_TOKEN=" in response.text
        assert "Clients are sent to" not in response.text
    assert "Clients are sent to" in (await world.ask("GET", f"/?id={ID}", ALICE, html)).text
    seen = "Clients are sent to" in (await world.ask("GET", f"/?id={ID}", BOB, html)).text
    assert seen == (mode == "token")


async def test_checks_of_new_tokens_are_rate_limited(begin: Begin) -> None:
    world = await begin("token", client_rate=1)
    await world.add("one")
    statuses = [(await world.ask("GET", PATH, f"guess-{n}")).status for n in range(12)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert len(world.keystone.asked) <= 11


async def test_the_resolve_command_sends_the_users_token(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    world = await world_of(begin, "caller")

    async def run(*arguments: str) -> tuple[str, str]:
        def resolve() -> None:
            with pytest.raises(SystemExit):
                main(["resolve", *arguments, "--gateway", world.gateway.url])

        capfd.readouterr()
        await asyncio.to_thread(resolve)
        return capfd.readouterr()

    monkeypatch.delenv("OS_TOKEN", raising=False)
    _, err = await run(ID)
    assert "Give --auth-token or OS_TOKEN." in err
    monkeypatch.setenv("OS_TOKEN", ALICE)
    assert f"{ID}  found  one" in (await run(ID))[0]
    assert f"{ID}  found" in (await run(ID, "--explain"))[0]
