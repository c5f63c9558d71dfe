"""Both clients ask a running gateway: one id, many ids, names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

import pytest
from glance_resolver_client import (
    Absent,
    Found,
    GatewayError,
    ImageAbsentError,
    ImageUnknownError,
    Invalid,
    Unknown,
)

from resolver.models import format_id
from resolver.standin.call import Caller
from tests.client.conftest import Connect, Side
from tests.client.servers import Scripted, found, owner, scripted
from tests.gateway.callers import ALICE, END, Begin, begin
from tests.gateway.conftest import Gateway, Start
from tests.support import faults
from tests.support.clouds import Cloud, cloud_of
from tests.support.ids import make_ids

__all__ = ["begin"]

ONE, BOTH, NOWHERE = (format_id(image_id) for image_id in make_ids(3))
TOKENS = {"user": Caller("project")}


@pytest.fixture
async def pair(cloud: Cloud) -> Cloud:
    """Locations `one` and `two`; `one` has ONE, and both have BOTH."""
    for name in ("one", "two"):
        server = await cloud.add(name, fields={"region": name.title()})
        server.add(id=BOTH)
        await cloud.claim(name, BOTH)
    cloud.servers["one"].add(id=ONE)
    await cloud.claim("one", ONE)
    return cloud


async def test_found(client: Side, pair: Cloud) -> None:
    answer = await client.call("resolve", ONE)
    assert isinstance(answer, Found)
    assert answer.id == ONE
    assert answer.url == f"{pair.servers['one'].url}/v2/images/{ONE}"
    assert answer.uri == f"{pair.servers['one'].url}/v1/images/{ONE}"
    assert [(owner.location, owner.region) for owner in answer.owners] == [("one", "One")]
    assert answer.require() is answer


async def test_preferences(client: Side, pair: Cloud) -> None:
    for region in ("One", "Two"):
        answer = await client.call("resolve", UUID(BOTH), region=region)
        assert answer.owners[0].region == region
        assert len(answer.owners) == 2
    answer = await client.call("resolve", BOTH, exclude=["one"])
    assert [owner.location for owner in answer.owners] == ["two"]
    pair.servers["one"].delete(BOTH)
    answer = await client.call("resolve", BOTH, fresh=True)
    assert [owner.location for owner in answer.owners] == ["two"]


async def test_absent_and_unknown(client: Side, pair: Cloud) -> None:
    answer = await client.call("resolve", NOWHERE)
    assert answer == Absent(NOWHERE, proof="asked")
    with pytest.raises(ImageAbsentError, match=NOWHERE):
        answer.require()
    pair.set_fault("two", faults.status(500))
    answer = await client.call("resolve", NOWHERE, fresh=True)
    assert isinstance(answer, Unknown)
    assert answer.missing == ("two",)
    assert answer.retry_after
    with pytest.raises(ImageUnknownError, match="two"):
        answer.require()


async def test_a_malformed_id_is_an_error(client: Side) -> None:
    with pytest.raises(GatewayError) as caught:
        await client.call("resolve", "no-id/../%2e")
    assert caught.value.code == "invalid-image-id"


async def test_many_ids_in_chunks(start: Start, connect: Connect) -> None:
    gateway = await start(probe=True, bulk_limit=2)
    client = connect(gateway.url)
    async with cloud_of(gateway.services) as cloud:
        (await cloud.add("one")).add(id=ONE)
        await cloud.claim("one", ONE)
        ids = [ONE, "no-id", UUID(ONE), NOWHERE, ONE]
        answers = await client.collect("resolve_many", iter(ids), chunk_size=2)
        assert [type(answer) for answer in answers] == [Found, Invalid, Found, Absent, Found]
        assert [answer.id for answer in answers] == [str(image_id) for image_id in ids]
        assert await client.collect("resolve_many", []) == []
        with pytest.raises(GatewayError, match="RESOLVER_BULK_LIMIT") as caught:
            await client.collect("resolve_many", ids, chunk_size=3)
        assert caught.value.code == "too-large"
    with pytest.raises(ValueError, match="chunk_size"):
        await client.collect("resolve_many", ids, chunk_size=0)


async def test_a_missing_answer_is_an_error(connect: Connect) -> None:
    """Otherwise all that follow would be taken for those of other ids."""
    absent = {"id": ONE, "outcome": "absent", "owners": [], "conflict": False}
    async with scripted(Scripted(document=[absent])) as server:
        with pytest.raises(GatewayError, match="1 answers for 2 ids"):
            await connect(server.url).collect("resolve_many", [ONE, BOTH])


async def test_images_by_name_hash_and_tag(client: Side, cloud: Cloud) -> None:
    server = await cloud.add("one", tokens=TOKENS)
    image = server.add(id=ONE, name="debian", tags=("stable",), data=b"debian", owner="project")
    (await cloud.add("two", tokens=TOKENS)).add(id=BOTH, name="debian", tags=("old",))
    for name, image_id in (("one", ONE), ("two", BOTH)):
        await cloud.claim(name, image_id)

    async def ids(**options: object) -> set[str]:
        answers = await client.collect("lookup", token="user", **options)
        assert all(isinstance(answer, Found) for answer in answers)
        return {answer.id for answer in answers}

    assert await ids(name="debian") == {ONE, BOTH}
    assert await ids(name="debian", tags=["stable"]) == {ONE}
    assert await ids(os_hash_value=hashlib.sha512(b"debian").hexdigest()) == {ONE}
    assert await ids(checksum=image.checksum) == {ONE}
    assert await ids(name="fedora") == set()
    with pytest.raises(GatewayError) as caught:
        await client.collect("lookup", name="debian")
    assert caught.value.code == "token-refused"
    with pytest.raises(ValueError, match="name"):
        await client.collect("lookup", token="user")


async def test_a_lookup_reads_all_pages(client: Side, cloud: Cloud) -> None:
    server = await cloud.add("one")
    wanted = {format_id(image_id) for image_id in make_ids(1003)}
    for image_id in wanted:
        server.add(id=image_id, name="many", data=b"")
        await cloud.claim("one", image_id)
    answers = await client.collect("lookup", name="many")
    assert len(answers) == len(wanted)
    assert {answer.id for answer in answers} == wanted


async def test_a_lookup_stays_at_its_gateway(connect: Connect) -> None:
    """The token is for the gateway: no link and no redirect takes it to another host."""
    async with scripted(Scripted(document=[])) as other:
        link = ("Link", f'<{other.url}/resolve?name=x>; rel="next"')
        async with scripted(Scripted(document=[], headers=(link,))) as server:
            assert await connect(server.url).collect("lookup", name="x", token="secret") == []
            assert server.tokens() == ["secret"]
        place = ("Location", f"{other.url}/resolve?name=x")
        async with scripted(Scripted(307, headers=(place,))) as server:
            with pytest.raises(GatewayError, match="redirects to"):
                await connect(server.url).collect("lookup", name="x", token="secret")
        assert other.requests == []


async def test_a_token_with_a_line_break(connect: Connect, tmp_path: Path) -> None:
    """As read from a file. It is not sent, and no error text has it."""
    owners = [owner("one", f"http://one.example/v2/images/{ONE}")]
    async with scripted(found(ONE, owners)) as server:
        client = connect(server.url)
        with pytest.raises(ValueError, match="line break") as caught:
            await client.collect("lookup", name="debian", token="secret\n")
        assert "secret" not in str(caught.value)
        assert server.requests == []
        with pytest.raises(ValueError, match="line break") as caught:
            await client.call("download", ONE, tmp_path / "file", location_token="secret\n")
        assert "secret" not in str(caught.value)


async def test_a_glance_server_in_place_of_a_gateway_is_an_error(
    pair: Cloud, connect: Connect
) -> None:
    with pytest.raises(GatewayError, match="check its URL"):
        await connect(pair.servers["one"].url).call("resolve", ONE)


@pytest.mark.parametrize(
    "document",
    [
        *("text", []),
        {"outcome": "other", "id": ONE},
        {"outcome": "found", "id": ONE},
        {"outcome": "found", "id": ONE, "owners": [], "conflict": False},
    ],
)
async def test_answers_that_cannot_be_read(connect: Connect, document: object) -> None:
    async with scripted(Scripted(document=document)) as server:
        with pytest.raises(GatewayError):
            await connect(server.url).call("resolve", ONE)


async def test_an_answer_about_another_image(connect: Connect) -> None:
    """As a cache in between may give it."""
    other = {"id": NOWHERE, "outcome": "absent", "proof": "asked"}
    async with scripted(Scripted(404, other)) as server:
        with pytest.raises(GatewayError, match="answered about another"):
            await connect(server.url).call("resolve", ONE)
    async with scripted(Scripted(document=[other])) as server:
        with pytest.raises(GatewayError, match="answered about another"):
            await connect(server.url).collect("resolve_many", [ONE])


@pytest.mark.parametrize(
    "url", ["resolver.example", "ftp://h", "http://user:password@h", "http://h?x=1", "http://"]
)
async def test_urls_that_are_refused(connect: Connect, url: str) -> None:
    with pytest.raises(ValueError, match="the gateway's URL"):
        connect(url)


async def test_a_gateway_below_a_path(gateway: Gateway, connect: Connect) -> None:
    """As behind a proxy with a prefix: here the region's, below which there is no /resolve."""
    async with scripted(Scripted(404, {"code": "not-found", "detail": "no such path"})) as server:
        with pytest.raises(GatewayError, match="no such path"):
            await connect(f"{server.url}/prefix/").call("resolve", ONE)
        assert server.requests[0][0] == f"/prefix/resolve/{ONE}"


@pytest.mark.parametrize("mode", ["token", "caller"])
async def test_a_gateway_that_asks_for_a_token(
    begin: Begin, connect: Connect, tmp_path: Path, mode: str
) -> None:
    world = await begin(mode)
    world.keystone.accepted = {ALICE: END}
    await world.add("one")
    await world.share(ONE, "one", owner="alice", data=b"bytes")
    client = connect(world.gateway.url)
    with pytest.raises(GatewayError) as raised:
        await client.call("resolve", ONE)
    assert (raised.value.status, raised.value.code) == (401, "token-required")
    answer = await client.call("resolve", ONE, token=ALICE)
    assert isinstance(answer, Found)
    (answer,) = await client.collect("resolve_many", [ONE], token=ALICE)
    assert isinstance(answer, Found)
    await client.call("download", ONE, tmp_path / "image", token=ALICE, location_token=ALICE)
    assert (tmp_path / "image").read_bytes() == b"bytes"
