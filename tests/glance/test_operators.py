"""An operator's week, on a real Keystone and the real Glance servers of two regions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from resolver.errors import LocationUnavailable
from resolver.glance import CloudCredentials, CloudRef, GlanceServer, connect, keystone, sees_all
from resolver.models import Location
from tests.glance.gateway import OPERATOR_TOKEN, Gateway
from tests.glance.keystone_cloud import TUESDAY, Cloud
from tests.support.wait import wait_until_blocking

pytestmark = pytest.mark.glance

WAIT_SECONDS = 60.0
NOWHERE = "00000000-0000-4000-8000-000000000000"
BOARD = "board-token"
THURSDAY = "thursday-s-password"


@pytest.fixture
def gateway(cloud: Cloud, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway without locations."""
    env = {
        "OS_CLIENT_CONFIG_FILE": str(cloud.file),
        "RESOLVER_LOG_LEVEL": "debug",
        "RESOLVER_POLL_INTERVAL": "1",
        "RESOLVER_ADMIN_TOKENS": f"op={OPERATOR_TOKEN},board:ro={BOARD}",
    }
    running = Gateway(tmp_path, [], (), env)
    yield running.start()
    assert running.stop() == 0, running.log.read_text()


def rows(gateway: Gateway) -> dict[str, Any]:
    ran = gateway.operator("locations", "list", "--json")
    assert ran.status == 0, ran
    return {row["name"]: row for row in json.loads(ran.out)}


def covered(gateway: Gateway) -> bool:
    found = gateway.admin("/locations").json()["locations"]
    return bool(found) and all(row["coverage"]["covered"] for row in found)


def ok(gateway: Gateway, *arguments: str) -> str:
    """The output of a command that must succeed."""
    ran = gateway.operator(*arguments)
    assert ran.status == 0, f"{arguments}: {ran}\n{gateway.log.read_text()[-3000:]}"
    return ran.out.decode()


def discovered(gateway: Gateway) -> None:
    ok(gateway, "locations", "discover", "--cloud", "prod", "--yes")
    wait_until_blocking(lambda: covered(gateway), WAIT_SECONDS, "both regions are swept")


def owners(gateway: Gateway, image: str) -> list[str]:
    answer = gateway.get(f"/resolve/{image}").json()
    return [owner["location"] for owner in answer.get("owners", [])]


def test_regions_are_discovered_and_added(gateway: Gateway, cloud: Cloud) -> None:
    shown = ok(gateway, "locations", "discover", "--cloud", "prod")
    for region, server in cloud.servers.items():
        assert f"{region.lower()}\t{region}\tpublic\t{server.url}\tnew" in shown
    assert rows(gateway) == {}, "they are only shown"
    discovered(gateway)
    assert "there already" in ok(gateway, "locations", "discover", "--cloud", "prod")
    found = rows(gateway)
    assert set(found) == {"frankfurt", "oslo"}
    assert found["oslo"]["auth"] == {"cloud": "prod"}
    assert found["oslo"]["sweep"]["sees_all_why"] == "it may list tasks, which is for admins"
    for region, image in cloud.images.items():
        assert owners(gateway, image.id) == [region.lower()]
        assert region.lower() in ok(gateway, "resolve", image.id)
    # On a busy machine the first question may take longer than a probe.
    wait_until_blocking(
        lambda: gateway.operator("resolve", NOWHERE).status == 3, WAIT_SECONDS, "it is absent"
    )
    checked = ok(gateway, "locations", "check", "oslo")
    assert "roles on its project: " in checked
    assert "no\t" not in checked


def test_no_secret_is_shown(gateway: Gateway) -> None:
    discovered(gateway)
    ok(gateway, "locations", "check", "oslo")
    shown = [
        gateway.log.read_text(),
        ok(gateway, "locations", "list", "--json"),
        ok(gateway, "locations", "show", "oslo"),
        ok(gateway, "locations", "log", "--json"),
        ok(gateway, "index", "export", "-"),
        ok(gateway, "config"),
        gateway.get("/metrics").body.decode(),
        gateway.get(f"/resolve/{NOWHERE}/explain").body.decode(),
    ]
    for text in shown:
        assert TUESDAY not in text
        assert "gAAAA" not in text, "Keystone's tokens begin with this"


def test_a_region_is_drained_and_removed(gateway: Gateway, cloud: Cloud) -> None:
    discovered(gateway)
    image = cloud.shared.id
    first, second = owners(gateway, image)
    ok(gateway, "locations", "set", first, "--state", "draining", "--reason", "new racks")
    assert owners(gateway, image) == [second, first]
    explained = ok(gateway, "resolve", "--explain", image)
    assert f"{second}\t1\tchosen\timage active; state active" in explained
    assert f"{first}\t2\tranked\timage active; state draining" in explained

    alone = cloud.images["Oslo"].id
    reason = ("--state", "maintenance", "--reason", "disks until nine")
    ok(gateway, "locations", "set", "oslo", *reason)
    for path in (f"/v2/images/{alone}", f"/v1/images/{alone}", f"/resolve/{alone}"):
        answer = gateway.get(path)
        assert answer.status == 503
        assert "oslo is in maintenance: disks until nine" in answer.body.decode()
        assert answer.headers["Retry-After"]
    assert gateway.operator("resolve", alone).status == 4
    assert "left out\tin maintenance: disks until nine" in ok_explained(gateway, alone)
    ok(gateway, "locations", "set", "oslo", "--state", "active")
    assert owners(gateway, alone) == ["oslo"]
    assert rows(gateway)["oslo"]["reason"] == "", "the reason of the old state is gone"

    log = json.loads(ok(gateway, "locations", "log", "oslo", "--json"))
    assert (log[0]["by"], log[0]["what"]) == ("op", "change")
    assert log[0]["before"] == {"state": "maintenance", "reason": "disks until nine"}
    assert log[0]["after"] == {"state": "active", "reason": ""}
    refused = gateway.operator("locations", "set", "oslo", "--weight", "2", token=BOARD)
    assert refused.status == 1
    assert refused.err == "glance-resolver: the token 'board' may only read\n"
    assert gateway.operator("locations", "log", token=BOARD).status == 0

    ok(gateway, "locations", "remove", "oslo", "--yes")
    assert gateway.get(f"/resolve/{alone}").status == 404
    assert "remove" in ok(gateway, "locations", "log", "oslo")


def ok_explained(gateway: Gateway, image: str) -> str:
    """The explanation of an id that is not found, which the exit status shows too."""
    ran = gateway.operator("resolve", "--explain", image)
    assert ran.status == 4, ran
    return ran.out.decode()


def test_a_password_is_rotated(gateway: Gateway, cloud: Cloud) -> None:
    discovered(gateway)
    cloud.keystone.password(cloud.user, THURSDAY)  # ends its tokens too
    try:
        failed = gateway.operator("locations", "sweep", "oslo", "--wait")
        assert failed.status == 1
        assert "cloud 'prod' of clouds.yaml gives no token" in failed.err
        checked = gateway.operator("locations", "check", "oslo")
        assert checked.status == 1
        assert "credential: put the credential where `auth` says" in checked.out.decode()
        assert owners(gateway, cloud.images["Oslo"].id) == ["oslo"], "known claims stay"
        cloud.write(THURSDAY)

        def swept() -> bool:
            return gateway.operator("locations", "sweep", "oslo", "--wait").status == 0

        def passes() -> bool:
            """A poll that has failed meanwhile counts until the next one."""
            return gateway.operator("locations", "check", "oslo").status == 0

        wait_until_blocking(swept, WAIT_SECONDS, "the new password is used")
        wait_until_blocking(passes, WAIT_SECONDS, "polls use it, too")
    finally:
        cloud.keystone.password(cloud.user, TUESDAY)
        cloud.write(TUESDAY)


def test_apply_registers_what_the_file_has(gateway: Gateway, cloud: Cloud, tmp_path: Path) -> None:
    file = tmp_path / "locations.yaml"
    oslo = {"url": cloud.servers["Oslo"].url, "region": "Oslo", "auth": {"cloud": "prod"}}

    def write(**locations: Any) -> None:
        file.write_text(yaml.safe_dump({"locations": locations}))

    discovered(gateway)
    write(oslo={**oslo, "weight": 3}, lab={"url": "http://127.0.0.1:9", "api": "v1"})
    shown = ok(gateway, "locations", "apply", str(file), "--dry-run")
    assert "+ lab  http://127.0.0.1:9; api: v1\n~ oslo  weight: 1 -> 3\n" in shown
    assert "unchanged, not in" in shown
    assert "frankfurt (--prune removes them)" in shown
    asked = gateway.operator("locations", "apply", str(file))
    assert (asked.status, "nothing was changed; --yes does it" in asked.err) == (1, True)
    assert set(rows(gateway)) == {"frankfurt", "oslo"}
    ok(gateway, "locations", "apply", str(file), "--yes")
    assert rows(gateway)["oslo"]["weight"] == 3
    assert "nothing to change" in ok(gateway, "locations", "apply", str(file), "--yes")
    write(oslo=oslo)
    pruned = ok(gateway, "locations", "apply", str(file), "--prune", "--yes")
    assert "- frankfurt\n- lab\n" in pruned
    assert set(rows(gateway)) == {"oslo"}
    bad = gateway.operator("locations", "apply", str(tmp_path / "none.yaml"))
    assert bad.status == 1
    assert bad.err.count("\n") == 1


def test_the_credential_of_a_project_member_does_not_prove_absence(
    gateway: Gateway, cloud: Cloud
) -> None:
    url = cloud.servers["Oslo"].url
    ok(gateway, "locations", "add", "oslo", url, "--cloud", "prod-member")
    wait_until_blocking(
        lambda: gateway.admin("/locations/oslo").json()["sweep"]["ended"],
        WAIT_SECONDS,
        "it is swept",
    )
    answer = gateway.get(f"/resolve/{NOWHERE}")
    assert answer.status == 503
    assert "it may not list tasks, which is for admins" in answer.json()["detail"]
    checked = gateway.operator("locations", "check", "oslo")
    assert checked.status == 1
    assert "sees all: give it the credential of an admin" in checked.out.decode()


@pytest.fixture
def cloud_credentials(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> CloudCredentials:
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(cloud.file))
    return CloudCredentials()


def server_of(
    cloud: Cloud, session: Any, name: str, cloud_credentials: CloudCredentials
) -> GlanceServer:
    url = cloud.servers["Oslo"].url
    return GlanceServer(
        session, Location(name="oslo", url=url, auth={"cloud": name}), cloud_credentials
    )


@pytest.mark.parametrize("kind", ["v3applicationcredential", "v3token"])
async def test_other_keystoneauth_plugins_authenticate(
    cloud: Cloud, cloud_credentials: CloudCredentials, kind: str
) -> None:
    token = cloud.keystone.token("resolver", TUESDAY, "admin")
    auth = {"auth_url": f"{cloud.keystone.url}/v3"}
    if kind == "v3token":
        auth |= {"token": token, "project_name": "admin", "project_domain_id": "default"}
    else:
        made = cloud.keystone.application_credential(cloud.user, token)
        auth |= {"application_credential_id": made["id"]}
        auth |= {"application_credential_secret": made["secret"]}
    cloud.file.write_text(yaml.safe_dump({"clouds": {"other": {"auth_type": kind, "auth": auth}}}))
    try:
        async with connect(30) as session:
            server = server_of(cloud, session, "other", cloud_credentials)
            assert (await server.request("/v2/images", {"limit": "1"})).status == 200
            scope = await sees_all(server, await server.versions())
            assert (scope.sees_all, scope.why) == (True, "it may list tasks, which is for admins")
    finally:
        cloud.write(TUESDAY)


async def test_a_cloud_without_authentication_sends_no_token(
    cloud: Cloud, cloud_credentials: CloudCredentials
) -> None:
    sent = await cloud_credentials.auth_headers(CloudRef("open"))
    assert (sent.headers, sent.roles) == ({}, None)


async def test_a_token_that_is_no_longer_accepted_is_renewed_once(
    cloud: Cloud, cloud_credentials: CloudCredentials
) -> None:
    async with connect(30) as session:
        server = server_of(cloud, session, "prod", cloud_credentials)
        assert (await server.request("/v2/images", {"limit": "1"})).status == 200
        first = await cloud_credentials.auth_headers(CloudRef("prod"))
        assert await cloud_credentials.auth_headers(CloudRef("prod")) is first, (
            "shared, and not fetched for each request"
        )
        token = first.headers["X-Auth-Token"]
        headers = {"X-Auth-Token": token, "X-Subject-Token": token}
        async with session.delete(f"{cloud.keystone.url}/v3/auth/tokens", headers=headers):
            pass
        assert (await server.request("/v2/images", {"limit": "1"})).status == 200
        assert await cloud_credentials.auth_headers(CloudRef("prod")) is not first
        # A cloud that this server does not trust is not asked for token after token.
        logins: list[str] = []

        def authenticate(cloud: CloudRef) -> keystone.AuthHeaders:
            logins.append(cloud.name)
            headers = {"X-Auth-Token": "nobody's"}
            return keystone.AuthHeaders(headers, ("admin",), valid_until=float("inf"))

        unknown = server_of(cloud, session, "unknown", CloudCredentials(authenticate))
        for _ in range(4):
            with pytest.raises(LocationUnavailable, match="does not accept the credential"):
                await unknown.request("/v2/images", {"limit": "1"})
        assert len(logins) == 2


async def test_a_credential_is_valid_until_shortly_before_its_token_ends(
    cloud: Cloud, cloud_credentials: CloudCredentials
) -> None:
    """Keystone's tokens last an hour by default."""
    left = (await cloud_credentials.auth_headers(CloudRef("prod"))).valid_until - time.monotonic()
    assert 3300 < left < 3600 - keystone.RENEW_BEFORE_SECONDS + 1


async def test_a_missing_cloud_is_reported(
    cloud: Cloud, cloud_credentials: CloudCredentials
) -> None:
    with pytest.raises(LocationUnavailable, match="Cloud nowhere was not found") as caught:
        await cloud_credentials.auth_headers(CloudRef("nowhere"))
    assert caught.value.problem_code == "no-credential"
