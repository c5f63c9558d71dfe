"""``RESOLVER_READ_AUTH=caller`` with real Keystones and Glance servers of two domains."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import started
from tests.glance.gateway import Gateway
from tests.glance.install import KEYSTONE_PASSWORD, GlanceHome, KeystoneHome
from tests.support.carriers import CARRIERS, Carrier
from tests.support.glance import Answer, GlanceProcess, Image, call
from tests.support.keystone import KeystoneServer

pytestmark = [pytest.mark.glance, pytest.mark.timeout(600)]

NOWHERE = "00000000-0000-4000-8000-000000000000"
PROBLEM = {"Accept": "application/problem+json"}
TIMED = 6
PROBE_TIMEOUT = 60.0
HEAD_START = 0.5


@dataclass
class Clouds:
    """A cloud in the north with two Glance servers, and one in the south."""

    gateway: Gateway
    keystones: dict[str, KeystoneServer]
    servers: dict[str, GlanceProcess]
    tokens: dict[str, str] = field(default_factory=dict)
    """Of alice and bob in the north, carol in the south."""
    images: dict[str, Image] = field(default_factory=dict)
    """Private ones, by the user who may see it."""

    def ask(self, method: str, path: str, token: str = "", **headers: str) -> Answer:
        sent = {**headers, **({"X-Auth-Token": token} if token else {})}
        return call(self.gateway.url, method, path, None, sent)

    def read(self, user: str, image: str, form: str = "/v2/images/%s") -> Answer:
        return self.ask("GET", form % image, self.tokens[user])


def clouds_file(file: Path, keystones: dict[str, KeystoneServer]) -> Path:
    where = {"user_domain_id": "default", "project_name": "admin", "project_domain_id": "default"}
    login = {"username": "admin", "password": KEYSTONE_PASSWORD}
    clouds = {
        name: {"auth": {**where, **login, "auth_url": f"{keystone.url}/v3"}}
        for name, keystone in keystones.items()
    }
    file.write_text(yaml.safe_dump({"clouds": clouds}))
    return file


@pytest.fixture(scope="module")
def clouds(
    keystone_home: KeystoneHome, glance_home: GlanceHome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Clouds]:
    folder = tmp_path_factory.mktemp("callers")

    def glance(name: str, keystone: KeystoneServer) -> GlanceProcess:
        return GlanceProcess(
            glance_home,
            folder / name,
            auth="keystone",
            keystone=keystone.url,
            token=keystone.token("admin", KEYSTONE_PASSWORD, "admin"),
        )

    with (
        KeystoneServer(keystone_home, folder / "north") as north,
        KeystoneServer(keystone_home, folder / "south") as south,
        glance("one", north) as one,
        glance("two", north) as two,
        glance("three", south) as three,
    ):
        keystones = {"north": north, "south": south}
        servers = {"one": one, "two": two, "three": three}
        homes = {"one": "north", "two": "north", "three": "south"}
        locations = {
            name: {"url": server.url, "domain": homes[name], "auth": {"cloud": homes[name]}}
            for name, server in servers.items()
        }
        images, tokens = {}, {}
        for user, server in (("alice", "one"), ("bob", "two"), ("carol", "three")):
            keystone = keystones[homes[server]]
            keystone.user(user, f"{user}-secret", f"{user}-project", "member")
            tokens[user] = keystone.token(user, f"{user}-secret", f"{user}-project")
            projects = keystone.request("GET", f"/v3/projects?name={user}-project").json()
            images[user] = servers[server].create_private(projects["projects"][0]["id"])
        file = folder / "locations.yaml"
        file.write_text(yaml.safe_dump({"locations": locations}))
        env = {
            "OS_CLIENT_CONFIG_FILE": str(clouds_file(folder / "clouds.yaml", keystones)),
            "RESOLVER_READ_AUTH": "caller",
            "RESOLVER_PROBE_TIMEOUT": f"{PROBE_TIMEOUT}",  # a busy machine changes no answer
            "RESOLVER_DOMAINS": ",".join(f"{name}={k.url}" for name, k in keystones.items()),
            "RESOLVER_LOG_LEVEL": "debug",
            "RESOLVER_TRUSTED_PROXIES": "127.0.0.1",
        }
        gateway = Gateway(folder / "gateway", ["--locations", str(file)], tuple(servers), env)
        (folder / "gateway").mkdir()
        yield Clouds(gateway.start(), keystones, servers, tokens, images)
        assert gateway.stop() == 0, gateway.log.read_text()


def test_each_user_gets_only_their_own_image(clouds: Clouds) -> None:
    homes = {"alice": "one", "bob": "two", "carol": "three"}
    for user in clouds.tokens:
        for owner, image in clouds.images.items():
            answer = clouds.read(user, image.id)
            if user == owner:
                assert answer.status == 307
                target = answer.headers["Location"]
                assert target == f"{clouds.servers[homes[user]].url}/v2/images/{image.id}"
                shown = call(target, "GET", f"/v2/images/{image.id}", None, token_of(clouds, user))
                assert shown.json()["id"] == image.id
            else:
                assert answer.status == 404, (user, owner)


def token_of(clouds: Clouds, user: str) -> dict[str, str]:
    return {"X-Auth-Token": clouds.tokens[user]}


def test_forbidden_is_answered_as_absent(clouds: Clouds) -> None:
    """An image of another project, one of another domain, and none."""

    def comparable(path: str, image: str, headers: dict[str, str]) -> tuple[Any, ...]:
        answer = clouds.ask("GET", path % image, clouds.tokens["alice"], **headers)
        varying = {"date", "x-openstack-request-id", "content-length"}
        fields = [(k, v) for k, v in answer.headers.items() if k.lower() not in varying]
        text = answer.body.decode().replace(image, "ID")
        return answer.status, fields, re.sub(r"[0-9.]+( s ago|(?<=\"age\": )[0-9.]+)", "…", text)

    for path in ("/v1/images/%s", "/v2/images/%s", "/v2/images/%s/file", "/resolve/%s"):
        for headers in ({}, PROBLEM) if not path.startswith("/resolve") else ({},):
            seen = [
                comparable(path, image, headers)
                for image in (clouds.images["bob"].id, clouds.images["carol"].id, NOWHERE)
            ]
            seen = [(s, f, re.sub(r'"age": [0-9.]+', '"age": …', t)) for s, f, t in seen]
            assert seen[0] == seen[1] == seen[2]
            assert seen[0][0] == 404


def test_a_listing_shows_the_domain_of_the_user(clouds: Clouds) -> None:
    for user, image in clouds.images.items():
        answer = clouds.ask("GET", "/v2/images", clouds.tokens[user])
        assert [row["id"] for row in answer.json()["images"]] == [image.id]


def test_bad_tokens_are_refused(clouds: Clouds) -> None:
    for token in ("", "no-token", clouds.tokens["alice"] + "x"):
        assert clouds.ask("GET", f"/v2/images/{NOWHERE}", token).status == 401


def test_a_revoked_token_that_was_never_used_is_refused(clouds: Clouds) -> None:
    north = clouds.keystones["north"]
    token = north.token("alice", "alice-secret", "alice-project")
    revoked = call(
        north.url,
        "DELETE",
        "/v3/auth/tokens",
        None,
        {"X-Auth-Token": token, "X-Subject-Token": token},
    )
    assert revoked.status == 204
    assert clouds.ask("GET", f"/v2/images/{clouds.images['alice'].id}", token).status == 401


def test_tokens_go_to_servers_of_their_own_domain(clouds: Clouds) -> None:
    """What others ask about, `three` is not asked."""
    before = len(clouds.servers["three"].accesses())
    north_images = {clouds.images[user].id for user in ("alice", "bob")}
    assert clouds.read("alice", clouds.images["carol"].id).status == 404
    for user in ("alice", "bob"):
        clouds.read(user, clouds.images[user].id, "/resolve/%s?fresh=1")
    asked = "\n".join(clouds.servers["three"].accesses()[before:])
    assert not [image for image in north_images if image in asked]
    log = clouds.gateway.log.read_text()
    assert not [token for token in clouds.tokens.values() if token in log]


def test_forbidden_takes_as_long_as_absent(clouds: Clouds) -> None:
    """The medians, in turn. Both wait for the same time before all locations are asked."""
    seconds: dict[str, list[float]] = {clouds.images["bob"].id: [], NOWHERE: []}
    for _ in range(TIMED):
        for image, taken in seconds.items():
            started = time.perf_counter()
            assert clouds.read("alice", image).status == 404
            taken.append(time.perf_counter() - started)
    forbidden, absent = (statistics.median(taken) for taken in seconds.values())
    print(json.dumps({"forbidden": forbidden, "absent": absent}))
    assert forbidden > HEAD_START
    assert absent > HEAD_START
    assert abs(forbidden - absent) < 0.5 * max(forbidden, absent)


@pytest.mark.balancer
@pytest.mark.parametrize("kind", CARRIERS, ids=lambda kind: str(kind.name))
def test_an_endpoint_that_carries_bytes_serves_each_user_their_own(
    clouds: Clouds, kind: type[Carrier]
) -> None:
    """A proxy passes tokens on, so it carries what the user may see and nothing else."""
    with closing(started(kind(clouds.gateway.port))) as carrier:

        def ask(user: str, method: str, path: str, body: Any = None) -> Answer:
            token = token_of(clouds, user) if user else {}
            return call(carrier.url, method, path, body, token)

        for user in clouds.tokens:
            for owner, image in clouds.images.items():
                shown = ask(user, "GET", f"/v2/images/{image.id}/file")
                seen = (200, image.data) if user == owner else (404, shown.body)
                assert (shown.status, shown.body) == seen, (user, owner)
        forbidden, absent = (
            ask("alice", "DELETE", f"/v2/images/{image}")
            for image in (clouds.images["bob"].id, NOWHERE)
        )
        text = forbidden.body.decode().replace(clouds.images["bob"].id, NOWHERE)
        assert (forbidden.status, text) == (absent.status, absent.body.decode())
        assert absent.status == 404
        assert ask("", "GET", f"/v2/images/{clouds.images['alice'].id}/file").status == 401

        made = ask(
            "carol", "POST", "/v2/images", {"disk_format": "raw", "container_format": "bare"}
        )
        assert made.status == 201, made
        path = f"/v2/images/{made.json()['id']}"
        assert clouds.servers["three"].request("GET", path).status == 200  # of carol's cloud
        assert ask("alice", "PUT", f"{path}/file", b"x").status == 404
        assert ask("carol", "PUT", f"{path}/file", b"content").status == 204
        assert ask("carol", "GET", f"{path}/file").body == b"content"
        assert ask("carol", "DELETE", path).status == 204


def test_keystone_away_is_unknown(clouds: Clouds) -> None:
    """The last test: it stops a server. A token that is remembered reads on."""
    image = clouds.images["alice"].id
    token = clouds.keystones["north"].token("alice", "alice-secret", "alice-project")
    assert clouds.read("alice", image).status == 307
    clouds.keystones["north"].stop()
    assert clouds.read("alice", image).status == 307
    answer = clouds.ask("GET", f"/v2/images/{image}", token, **PROBLEM)
    assert (answer.status, answer.json()["code"]) == (503, "token-unchecked")
    assert answer.json()["outcome"] == "unknown"
