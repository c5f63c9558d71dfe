"""``glance-resolver doctor``: each line yes or no, with what to do."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from resolver.cli import cli
from tests.support.process import free_port
from tests.support.redis import RedisServer


def doctor(url: str, *options: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *options], env={"RESOLVER_REDIS_URL": url})


def rows(result: Result) -> dict[str, list[str]]:
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert lines[0] == ["CHECK", "OK", "FOUND", "WHAT TO DO"]
    return {name: rest for name, *rest in lines[1:]}


def test_the_embedded_index_is_well() -> None:
    result = doctor("memory:", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["ok"] is True


@pytest.mark.redis
def test_all_is_well(own_redis: RedisServer) -> None:
    result = doctor(own_redis.url)
    assert result.exit_code == 0
    assert {row[0] for row in rows(result).values()} == {"yes"}
    assert own_redis.ask("KEYS", "*") == [], "it makes no index"


@pytest.mark.redis
def test_what_is_missing_is_named(own_redis: RedisServer) -> None:
    own_redis.ask("ACL SETUSER", "few", "on", ">pw", "~glr:*", "+@all", "-zadd")
    own_redis.ask("CONFIG SET", "maxmemory-policy", "allkeys-lru")
    url = f"redis://few:pw@{own_redis.address}/0"
    result = doctor(url)
    assert result.exit_code == 1
    ok, _, fix = rows(result)["redis-rights"]
    assert ok == "no"
    assert "ACL SETUSER few +zadd" in fix
    assert "pw" not in result.output
    own_redis.ask("ACL SETUSER", "few", "+zadd")
    result = doctor(url, "--json")
    assert result.exit_code == 3, "it works with less"
    (failed,) = (check for check in json.loads(result.stdout)["checks"] if not check["ok"])
    assert (failed["name"], failed["required"]) == ("redis-eviction", False)
    assert "allkeys-lru" in failed["text"]
    assert "noeviction" in failed["fix"]


def test_a_redis_that_does_not_answer() -> None:
    result = doctor(f"redis://:s3cret@127.0.0.1:{free_port()}/0")
    assert result.exit_code == 1
    assert list(rows(result)) == ["redis"]
    assert "s3cret" not in result.output
