"""Programs of older formats, the last release, and this version on one index, in both directions: a
rolling upgrade, and the way back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from resolver.models import format_id
from resolver.standin import StandIn
from tests.support.ids import make_ids, make_v7_ids
from tests.support.process import ServerUnavailableError
from tests.support.redis import RedisServer
from tests.support.wait import wait_until
from tests.versions.released_tree import (
    FORMAT_1_COMMIT,
    FORMAT_2_COMMIT,
    RELEASE_COMMIT,
    ROOT,
    VersionedServer,
    unpack,
)

pytestmark = pytest.mark.redis
FIRST, LATER = [format_id(image_id) for image_id in make_ids(2)]
SECOND, BY_HAND = [format_id(image_id) for image_id in make_v7_ids(2)]

COMMITS = {"format 1": FORMAT_1_COMMIT, "format 2": FORMAT_2_COMMIT, "release": RELEASE_COMMIT}
"""The last commit of each older format, and the last release."""

of_format_1 = pytest.mark.parametrize("old_tree", ["format 1"], indirect=True)
of_format_2 = pytest.mark.parametrize("old_tree", ["format 2"], indirect=True)
of_the_same_form = pytest.mark.parametrize("old_tree", ["format 2", "release"], indirect=True)

Start = Callable[[str], VersionedServer]
"""Starts a server of the version ``old`` or ``new``."""


@pytest.fixture(scope="module")
def old_tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indirect: of the version that the test names."""
    return unpack(COMMITS[request.param], tmp_path_factory.mktemp("old"))


@pytest.fixture
def start(old_tree: Path, own_redis: RedisServer, tmp_path: Path) -> Iterator[Start]:
    servers: list[VersionedServer] = []

    def begin(version: str) -> VersionedServer:
        tree = old_tree if version == "old" else ROOT
        directory = tmp_path / f"{version}-{len(servers)}"
        directory.mkdir()
        server = VersionedServer(tree, own_redis.url, directory)
        servers.append(server)
        return server.start()

    yield begin
    for server in servers:
        server.close()


@pytest.fixture
async def glances() -> AsyncIterator[dict[str, StandIn]]:
    async with AsyncExitStack() as stack:
        made = {name: await stack.enter_async_context(StandIn()) for name in ("one", "two")}
        made["one"].add(id=FIRST)
        made["two"].add(id=FIRST)
        made["two"].add(id=SECOND)
        yield made


async def register(server: VersionedServer, name: str, glance: StandIn) -> None:
    status, body = await server.call("PUT", f"/locations/{name}", json={"url": glance.url})
    assert status == 201, body


async def found(server: VersionedServer, text: str, *names: str) -> None:
    async def as_expected() -> bool:
        return await server.owners(text) == list(names)

    await wait_until(as_expected, message=f"{server.tree.name} finds {text} at {names}")


async def status_is_known(server: VersionedServer, text: str) -> None:
    async def is_active() -> bool:
        _, body = await server.call("GET", f"/resolve/{text}")
        return {owner["status"] for owner in body["owners"]} == {"active"}

    await wait_until(is_active, message="polls of the newer version bring the status")


@of_the_same_form
@pytest.mark.parametrize(("first", "then"), [("old", "new"), ("new", "old")])
async def test_two_versions_serve_and_change_one_index(
    start: Start, glances: dict[str, StandIn], first: str, then: str
) -> None:
    assert start("old").stop() == 0  # the index is one that the older version has made
    one = start(first)
    await register(one, "one", glances["one"])
    await found(one, FIRST, "one")
    two = start(then)
    await found(two, FIRST, "one")
    await register(two, "two", glances["two"])
    for server in (one, two):
        await found(server, FIRST, "one", "two")
        await found(server, SECOND, "two")
    for writer, reader in ((one, two), (two, one)):
        path = f"/locations/one/images/{BY_HAND}"
        assert (await writer.call("PUT", path))[0] == 201
        await found(reader, BY_HAND, "one")
        assert (await reader.call("DELETE", path))[0] == 204
        await found(writer, BY_HAND)
        region = writer.tree.name
        assert (await writer.call("PATCH", "/locations/one", json={"region": region}))[0] == 200
        _, shown = await reader.call("GET", "/locations/one")
        assert shown["region"] == region
    new = two if then == "new" else one
    await status_is_known(new, FIRST)
    for server in (one, two):  # what the older one does not know does not disturb it
        await found(server, FIRST, "one", "two")
    # Whichever indexes alone goes on where the other has stopped.
    assert one.stop() == 0
    glances["one"].add(id=LATER)
    await found(two, LATER, "one")
    assert (await two.call("DELETE", "/locations/two"))[0] == 204
    again = start(first)
    await found(again, FIRST, "one")
    await found(again, LATER, "one")
    await found(again, SECOND)
    assert [line for server in (one, two, again) for line in server.complaints()] == []


@of_format_1
async def test_an_index_of_format_1_is_taken_over_and_given_back(
    start: Start, glances: dict[str, StandIn], own_redis: RedisServer
) -> None:
    """Programs of format 1 cannot read what newer ones store of a sweep: they say so. Without it
    they go on (docs/upgrading.md)."""
    old = start("old")
    await register(old, "two", glances["two"])
    await found(old, SECOND, "two")
    assert (await old.call("PUT", f"/locations/two/images/{BY_HAND}"))[0] == 201
    assert old.stop() == 0
    new = start("new")
    for text in (FIRST, SECOND, BY_HAND):
        await found(new, text, "two")
    await register(new, "one", glances["one"])
    await found(new, FIRST, "one", "two")
    assert new.complaints() == []
    again = start("old")

    async def refuses() -> bool:
        return (await again.call("GET", f"/resolve/{LATER}"))[0] == 503

    await wait_until(refuses, message="the program of format 1 does not answer")
    assert "cannot be read" in again.log.read_text()
    await found(new, FIRST, "one", "two")
    assert (new.stop(), again.stop()) == (0, 0)
    own_redis.ask("DEL", "glr:{reg}:status", "glr:{reg}:progress")
    old = start("old")
    glances["one"].add(id=LATER)
    for text, owners in ((FIRST, ("one", "two")), (SECOND, ("two",)), (LATER, ("one",))):
        await found(old, text, *owners)


@of_format_2
async def test_an_older_version_refuses_an_index_with_spread_ids(
    start: Start, glances: dict[str, StandIn]
) -> None:
    """Its own index has such ids after a rebuild that an operator requested."""
    old, new = start("old"), start("new")
    await register(old, "two", glances["two"])
    for server in (old, new):
        await found(server, SECOND, "two")
    status, body = await new.call("POST", "/index/rebuild", json={"bits": 6})
    assert status == 202, body

    async def is_rebuilt() -> bool:
        _, index = await new.call("GET", "/index")
        return index["bits"] == 6 and index["rebuild"] is None

    await wait_until(is_rebuilt, message="the index is rebuilt")
    for text in (FIRST, SECOND):
        await found(new, text, "two")

    async def refuses() -> bool:
        status, _ = await old.call("GET", f"/resolve/{LATER}")
        return status == 503 and "format 3" in old.log.read_text()

    await wait_until(refuses, message="the older version refuses to answer, and says why")
    assert old.stop() == 0
    with pytest.raises(ServerUnavailableError, match="index in Redis has format 3"):
        start("old")
    await found(new, SECOND, "two")
    glances["two"].add(id=BY_HAND)
    await found(new, BY_HAND, "two")
