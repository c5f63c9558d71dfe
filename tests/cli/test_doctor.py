"""``glance-resolver doctor``: each line yes or no, with what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from resolver.cli import cli
from resolver.cli.certificate_dates import CertificateError, expiry_of_file, expiry_of_server
from resolver.standin import StandIn
from resolver.standin.call import Caller
from tests.cli.test_serve import found, run, serve
from tests.support.certificates import Authority
from tests.support.process import free_port
from tests.support.redis import RedisServer
from tests.support.wait import wait_until


def doctor(url: str, *options: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *options], env={"RESOLVER_REDIS_URL": url, **environ})


def rows(text: str) -> dict[str, list[str]]:
    lines = [line.split("\t") for line in text.splitlines()]
    assert lines[0] == ["CHECK", "OK", "FOUND", "WHAT TO DO"]
    return {name: rest for name, *rest in lines[1:]}


def test_an_index_in_memory_is_that_of_another_process() -> None:
    result = doctor("memory:", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["ok"] is True
    lines = {line["name"]: line for line in found["checks"]}
    assert lines.keys() == {"settings", "index"}
    assert "glance-resolver status" in lines["index"]["fix"]


@pytest.mark.redis
async def test_a_healthy_installation_passes_every_check(own_redis: RedisServer) -> None:
    environ = {"RESOLVER_REDIS_URL": own_redis.url}
    async with StandIn() as one:
        image = one.add(name="a").id
        options = ("--port", "0", "--location", f"one={one.url}")
        async with serve(options=options, **environ) as server:
            await wait_until(lambda: found(server, image))
            status, out, err = await run("doctor", **environ)
    assert status == 0, out + err
    lines = rows(out)
    assert {row[0] for row in lines.values()} == {"yes"}
    assert {"settings", "redis", "clock", "indexer", "versions", "location one"} <= lines.keys()
    assert lines["location one"][1] == "versions, health, credential, listing, sees all"


@pytest.mark.redis
async def test_credentials_are_read_from_where_the_settings_allow(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    """As for the process that serves."""
    token = tmp_path / "token"
    token.write_text("secret")
    environ = {"RESOLVER_REDIS_URL": own_redis.url, "RESOLVER_SECRET_FILES": f"{tmp_path}/*"}
    async with StandIn(tokens={"secret": Caller("admin", admin=True)}) as one:
        file = tmp_path / "locations.yaml"
        locations = {"one": {"url": one.url, "auth": {"token_file": str(token)}}}
        file.write_text(json.dumps({"locations": locations}))
        image = one.add(name="a").id
        options = ("--port", "0", "--locations", str(file))
        async with serve(options=options, **environ) as server:
            await wait_until(lambda: found(server, image))
            _, out, _ = await run("doctor", **environ)
    assert rows(out)["location one"][0] == "yes", out


@pytest.mark.redis
def test_an_empty_redis_stays_empty(own_redis: RedisServer) -> None:
    result = doctor(own_redis.url, "--json")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert found["ok"] is False
    checks = {check["name"]: check for check in found["checks"]}
    assert (checks["indexer"]["ok"], checks["indexer"]["text"]) == (False, "none is running")
    assert "serve --role indexer" in checks["indexer"]["fix"]
    assert checks["locations"]["text"] == "none is registered"
    assert own_redis.ask("KEYS", "*") == [], "it makes no index"


@pytest.mark.redis
async def test_a_location_is_tested_with_the_credentials_of_this_host(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("admin-token")
    environ = {"RESOLVER_REDIS_URL": own_redis.url}
    locations = tmp_path / "locations.yaml"
    async with StandIn() as one:
        locations.write_text(
            f"locations: {{one: {{url: {one.url}, auth: {{token_file: {token}}}}}}}"
        )
        options = ("--port", "0", "--locations", str(locations))
        async with serve(options=options, **environ):
            token.unlink()
            status, out, _ = await run("doctor", **environ)
    assert status == 3
    ok, text, fix = rows(out)["location one"]
    assert (ok, text.partition(":")[0]) == ("no", "credential")
    assert "put the credential where `auth` says" in fix


@pytest.mark.redis
def test_missing_redis_rights_are_named(own_redis: RedisServer) -> None:
    own_redis.ask("ACL SETUSER", "few", "on", ">pw", "~glr:*", "+@all", "-zadd")
    own_redis.ask("CONFIG SET", "maxmemory-policy", "allkeys-lru")
    url = f"redis://few:pw@{own_redis.address}/0"
    result = doctor(url)
    assert result.exit_code == 1
    ok, _, fix = rows(result.stdout)["redis-rights"]
    assert ok == "no"
    assert "ACL SETUSER few +zadd" in fix
    assert "pw" not in result.output
    own_redis.ask("ACL SETUSER", "few", "+zadd")
    result = doctor(url, "--json")
    assert result.exit_code == 3, "it works with less"
    failed = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    eviction = failed["redis-eviction"]
    assert (eviction["ok"], eviction["required"]) == (False, False)
    assert "allkeys-lru" in eviction["text"]
    assert "noeviction" in eviction["fix"]


def test_a_redis_that_does_not_answer() -> None:
    result = doctor(f"redis://:s3cret@127.0.0.1:{free_port()}/0")
    assert result.exit_code == 1
    assert list(rows(result.stdout)) == ["settings", "redis"]
    assert "s3cret" not in result.output


def test_a_wrong_setting_is_one_failed_check() -> None:
    result = doctor("memory:", RESOLVER_PROT="9393")
    assert result.exit_code == 1
    ok, text, _ = rows(result.stdout)["settings"]
    assert ok == "no"
    assert "RESOLVER_PROT" in text


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize(
    ("days", "status", "text"),
    [(90, 0, "valid until"), (3, 3, "valid until"), (-1, 1, "expired")],
)
def test_the_expiry_of_our_certificate_is_checked(
    authority: Authority, days: int, status: int, text: str
) -> None:
    files = authority.issue(not_after=datetime.now(UTC) + timedelta(days=days))
    result = doctor("memory:", **files.environ)
    assert result.exit_code == status, result.output
    ok, found_text, fix = rows(result.stdout)["certificate"]
    assert (ok == "yes") == (status == 0)
    assert bool(fix) == (status != 0)
    assert text in found_text


def test_a_certificate_and_its_key_in_one_file(authority: Authority, tmp_path: Path) -> None:
    expiry = datetime.now(UTC).replace(microsecond=0) + timedelta(days=5)
    files = authority.issue(not_after=expiry)
    both = tmp_path / "both.pem"
    both.write_bytes(files.key.read_bytes() + files.cert.read_bytes())
    assert expiry_of_file(str(both), "") == expiry


def test_files_that_are_not_a_certificate_are_refused(authority: Authority, tmp_path: Path) -> None:
    other = authority.issue()
    for cert, key in ((tmp_path / "none.pem", ""), (other.key, ""), (other.cert, authority.file)):
        with pytest.raises(CertificateError):
            expiry_of_file(str(cert), str(key))


@contextmanager
def trusting(authority: Authority, patch: pytest.MonkeyPatch) -> Iterator[None]:
    with patch.context() as patched:
        patched.setenv("SSL_CERT_FILE", str(authority.file))
        yield


async def test_the_expiry_of_a_servers_certificate_is_checked(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    expiry = datetime.now(UTC).replace(microsecond=0) + timedelta(days=5)
    files = authority.issue(not_after=expiry)
    async with serve(**files.environ) as server:
        port = int(server.url.rpartition(":")[2])
        with trusting(authority, monkeypatch):
            assert await expiry_of_server("127.0.0.1", port) == expiry
        with pytest.raises(CertificateError, match="unable to get local issuer"):
            await expiry_of_server("127.0.0.1", port)
    with pytest.raises(CertificateError):
        await expiry_of_server("127.0.0.1", free_port())
