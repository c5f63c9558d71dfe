"""Both clients download: the next owner, resumed, verified, and with whose token."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from glance_resolver_client import (
    AsyncClient,
    DownloadError,
    ImageAbsentError,
    ImageUnknownError,
    Owner,
    Retries,
)

from resolver.models import format_id
from resolver.standin import StandIn
from tests.client.conftest import Connect, Side
from tests.client.servers import Bytes, Scripted, found, owner, scripted
from tests.gateway.conftest import Gateway
from tests.support import faults
from tests.support.clouds import Cloud
from tests.support.ids import make_ids
from tests.support.wait import wait_until

(ID,) = (format_id(image_id) for image_id in make_ids(1))
DATA = random.Random(1).randbytes(300_000)
SHA512 = hashlib.sha512(DATA).hexdigest()
OTHER = random.Random(2).randbytes(300_000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The destination, in an empty directory."""
    return tmp_path / "disk.img"


def files(file: Path) -> list[str]:
    return sorted(path.name for path in file.parent.iterdir())


async def add(cloud: Cloud, name: str, data: bytes = DATA, **options: Any) -> StandIn:
    """A location that has the image; those that are added first come first."""
    server = await cloud.add(name, fields={"priority": len(cloud.servers) + 1}, **options)
    server.add(id=ID, data=data)
    await cloud.claim(name, ID)
    return server


async def no_bytes(_: web.Request, __: Handler) -> web.StreamResponse:
    """As Glance answers for an image that is queued."""
    return web.Response(status=204)


def content(file: Path) -> bytes:
    return file.read_bytes()


async def test_an_image_is_downloaded(client: Side, cloud: Cloud, file: Path) -> None:
    await add(cloud, "one")
    download = await client.call("download", ID, file)
    assert content(file) == DATA
    assert (download.id, download.path, download.size) == (ID, file, len(DATA))
    assert (download.location, download.hash_algo, download.hash_value) == ("one", "sha512", SHA512)
    assert files(file) == ["disk.img"]


async def test_an_empty_image(client: Side, cloud: Cloud, file: Path) -> None:
    """Glance answers 204 where there is nothing to send."""
    await add(cloud, "one", b"")
    assert (await client.call("download", ID, file)).size == 0
    assert content(file) == b""


async def test_only_md5_is_known(client: Side, cloud: Cloud, file: Path) -> None:
    await add(cloud, "old", v1=True, v2=False)
    download = await client.call("download", ID, file)
    assert content(file) == DATA
    assert (download.hash_algo, download.hash_value) == ("md5", hashlib.md5(DATA).hexdigest())


@pytest.mark.parametrize(
    "fault",
    [
        faults.status(500),
        faults.status(503, **{"Retry-After": "3600"}),
        faults.status(403),
        faults.status(404),
        faults.body("no JSON"),
        faults.cut,
        faults.circle,
        faults.endless,
        Bytes(then=no_bytes),
    ],
)
async def test_the_next_owner_is_asked(
    client: Side, cloud: Cloud, file: Path, fault: faults.Fault
) -> None:
    await add(cloud, "one")
    await add(cloud, "two")
    cloud.set_fault("one", fault)
    assert (await client.call("download", ID, file)).location == "two"
    assert content(file) == DATA


async def test_owners_can_be_excluded(client: Side, cloud: Cloud, file: Path) -> None:
    one = await add(cloud, "one")
    await add(cloud, "two")
    assert (await client.call("download", ID, file, exclude=["one"])).location == "two"
    assert one.requests["GET", "file"] == 0


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_broken_connection_is_resumed(
    client: Side, cloud: Cloud, file: Path, ranges: bool
) -> None:
    await add(cloud, "one")
    sent = Bytes(cuts=[100_000, 150_000], ranges=ranges)
    cloud.set_fault("one", sent)
    assert (await client.call("download", ID, file)).location == "one"
    assert content(file) == DATA
    second = 250_000 if ranges else 150_000
    assert sent.asked == [None, "bytes=100000-", f"bytes={second}-"]


async def test_the_next_owner_goes_on(client: Side, cloud: Cloud, file: Path) -> None:
    await add(cloud, "one")
    await add(cloud, "two")
    cloud.set_fault("one", Bytes(cuts=[100_000], then=faults.status(500)))
    rest = Bytes()
    cloud.set_fault("two", rest)
    assert (await client.call("download", ID, file)).location == "two"
    assert content(file) == DATA
    assert rest.asked == ["bytes=100000-"]


async def test_an_owner_that_sends_no_more_bytes_is_given_up(
    client: Side, cloud: Cloud, file: Path
) -> None:
    await add(cloud, "one")
    sent = Bytes(cuts=[10] * 100)
    cloud.set_fault("one", sent)
    with pytest.raises(DownloadError):
        await client.call("download", ID, file)
    assert len(sent.asked) < 10
    assert files(file) == []


@pytest.fixture
def existing_file(file: Path) -> Path:
    file.write_bytes(b"as it was")
    return file


async def test_bytes_with_a_wrong_checksum_never_replace_the_file(
    client: Side, cloud: Cloud, existing_file: Path
) -> None:
    """Of one owner they are replaced by those of the next; of all, a file that was there stays."""
    file = existing_file
    for name in ("one", "two"):
        await add(cloud, name)
        cloud.set_fault(name, Bytes(data=OTHER))
    with pytest.raises(DownloadError, match="checksum") as caught:
        await client.call("download", ID, file)
    assert set(caught.value.failures) == {"one", "two"}
    assert content(file) == b"as it was"
    assert files(file) == ["disk.img"]
    cloud.set_fault("two", None)
    assert (await client.call("download", ID, file)).location == "two"
    assert content(file) == DATA


async def test_wrong_bytes_before_a_break_are_not_kept(
    client: Side, cloud: Cloud, file: Path
) -> None:
    await add(cloud, "one")
    await add(cloud, "two")
    wrong = Bytes(data=OTHER, cuts=[100_000], then=faults.status(500))
    cloud.set_fault("one", wrong)
    right = Bytes()
    cloud.set_fault("two", right)
    await client.call("download", ID, file)
    assert content(file) == DATA
    assert right.asked == ["bytes=100000-", None]


async def test_bytes_of_two_images_are_not_mixed(client: Side, cloud: Cloud, file: Path) -> None:
    await add(cloud, "one")
    await add(cloud, "other", OTHER)
    cloud.set_fault("one", Bytes(cuts=[100_000], then=faults.status(500)))
    with pytest.raises(DownloadError, match="other: its bytes are not known to be those"):
        await client.call("download", ID, file)
    assert files(file) == []


async def test_more_bytes_than_the_image_has(client: Side, cloud: Cloud, file: Path) -> None:
    await add(cloud, "one")
    cloud.set_fault("one", Bytes(data=DATA + OTHER))
    with pytest.raises(DownloadError, match=r"more bytes|checksum"):
        await client.call("download", ID, file)
    assert files(file) == []


async def test_without_a_checksum(client: Side, cloud: Cloud, file: Path) -> None:
    async def no_hash(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.endswith("/file"):
            return await Bytes()(request, handler)
        return web.json_response({"id": ID, "size": len(DATA), "os_hash_value": None})

    await add(cloud, "one")
    cloud.set_fault("one", no_hash)
    with pytest.raises(DownloadError, match="no checksum"):
        await client.call("download", ID, file)
    assert (await client.call("download", ID, file, verify=False)).hash_algo is None
    assert content(file) == DATA


async def test_absent_and_unknown_images_are_different_errors(
    client: Side, cloud: Cloud, file: Path
) -> None:
    await cloud.add("one")
    cloud.set_fault("one", faults.status(500))
    with pytest.raises(ImageUnknownError):
        await client.call("download", ID, file)
    cloud.set_fault("one", None)
    with pytest.raises(ImageAbsentError):
        await client.call("download", ID, file)


async def test_an_index_that_is_out_of_date(client: Side, cloud: Cloud, file: Path) -> None:
    """The gateway is asked again, and asks the locations itself."""
    (await add(cloud, "one")).delete(ID)
    (await cloud.add("two")).add(id=ID, data=DATA)
    assert (await client.call("download", ID, file)).location == "two"


async def test_a_pending_image_is_asked_for_again(connect: Connect, file: Path) -> None:
    async with StandIn() as one:
        one.add(id=ID, data=DATA)
        url = f"{one.url}/v2/images/{ID}"
        pending = found(ID, [owner("one", url, status="pending")])
        async with scripted(pending, found(ID, [owner("one", url)])) as gateway:
            client = connect(gateway.url, retries=Retries(1))
            assert (await client.call("download", ID, file)).location == "one"
            assert [target for target, _ in gateway.requests] == [
                f"/resolve/{ID}",
                f"/resolve/{ID}?fresh=1",
            ]


async def test_tokens_are_sent_to_the_chosen_owners_only(connect: Connect, file: Path) -> None:
    """To the owners that the caller says, and never to the gateway."""
    one, two = Bytes(then=faults.status(500)), Bytes()
    async with (
        StandIn(middlewares=[middleware(one)]) as first,
        StandIn(middlewares=[middleware(two)]) as second,
    ):
        owners = []
        for name, server in {"one": first, "two": second}.items():
            server.add(id=ID, data=DATA)
            owners.append(owner(name, f"{server.url}/v2/images/{ID}"))
        async with scripted(found(ID, owners)) as gateway:
            client = connect(gateway.url)
            for token, first_gets, second_gets in (
                (None, None, None),
                ("secret", "secret", "secret"),
                (only_for_two, None, "secret"),
            ):
                one.tokens.clear()
                two.tokens.clear()
                await client.call("download", ID, file, location_token=token)
                assert one.tokens == [first_gets] * 2
                assert two.tokens == [second_gets] * 2
            assert set(gateway.tokens()) == {None}


def middleware(fault: faults.Fault) -> Any:
    switch = faults.Switch()
    switch.fault = fault
    return switch.middleware


def only_for_two(owner: Owner) -> str | None:
    return "secret" if owner.location == "two" else None


async def test_no_token_follows_a_redirect(client: Side, cloud: Cloud, file: Path) -> None:
    async with scripted(Scripted()) as elsewhere:
        await add(cloud, "one")
        place = f"{elsewhere.url}/v2/images/{ID}/file"
        cloud.set_fault("one", Bytes(then=faults.status(302, Location=place)))
        with pytest.raises(DownloadError, match="redirect"):
            await client.call("download", ID, file, location_token="secret")
        cloud.set_fault("one", faults.status(307, Location=place))
        with pytest.raises(DownloadError, match="redirect"):
            await client.call("download", ID, file, location_token="secret")
        assert elsewhere.requests == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", f"http://a@b/v2/images/{ID}", "http://a/"])
async def test_owners_without_an_image_url(connect: Connect, file: Path, url: str) -> None:
    async with scripted(found(ID, [owner("one", url)])) as gateway:
        with pytest.raises(DownloadError, match="its URL is not that of an image"):
            await connect(gateway.url).call("download", ID, file)


async def test_a_file_that_cannot_be_created_is_an_error(
    client: Side, cloud: Cloud, tmp_path: Path
) -> None:
    await add(cloud, "one")
    with pytest.raises(FileNotFoundError):
        await client.call("download", ID, tmp_path / "missing" / "disk.img")


async def test_a_cancelled_download_leaves_no_file(
    gateway: Gateway, cloud: Cloud, file: Path
) -> None:
    async def half(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.endswith("/file"):
            return await handler(request)
        response = web.StreamResponse(headers={"Content-Length": str(len(DATA))})
        await response.prepare(request)
        await response.write(DATA[:1000])
        await asyncio.Event().wait()
        raise AssertionError

    await add(cloud, "one")
    cloud.set_fault("one", half)
    async with AsyncClient(gateway.url) as client:
        task = asyncio.create_task(client.download(ID, file))
        await wait_until(lambda: bool(files(file)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert files(file) == []
