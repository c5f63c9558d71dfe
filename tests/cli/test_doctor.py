"""``glance-resolver doctor``: each line yes or no, with what to do."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from resolver.certificate_dates import CertificateError, expiry_of_file, expiry_of_server
from resolver.cli import cli
from resolver.index import open_index
from resolver.models import Location, State, Sweep
from resolver.standin import StandIn
from resolver.standin.call import Caller
from resolver.sync import ProcessWatch, WorkKey, WorkKind
from tests.cli.test_serve import Server, found, get, run, serve
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


async def covered(server: Server) -> bool:
    _, status = await get(f"{server.url}/status")
    return bool(status["locations"]["covered"])


def test_without_redis_and_without_a_process_nothing_is_well() -> None:
    """As in a shell that lacks the environment of `serve`."""
    result = doctor("memory:", RESOLVER_PORT=str(free_port()))
    assert result.exit_code == 1, result.output
    ok, text, fix = rows(result.stdout)["process"]
    assert ok == "no"
    assert "RESOLVER_REDIS_URL is not set here" in text
    assert "RESOLVER_CONFIG" in fix


async def test_an_index_in_memory_is_examined_by_its_process() -> None:
    async with StandIn() as one, serve("--location", f"one={one.url}") as server:
        port = server.url.rpartition(":")[2]
        image = one.add(name="a").id
        await wait_until(lambda: found(server, image))
        status, out, _ = await run("doctor", "--json", RESOLVER_PORT=port)
        assert status == 0, out
        assert [line["name"] for line in json.loads(out)["checks"]] == ["settings", "process"]
        token = re.search(r"admin token for this run: (\S+)", server.output)
        assert token is not None
        environ = {"RESOLVER_URL": server.url, "RESOLVER_TOKEN": token[1]}
        await run("locations", "set", "one", "--state", "maintenance", **environ)
        status, out, _ = await run("doctor", RESOLVER_PORT=port)
    assert status == 1
    ok, _, fix = rows(out)["no-location"]
    assert (ok, "--state active" in fix) == ("no", True)


@pytest.mark.redis
async def test_a_healthy_installation_passes_every_check(own_redis: RedisServer) -> None:
    environ = {"RESOLVER_REDIS_URL": own_redis.url}
    async with StandIn() as one:
        image = one.add(name="a").id
        options = ("--port", "0", "--location", f"one={one.url}")
        async with serve(options=options, **environ) as server:
            await wait_until(lambda: found(server, image))
            await wait_until(lambda: covered(server))
            status, out, err = await run("doctor", **environ)
    assert status == 0, out + err
    lines = rows(out)
    assert {row[0] for row in lines.values()} == {"yes"}
    assert {"settings", "redis", "clock", "indexer", "versions", "location one"} <= lines.keys()
    assert lines["location one"][1] == "it passes each test, and is covered"


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
            await wait_until(lambda: covered(server))
            _, out, _ = await run("doctor", **environ)
    assert rows(out)["location one"][0] == "yes", out


@pytest.mark.redis
def test_an_empty_redis_stays_empty(own_redis: RedisServer) -> None:
    """It was never used, or has lost its data."""
    result = doctor(own_redis.url, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["ok"] is False
    checks = {check["name"]: check for check in found["checks"] if not check["ok"]}
    assert checks.keys() == {"gateway", "indexer", "index"}
    assert "serve --role indexer" in checks["indexer"]["fix"]
    assert "docs/disaster.md" in checks["index"]["fix"]
    assert own_redis.ask("KEYS", "*") == [], "it makes no index"


@pytest.mark.redis
async def test_what_is_wrong_with_what_is_stored(own_redis: RedisServer) -> None:
    """No location, one that is not in service, lost ones, failing sweeps, and old processes."""

    async def failed() -> tuple[int, dict[str, list[str]]]:
        result = await asyncio.to_thread(doctor, own_redis.url)
        wrong = {name: row for name, row in rows(result.stdout).items() if row[0] == "no"}
        return result.exit_code, wrong

    async with StandIn() as one, open_index(own_redis.url) as index:
        status, lines = await failed()
        assert (status, lines.keys()) == (1, {"gateway", "indexer", "locations"})
        assert "locations add NAME URL" in lines["locations"][2]
        await ProcessWatch(index, "all", version="0.0.9").announce()
        assert await index.lease(WorkKey(WorkKind.HEALTH).lease_name, seconds=60).acquire()
        location = await index.records.put(Location(name="one", url=one.url), None)
        status, lines = await failed()
        assert (status, lines.keys()) == (3, {"versions", "location one"})
        assert "restart the processes" in lines["versions"][2]
        assert "not swept yet" in lines["location one"][1]
        now = time.time()
        sweep = Sweep(started=now, ended=now, sees_all=True, error="x", error_code="bad-listing")
        await index.records.set_sweep(location.number, sweep)
        status, lines = await failed()
        assert (status, "(bad-listing)" in lines["location one"][1]) == (3, True)
        await one.stop()
        status, lines = await failed()
        assert (status, lines["locations"][1]) == (1, "none answers")
        assert lines["location one"][1].startswith("versions: ")
        record = (await index.records.load()).records["one"]
        away = replace(location, state=State.MAINTENANCE)
        await index.records.put(away, record)
        status, lines = await failed()
        assert (status, "--state active" in lines["locations"][2]) == (1, True)


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
    failed = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert failed["redis-rights"]["ok"], "it works with less"
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
    result = doctor("memory:", "--json", RESOLVER_PORT=str(free_port()), **files.environ)
    lines = {line["name"]: line for line in json.loads(result.stdout)["checks"]}
    line = lines["certificate"]
    assert (line["ok"], line["required"]) == (status == 0, status == 1)
    assert bool(line["fix"]) == (status != 0)
    assert text in line["text"]


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
