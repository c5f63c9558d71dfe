"""clouds.yaml holds for Glance as for Keystone: authorities, client certificates, regions."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from resolver.errors import LocationUnavailable
from resolver.glance import CloudCredentials, GlanceServer, connect
from resolver.glance.cloud_config import CloudRef, read_cloud, regions_of
from resolver.glance.diagnosis import diagnose
from resolver.models import Location
from resolver.standin import StandIn
from tests.support.certificates import Authority, Files
from tests.support.fake_keystone import FakeKeystone

pytest.importorskip("openstack")

WriteClouds = Callable[[dict[str, Any]], Path]


@pytest.fixture
def write_clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteClouds:
    """Writes a clouds.yaml and makes it that of this process."""
    file = tmp_path / "clouds.yaml"
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
    monkeypatch.setenv("OS_CLIENT_SECURE_FILE", str(tmp_path / "secure.yaml"))

    def write(clouds: dict[str, Any]) -> Path:
        file.write_text(yaml.safe_dump({"clouds": clouds}))
        return file

    return write


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with connect(5) as session:
        yield session


async def serve_tls(
    files: Files, client_authority: Authority | None = None
) -> tuple[web.AppRunner, str]:
    """A stand-in with https; with ``client_authority``, only for clients that it certified."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    if client_authority is not None:
        context.load_verify_locations(client_authority.file)
        context.verify_mode = ssl.CERT_REQUIRED
    runner = web.AppRunner(StandIn().app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    return runner, f"https://127.0.0.1:{runner.addresses[0][1]}"


NO_LOGIN = {"auth_type": "none", "auth": {"endpoint": "http://keystone.invalid"}}
"""A cloud without Keystone, so that only Glance is asked."""


async def works(session: aiohttp.ClientSession, url: str, cloud: str) -> bool:
    """Whether both kinds of request succeed: with the credential, and without one."""
    location = Location(name="one", url=url, auth={"cloud": cloud})
    server = GlanceServer(session, location, CloudCredentials())
    assert await server.versions()
    return (await server.request("/v2/images", {"limit": "1"})).status == 200


async def test_without_options_a_private_authority_is_not_trusted(
    session: aiohttp.ClientSession, write_clouds: WriteClouds, authority: Authority
) -> None:
    runner, url = await serve_tls(authority.issue())
    write_clouds({"plain": NO_LOGIN})
    with pytest.raises(LocationUnavailable) as caught:
        await works(session, url, "plain")
    assert caught.value.problem_code == "bad-tls"
    await runner.cleanup()


@pytest.mark.parametrize("kind", ["fifo", "larger than memory", "binary", "missing", "nul\0"])
@pytest.mark.parametrize("option", ["cacert", "cert", "key"])
async def test_a_file_of_another_kind_is_an_error_in_time(
    session: aiohttp.ClientSession,
    write_clouds: WriteClouds,
    authority: Authority,
    tmp_path: Path,
    option: str,
    kind: str,
) -> None:
    file = tmp_path / kind
    match kind:
        case "fifo":
            os.mkfifo(file)
        case "larger than memory":
            file.touch()
            os.truncate(file, 1 << 40)
        case "binary":
            file.write_bytes(bytes(range(256)))
    issued = authority.issue()
    options = {"cert": str(issued.cert), "key": str(issued.key), option: str(file)}
    write_clouds({"one": NO_LOGIN | options})
    with pytest.raises(LocationUnavailable) as caught:
        await works(session, "https://127.0.0.1:1", "one")
    assert caught.value.problem_code == "bad-tls"
    assert caught.value.detail.isprintable()


@pytest.mark.parametrize("options", [{"cacert": "ca.pem"}, {"verify": False}, {"insecure": True}])
async def test_the_authority_of_clouds_yaml_holds_for_glance(
    session: aiohttp.ClientSession,
    write_clouds: WriteClouds,
    authority: Authority,
    tmp_path: Path,
    options: dict[str, Any],
) -> None:
    runner, url = await serve_tls(authority.issue())
    if "cacert" in options:
        options = {"cacert": str(tmp_path / options["cacert"])}
    write_clouds({"private": {**NO_LOGIN, **options}})
    assert await works(session, url, "private")
    await runner.cleanup()


async def test_another_authority_than_that_of_clouds_yaml_is_not_trusted(
    session: aiohttp.ClientSession, write_clouds: WriteClouds, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    runner, url = await serve_tls(Authority(theirs).issue())
    write_clouds({"private": {**NO_LOGIN, "cacert": str(Authority(ours).file)}})
    with pytest.raises(LocationUnavailable, match="certificate"):
        await works(session, url, "private")
    await runner.cleanup()


@pytest.mark.parametrize("verified", [True, False])
async def test_the_client_certificate_of_clouds_yaml_is_presented_to_glance(
    session: aiohttp.ClientSession,
    write_clouds: WriteClouds,
    authority: Authority,
    verified: bool,
) -> None:
    runner, url = await serve_tls(authority.issue(), client_authority=authority)
    trust = {"cacert": str(authority.file)} if verified else {"verify": False}
    client = authority.issue("sweep.example")
    shown = {"cert": str(client.cert), "key": str(client.key)}
    write_clouds({"without": {**NO_LOGIN, **trust}, "with": {**NO_LOGIN, **trust, **shown}})
    assert await works(session, url, "with")
    with pytest.raises(LocationUnavailable):
        await works(session, url, "without")
    await runner.cleanup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cacert": "/nowhere/ca.pem"}, "`cacert` /nowhere/ca.pem: No such file"),
        ({"cert": "/nowhere/c.crt", "key": "/nowhere/c.key"}, "`cert` /nowhere/c.crt: No such"),
        ({"cacert": "/dev/null"}, "`cacert` /dev/null: it is not a regular file"),
        ({"cert": "/dev/null"}, "`cert` /dev/null: it is not a regular file"),
    ],
)
async def test_a_file_that_cannot_be_used_is_named(
    session: aiohttp.ClientSession,
    write_clouds: WriteClouds,
    authority: Authority,
    options: dict[str, str],
    message: str,
) -> None:
    runner, url = await serve_tls(authority.issue())
    write_clouds({"broken": {**NO_LOGIN, **options}})
    location = Location(name="one", url=url, auth={"cloud": "broken"})
    (step,) = await diagnose(GlanceServer(session, location, CloudCredentials()), session)
    assert message in step.message
    assert "clouds.yaml" in step.fix
    await runner.cleanup()


async def test_a_key_with_a_passphrase_is_refused_and_not_asked_for(
    session: aiohttp.ClientSession, write_clouds: WriteClouds, authority: Authority, tmp_path: Path
) -> None:
    cryptography = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    files = authority.issue("sweep.example")
    key = cryptography.load_pem_private_key(files.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            cryptography.Encoding.PEM,
            cryptography.PrivateFormat.PKCS8,
            cryptography.BestAvailableEncryption(b"passphrase"),
        )
    )
    write_clouds({"locked": {**NO_LOGIN, "cert": str(files.cert), "key": str(locked)}})
    with pytest.raises(LocationUnavailable, match="without a passphrase"):
        await works(session, "https://127.0.0.1:9", "locked")


async def test_without_the_file_the_health_of_the_server_is_still_known(
    session: aiohttp.ClientSession, write_clouds: WriteClouds
) -> None:
    write_clouds({})
    async with StandIn() as stand_in:
        location = Location(name="one", url=stand_in.url, auth={"cloud": "nowhere"})
        server = GlanceServer(session, location, CloudCredentials())
        assert await server.versions()
        with pytest.raises(LocationUnavailable, match="nowhere was not found"):
            await server.request("/v2/images")


@pytest.fixture
async def two_keystones() -> AsyncIterator[dict[str, FakeKeystone]]:
    async with FakeKeystone("east") as east, FakeKeystone("west") as west:
        yield {"east": east, "west": west}


@pytest.fixture
def regional(write_clouds: WriteClouds, two_keystones: dict[str, FakeKeystone]) -> None:
    """One cloud with a Keystone for each region, as public clouds have it."""
    login = two_keystones["east"].auth()
    del login["auth_url"]
    regions = [
        {"name": name, "values": {"auth": {"auth_url": keystone.url}}}
        for name, keystone in two_keystones.items()
    ]
    write_clouds({"wide": {"auth": login, "regions": regions}})


@pytest.mark.usefixtures("regional")
@pytest.mark.parametrize(
    ("auth", "region", "token"),
    [
        ({"cloud": "wide"}, "", "east-1"),
        ({"cloud": "wide"}, "elsewhere", "east-1"),
        ({"cloud": "wide"}, "west", "west-1"),
        ({"cloud": "wide", "region": "west"}, "", "west-1"),
        ({"cloud": "wide", "region": "east"}, "west", "east-1"),
    ],
)
async def test_each_region_has_its_own_keystone(
    session: aiohttp.ClientSession, auth: dict[str, str], region: str, token: str
) -> None:
    location = Location(name="one", url="http://127.0.0.1:9", region=region, auth=auth)
    assert await GlanceServer(session, location, CloudCredentials()).credential() == token


@pytest.mark.usefixtures("regional")
async def test_the_credentials_of_two_regions_are_kept_apart(
    two_keystones: dict[str, FakeKeystone],
) -> None:
    credentials = CloudCredentials()
    for _ in range(2):
        for name in ("east", "west"):
            sent = await credentials.auth_headers(CloudRef("wide", name))
            assert sent.headers["X-Auth-Token"] == f"{name}-1"
    assert [keystone.logins for keystone in two_keystones.values()] == [1, 1]


@pytest.mark.usefixtures("regional")
async def test_a_region_that_is_not_in_the_file_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(LocationUnavailable, match="east,west"):
        await CloudCredentials().auth_headers(CloudRef("wide", "north"))


@pytest.mark.usefixtures("regional")
def test_the_regions_of_a_cloud_are_listed() -> None:
    assert regions_of("wide") == ["east", "west"]


async def test_the_password_is_read_from_secure_yaml(
    write_clouds: WriteClouds, two_keystones: dict[str, FakeKeystone], tmp_path: Path
) -> None:
    login = two_keystones["east"].auth()
    secret = {"auth": {"password": login.pop("password")}}
    write_clouds({"split": {"auth": login}})
    (tmp_path / "secure.yaml").write_text(yaml.safe_dump({"clouds": {"split": secret}}))
    sent = await CloudCredentials().auth_headers(CloudRef("split"))
    assert sent.headers["X-Auth-Token"] == "east-1"


def test_the_profile_of_a_vendor_is_read(write_clouds: WriteClouds) -> None:
    write_clouds({"public": {"profile": "switchengines", "auth": {"username": "sweep"}}})
    auth = read_cloud(CloudRef("public")).config["auth"]
    assert auth["auth_url"].startswith("https://keystone.cloud.switch.ch")


async def test_a_secure_yaml_that_is_not_yaml_is_named(
    write_clouds: WriteClouds, tmp_path: Path
) -> None:
    write_clouds({"one": {"profile": "nowhere"}})
    (tmp_path / "secure.yaml").write_text("clouds: [")
    with pytest.raises(LocationUnavailable, match=r"secure\.yaml, line 1"):
        await CloudCredentials().auth_headers(CloudRef("one"))
