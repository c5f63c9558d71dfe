"""Locations of several Keystones (`domain`): a token goes to the locations of its own only."""

from __future__ import annotations

from collections import defaultdict

from aiohttp import web
from aiohttp.typedefs import Handler

from resolver.models import format_id
from tests.gateway.callers import ALICE, BOB, END, OPS, Begin, World, begin, comparable
from tests.support.ids import make_ids

__all__ = ["begin"]

NORTH, SOUTH, NOWHERE = (format_id(image_id) for image_id in make_ids(3, seed=62))
LISTINGS = ("/v2/images", "/v2/images?name=debian", "/resolve?name=debian")


class Seen:
    """The tokens that each location received."""

    def __init__(self, world: World) -> None:
        self.tokens: dict[str, set[str]] = defaultdict(set)
        for name in world.cloud.servers:
            world.cloud.set_fault(name, self._recorder(name))

    def _recorder(self, name: str):  # type: ignore[no-untyped-def]
        async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.tokens[name].add(request.headers.get("X-Auth-Token", ""))
            return await handler(request)

        return record


async def world_of(begin: Begin, mode: str = "caller") -> World:
    """Alice has a token of the north, Bob one of the south. At each location, both would see all
    images."""
    world = await begin(mode, "n", "s")
    world.keystones["n"].accepted = {ALICE: END}
    world.keystones["s"].accepted = {BOB: END}
    await world.add("north", fields={"domain": "n", "region": "North"})
    await world.add("south", fields={"domain": "s", "region": "South"})
    for name, text in (("north", NORTH), ("south", SOUTH)):
        world.cloud.servers[name].add(id=text, name="debian")
        await world.cloud.claim(name, text)
    return world


async def test_a_client_sees_the_images_of_its_domain(begin: Begin) -> None:
    world = await world_of(begin)
    seen = Seen(world)
    for token, own, other in ((ALICE, NORTH, SOUTH), (BOB, SOUTH, NORTH)):
        assert (await world.ask("GET", f"/v2/images/{own}", token)).status == 307
        for path in ("/v2/images/%s", "/resolve/%s", "/resolve/%s/explain"):
            elsewhere, absent = [
                comparable(await world.ask("GET", path % text, token), text)
                for text in (other, NOWHERE)
            ]
            assert elsewhere == absent
    assert seen.tokens["north"] == {ALICE}
    assert seen.tokens["south"] == {BOB}


async def test_a_listing_shows_the_domain_of_the_token(begin: Begin) -> None:
    """Without a region that the client names, which it needs where nobody asks Keystone."""
    for mode in ("token", "caller"):
        world = await world_of(begin, mode)
        seen = Seen(world)
        for path in LISTINGS:
            for token, text in ((ALICE, NORTH), (BOB, SOUTH)):
                headers = {"X-Auth-Token": token}
                response, _ = await world.gateway.get(path, headers=headers)
                body = await response.text()
                assert response.status == 200, body
                assert (NORTH in body, SOUTH in body) == (text == NORTH, text == SOUTH)
        assert ALICE not in seen.tokens["south"]
        assert BOB not in seen.tokens["north"]


async def test_metalinks_ask_only_owners_in_the_domain_of_the_token(begin: Begin) -> None:
    for mode in ("token", "caller"):
        world = await world_of(begin, mode)
        seen = Seen(world)
        for text in (NORTH, SOUTH):
            accept = "Accept: application/metalink4+xml"
            await world.ask("GET", f"/resolve/{text}", ALICE, accept)
        assert ALICE not in seen.tokens["south"]


async def test_requests_for_any_location_stay_within_the_domain(begin: Begin) -> None:
    world = await world_of(begin)
    for token, name in ((ALICE, "north"), (BOB, "south")):
        response = await world.ask("GET", "/v2/info/import", token)
        assert f"Location: {world.cloud.servers[name].url}/v2/info/import" in response.head
        assert world.cloud.servers[name].url in (await world.ask("POST", "/v2/images", token)).text


async def test_keystones_are_asked_one_after_another(begin: Begin) -> None:
    """In the order of the settings, until one accepts the token."""
    world = await world_of(begin)
    north, south = world.keystones["n"], world.keystones["s"]
    await world.ask("GET", f"/v2/images/{NORTH}", ALICE)
    assert (north.asked, south.asked) == ([(OPS, ALICE)], [])
    await world.ask("GET", f"/v2/images/{SOUTH}", BOB)
    assert (north.asked[1:], south.asked) == ([(OPS, BOB)], [(OPS, BOB)])


async def test_a_region_of_one_domain_says_which_keystone_to_ask(begin: Begin) -> None:
    world = await world_of(begin)
    assert (await world.ask("GET", f"/region/South/v2/images/{SOUTH}", BOB)).status == 307
    assert world.keystones["n"].asked == []
    assert (await world.ask("GET", f"/region/South/v2/images/{NORTH}", ALICE)).status == 401
    assert world.keystones["n"].asked == []
    # That the south refuses it says nothing of the north.
    assert (await world.ask("GET", f"/v2/images/{NORTH}", ALICE)).status == 307


async def test_a_silent_keystone_affects_only_the_clients_of_its_domain(begin: Begin) -> None:
    world = await world_of(begin)
    await world.keystones["n"].stop()
    assert (await world.ask("GET", f"/v2/images/{SOUTH}", BOB)).status == 307
    response = await world.ask("GET", f"/resolve/{NORTH}", ALICE)
    assert response.status == 503
    assert "Keystone of domain n: Keystone gave no answer" in response.json()["detail"]
