"""`Accept: application/metalink4+xml`: where an image's bytes are, for clients that read from
several owners at once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import pytest

from resolver.image_facts import ImageStatus
from resolver.models import format_id
from resolver.standin.call import Caller
from tests.gateway.conftest import Gateway, Start
from tests.support import faults
from tests.support.clouds import Cloud
from tests.support.contents import ONE
from tests.support.ids import make_ids

ID, UPPER = (format_id(image_id) for image_id in make_ids(2))
UPPER = UPPER.upper()
METALINK = "application/metalink4+xml"
NAMESPACE = "{urn:ietf:params:xml:ns:metalink}"
BYTES = b"the bytes of an image"
PATH = f"/resolve/{ID}"


@dataclass
class Metalink:
    """A parsed document."""

    size: str | None
    hashes: dict[str | None, str | None]
    urls: list[str | None]


async def metalink(gateway: Gateway, path: str = PATH, **headers: str) -> Metalink:
    async with gateway.http.get(path, headers={"Accept": METALINK, **headers}) as response:
        text = await response.text()
        assert response.status == 200, text
        assert response.content_type == METALINK
        assert response.headers["Vary"] == "Accept, X-Auth-Token"
    root = ElementTree.fromstring(text)
    assert root.tag == f"{NAMESPACE}metalink"
    (file,) = root.iter(f"{NAMESPACE}file")
    assert file.get("name") == path.rpartition("/")[2].partition("?")[0].lower()
    urls = list(file.iter(f"{NAMESPACE}url"))
    assert [url.get("priority") for url in urls] == [str(n) for n in range(1, len(urls) + 1)]
    return Metalink(
        file.findtext(f"{NAMESPACE}size"),
        {item.get("type"): item.text for item in file.iter(f"{NAMESPACE}hash")},
        [url.text for url in urls],
    )


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    return await start(probe=True, probe_timeout=5, index_timeout=5)


async def add(cloud: Cloud, name: str, rank: int, data: bytes = BYTES, **options: Any) -> str:
    """A location that has the image. Returns the URL of its bytes."""
    fields = {"priority": rank, "auth": options.pop("auth", None), **options.pop("fields", {})}
    server = await cloud.add(name, fields=fields, **options)
    server.add(id=ID, data=data)
    await cloud.claim(name, ID)
    v1_only = not options.get("v2", True)
    return f"{server.url}/v1/images/{ID}" if v1_only else f"{server.url}/v2/images/{ID}/file"


async def test_a_metalink_has_the_urls_of_owners_with_the_same_bytes(
    gateway: Gateway, cloud: Cloud
) -> None:
    """Found by asking them: the index knows nothing of these claims yet."""
    one = await add(cloud, "one", 1)
    await add(cloud, "other", 2, b"other bytes")
    old = await add(cloud, "old", 3, v1=True, v2=False)
    new = await add(cloud, "new", 4, prefix="/image")
    found = await metalink(gateway)
    assert found.urls == [one, old, new]
    assert found.size == str(len(BYTES))
    assert found.hashes == {
        "sha-512": hashlib.sha512(BYTES).hexdigest(),
        "md5": hashlib.md5(BYTES).hexdigest(),
    }
    assert (await metalink(gateway, f"{PATH}?exclude=one,other")).urls == [old, new]


@pytest.mark.parametrize("status", ["deactivated", "importing", "killed"])
async def test_an_owner_that_shows_another_status_than_the_index_has_is_left_out(
    gateway: Gateway, cloud: Cloud, status: str
) -> None:
    one, two = await add(cloud, "one", 1), await add(cloud, "two", 2)
    for name in ("one", "two", "one"):
        await gateway.claim_with_facts(name, ID, ImageStatus.ACTIVE, ONE)
    cloud.servers["one"].update(ID, status=status)
    assert (await metalink(gateway)).urls == [two]
    cloud.servers["two"].update(ID, status=status)
    assert (await metalink(gateway)).urls == [one, two], "an owner decides who gets its bytes"


async def test_without_answers_a_metalink_has_what_the_index_knows(
    gateway: Gateway, cloud: Cloud
) -> None:
    urls = [await add(cloud, name, rank) for rank, name in enumerate(("one", "two", "three"))]
    for name in ("one", "two", "one"):
        await gateway.claim_with_facts(name, ID, ImageStatus.ACTIVE, ONE)
    for name in cloud.numbers:
        cloud.set_fault(name, faults.status(500))
    found = await metalink(gateway)
    assert (found.size, found.hashes) == (None, {})
    assert found.urls == urls[:2], "of the third, it is not known"
    cloud.set_fault("two", None)
    found = await metalink(gateway)
    assert found.size == str(len(BYTES))
    assert found.urls == [urls[1], urls[0]], "the one that answers is first"


async def test_owners_are_asked_with_the_clients_token_only(
    gateway: Gateway, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image's hash and size are for those to whom Glance shows the image."""
    monkeypatch.setenv("ONE_TOKEN", "operator")
    tokens = {"operator": Caller(project="q", admin=True)}
    one = await add(cloud, "one", 1, tokens=tokens, auth={"token_env": "ONE_TOKEN"})
    two = await add(cloud, "two", 2)
    found = await metalink(gateway)
    assert found.urls == [two], "the first refuses this client"
    found = await metalink(gateway, **{"X-Auth-Token": "operator"})
    assert found.urls == [one, two]


async def test_images_without_bytes_and_without_owners(gateway: Gateway, cloud: Cloud) -> None:
    server = await cloud.add("one")
    response, body = await gateway.get(PATH, headers={"Accept": METALINK})
    assert (response.status, body["code"]) == (404, "image-absent")
    server.add(id=UPPER, status="queued", data=b"")
    response, body = await gateway.get(f"/resolve/{UPPER}", headers={"Accept": METALINK})
    assert (response.status, body["code"]) == (503, "image-pending")
    server.update(UPPER, status="active", data=BYTES)
    found = await metalink(gateway, f"/resolve/{UPPER}?fresh=1")
    assert found.urls == [f"{server.url}/v2/images/{UPPER}/file"]


async def test_a_gateway_without_probes_asks_nobody(start: Start) -> None:
    gateway = await start(probe=False)
    await gateway.location("one", url="https://one.example/a&b")
    await gateway.claim("one", ID)
    found = await metalink(gateway)
    assert found.urls == [f"https://one.example/a&b/v2/images/{ID}/file"]
    assert (found.size, found.hashes) == (None, {})


async def test_a_token_goes_to_locations_of_its_own_domain_only(
    gateway: Gateway, cloud: Cloud
) -> None:
    for rank, name in enumerate(("north", "south")):
        await add(cloud, name, rank, fields={"domain": name, "region": name})

    def asked(name: str) -> int:
        return cloud.servers[name].requests["GET", "image"]

    assert (await metalink(gateway, **{"X-Auth-Token": "t"})).size is None
    assert (asked("north"), asked("south")) == (0, 0), "it may be of either domain"
    path = f"{PATH}?region=south"
    assert (await metalink(gateway, path, **{"X-Auth-Token": "t"})).size == str(len(BYTES))
    assert (asked("north"), asked("south")) == (0, 1)
    await metalink(gateway)
    assert (asked("north"), asked("south")) == (1, 2), "without a token all may be asked"
