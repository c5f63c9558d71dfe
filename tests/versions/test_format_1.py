"""Programs of format 1 and of this version on one index, in both directions: a rolling upgrade, and
the way back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from resolver.models import format_id
from resolver.standin import StandIn
from tests.support.ids import make_ids
from tests.support.redis import RedisServer
from tests.support.wait import wait_until
from tests.versions.released_tree import FORMAT_1_COMMIT, ROOT, VersionedServer, unpack

pytestmark = pytest.mark.redis
FIRST, SECOND, BY_HAND, LATER = [format_id(image_id) for image_id in make_ids(4)]

Start = Callable[[str], VersionedServer]
"""Starts a server of the version ``old`` or ``new``."""


@pytest.fixture(scope="module")
def old_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(FORMAT_1_COMMIT, tmp_path_factory.mktemp("format-1"))


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


@pytest.mark.parametrize(("first", "then"), [("old", "new"), ("new", "old")])
async def test_two_versions_serve_and_change_one_index(
    start: Start, glances: dict[str, StandIn], first: str, then: str
) -> None:
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
