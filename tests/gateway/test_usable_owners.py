"""Owners where an image can be downloaded come first, and answers have what is known of it."""

from __future__ import annotations

from typing import Any

import pytest

from resolver.image_facts import Content, HashKind, ImageFacts, ImageStatus
from resolver.models import Outcome, Owner, format_id
from resolver.resolution import AnswerContext, Preferences, TemplateCache
from resolver.resolution.answer import Answer
from resolver.standin import StandIn
from tests.gateway.conftest import Gateway, Start
from tests.support.contents import ONE, OTHER
from tests.support.ids import make_ids

ID, *_ = [format_id(image_id) for image_id in make_ids(3)]
ACTIVE, PENDING, DEACTIVATED, DEAD = ImageStatus
NAMES = ("one", "two", "three")


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    """A gateway with locations in the order of their rank."""
    gateway = await start()
    for rank, name in enumerate(NAMES):
        await gateway.location(name, priority=rank)
    return gateway


async def order(gateway: Gateway) -> list[str]:
    _, body = await gateway.get(f"/resolve/{ID}")
    return [owner["location"] for owner in body["owners"]]


@pytest.mark.parametrize("status", [PENDING, DEACTIVATED, DEAD])
async def test_owners_where_the_image_is_not_usable_come_last(
    gateway: Gateway, status: ImageStatus
) -> None:
    for _ in range(2):
        await gateway.claim_with_facts("one", ID, status, ONE)
        await gateway.claim_with_facts("two", ID, None)
        await gateway.claim_with_facts("three", ID, ACTIVE, ONE)
    assert await order(gateway) == ["two", "three", "one"]
    for path in (f"/v2/images/{ID}", f"/v2/images/{ID}/file", f"/v1/images/{ID}"):
        response, _ = await gateway.get(path)
        assert response.headers["Location"].startswith("https://two.example")
    response, _ = await gateway.get(f"/v2/images/{ID}", headers={"X-Resolver-Exclude": "two"})
    assert response.headers["Location"].startswith("https://three.example")
    assert "one.example" not in response.headers.get("Link", ""), "its bytes cannot be downloaded"


async def test_the_only_owner_is_offered_whatever_its_status(gateway: Gateway) -> None:
    await gateway.claim_with_facts("two", ID, DEAD)
    response, _ = await gateway.get(f"/v2/images/{ID}")
    assert response.headers["Location"] == f"https://two.example:9292/v2/images/{ID}"


async def test_an_answer_says_what_is_known_of_the_image(gateway: Gateway) -> None:
    for name, status in zip(NAMES, (DEACTIVATED, None, ACTIVE), strict=True):
        await gateway.claim_with_facts(name, ID, status)
    _, body = await gateway.get(f"/resolve/{ID}")
    assert {owner["location"]: owner["status"] for owner in body["owners"]} == {
        "one": "deactivated",
        "two": None,
        "three": "active",
    }
    assert body["conflict"] is False
    _, explained = await gateway.get(f"/resolve/{ID}/explain")
    reasons = {row["location"]: row["reasons"] for row in explained["locations"]}
    assert "image deactivated" in reasons["one"]


async def test_a_conflict_is_reported_and_other_bytes_are_no_duplicate(gateway: Gateway) -> None:
    for _ in range(2):
        await gateway.claim_with_facts("one", ID, ACTIVE, ONE)
        await gateway.claim_with_facts("two", ID, ACTIVE, OTHER)
        await gateway.claim_with_facts("three", ID, ACTIVE, ONE)
    for path in (f"/resolve/{ID}", f"/resolve/{ID}/explain"):
        assert (await gateway.get(path))[1]["conflict"] is True
    response, _ = await gateway.get(f"/v2/images/{ID}")
    assert response.headers["Location"].startswith("https://one.example")
    assert "three.example" in response.headers["Link"]
    assert "two.example" not in response.headers["Link"]


async def test_an_owner_whose_bytes_are_not_known_is_no_duplicate(gateway: Gateway) -> None:
    """The first owner's bytes are kept from its next sweep on. They may be others."""
    await gateway.claim_with_facts("one", ID, ACTIVE, ONE)
    await gateway.claim_with_facts("two", ID, ACTIVE, OTHER)
    for _ in range(2):  # the second time from the cache
        response, _ = await gateway.get(f"/v2/images/{ID}")
        assert "Link" not in response.headers
    await gateway.claim_with_facts("two", ID, ACTIVE, ONE)
    await gateway.claim_with_facts("one", ID, ACTIVE, ONE)
    response, _ = await gateway.get(f"/v2/images/{ID}")
    assert "two.example" in response.headers["Link"]


async def test_a_change_of_status_changes_the_answer_of_a_cached_image(gateway: Gateway) -> None:
    for name in NAMES[:2]:
        await gateway.claim_with_facts(name, ID, ACTIVE)
    assert await order(gateway) == ["one", "two"]
    await gateway.claim_with_facts("one", ID, DEACTIVATED)
    assert await order(gateway) == ["two", "one"]
    await gateway.claim_with_facts("one", ID, ACTIVE)
    assert await order(gateway) == ["one", "two"]


async def test_a_fresh_answer_has_the_digest(start: Start) -> None:
    gateway = await start(probe=True)
    async with StandIn() as one, StandIn(old=True) as two:
        one.add(id=ID, data=b"bytes")
        two.add(id=ID, data=b"bytes")
        for name, server in (("one", one), ("two", two)):
            await gateway.location(name, url=server.url)
            await gateway.claim(name, ID)
        _, body = await gateway.get(f"/resolve/{ID}?fresh=1")
        found: dict[str, Any] = {owner["location"]: owner for owner in body["owners"]}
        record = await _record(gateway, one)
        assert found["one"]["digest"] == record["os_hash_value"][:16]
        assert found["two"]["digest"] == record["checksum"][:16]
        assert {owner["status"] for owner in found.values()} == {"active"}
        assert body["conflict"] is False, "hashes of different kinds cannot be compared"


async def _record(gateway: Gateway, server: StandIn) -> dict[str, Any]:
    async with gateway.http.get(f"{server.url}/v2/images/{ID}") as response:
        record: dict[str, Any] = await response.json()
        return record


async def test_images_with_the_same_owners_share_a_template(gateway: Gateway) -> None:
    """However different their bytes are."""
    ids = make_ids(50, seed=3)
    claims = gateway.services.index.claims
    by_name = (await gateway.services.tables.current()).by_name
    one, two = (by_name[name].location.number for name in NAMES[:2])
    for number in (one, two, one):
        facts = {
            image_id: ImageFacts(ACTIVE, Content(HashKind.OS_HASH, image_id[:8]))
            for image_id in ids
        }
        await claims.claim(number, ids, facts)
    owners = (await claims.lookup(ids)).owners
    assert len(set(owners)) == 1
    assert all(owner.content is not None for owner in owners[0])
    table = await gateway.services.tables.current()
    rendered: list[Answer] = []

    def render(answer: Answer, text: str, _: object) -> str:
        rendered.append(answer)
        return text

    templates = TemplateCache(AnswerContext(table, Preferences()), render).of(None)
    for image_id, some in zip(ids, owners, strict=True):
        template = templates.get(image_id, some)
        assert template is not None
        assert template.outcome is Outcome.FOUND
    assert len(rendered) == 1
    reordered = tuple(owner._replace(status=DEACTIVATED) for owner in owners[0][:1])
    assert templates.get(ids[0], (*reordered, *owners[0][1:])) is not None
    assert len(rendered) == 2, "another status is another answer"
    assert rendered[1].owners[0].number == owners[0][1].number
    assert Owner(one) not in owners[0]
