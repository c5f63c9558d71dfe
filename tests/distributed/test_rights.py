"""The rights that the documents list suffice, each is needed, and what is missing is named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

import resolver
from resolver.errors import SettingsError
from resolver.index import Finding, Index, open_index
from resolver.index.preflight import OPTIONAL_RIGHTS, acl_rules
from resolver.index.server_state import read_states
from resolver.models import Check, Health, Location, Poll, Progress, Sweep
from resolver.services import open_services
from resolver.settings import Settings
from resolver.sync import ProcessWatch
from tests.support.cluster import RedisCluster
from tests.support.ids import make_ids
from tests.support.redis import RedisServer
from tests.support.sentinel import Sentinels

pytestmark = pytest.mark.redis

ROOT = Path(resolver.__file__).parent
STORAGE = (ROOT.parent / "docs" / "storage.md").read_text("utf-8")
PASSWORD = "pw"
OF_CLUSTER = {"cluster|slots": ("CLUSTER", "SLOTS"), "asking": ("ASKING",)}
OF_SENTINEL = {"role": ("ROLE",)}
OF_DATABASE = {"select": ("SELECT", 3)}


def allow(servers: Sequence[RedisServer], rules: Sequence[str]) -> None:
    """Gives the login `glr` these rights and no others."""
    for server in servers:
        server.ask("ACL SETUSER", "glr", "reset", "on", f">{PASSWORD}", *rules)


def url(server: RedisServer, database: int = 0) -> str:
    return f"redis://glr:{PASSWORD}@{server.address}/{database}"


async def use_everything(index: Index) -> None:
    """Does whatever a process of the resolver does with an index."""
    await index.create_if_missing()
    records, claims = index.records, index.claims
    location = await records.put(Location(name="one", url="http://one.example"), None, by="me")
    number = location.number
    await records.set_check(number, Check(at=1.0, health=Health.UP), location)
    await records.set_poll(number, Poll(ended=1.0), location, quiet=True)
    await records.set_sweep(number, Sweep(ended=1.0), location)
    await records.check(number)
    await records.poll(number)
    await records.skip_numbers_through(number + 5)
    assert await records.count() == 1
    await records.restore()
    await index.processes.announce(ProcessWatch(index, "all").info)
    assert len(await index.processes.list()) == 1
    await index.server_time()
    ids = make_ids(40)
    await claims.claim(number, ids)
    await claims.lookup(ids)
    await index.claim_counts.spans(number, since=0.0)
    await index.observations.record_present(number, dict.fromkeys(ids, 0), 0.0)
    await index.observations.record_absent(number, ids[:5])
    await records.begin_progress(number, Progress(started=1.0, at=1.0))
    await records.set_progress(number, Progress(started=1.0, at=1.0), dict.fromkeys(ids, 0))
    await records.sweep_findings(number)
    await records.pin_claim(number, ids[0])
    await records.pinned_claims(number)
    await records.request_sweep(number)
    requests = await records.requested_sweeps()
    await records.finish_sweep_request(number, requests[number])
    await records.end_progress(number)
    lease = index.lease("something", seconds=9)
    assert await lease.acquire()
    assert await lease.renew()
    await lease.release()
    await index.census()
    await index.rebuild.request(9)
    await index.rebuild.run(9, _go_on, drop_after=0)
    await records.remove("one", by="me")
    await claims.purge([number])
    await records.forget_retired([number])
    await index.audit.record("me", "something")
    assert len(await index.audit.last(9)) == 3
    await index.ping()
    assert await read_states(index.client, with_policy=True)


async def _go_on() -> None:
    """No reason to stop."""


def unused(rules: Sequence[str], servers: Sequence[RedisServer]) -> set[str]:
    """Commands that these rules allow, and that were not run since the last call. Redis 6.2 counts
    all subcommands of a command together."""
    names = used(servers)
    return {rule[1:] for rule in rules[1:] if not {rule[1:], rule[1:].split("|")[0]} & names}


def used(servers: Sequence[RedisServer]) -> set[str]:
    """Names of the commands that were run since the last call."""
    found: set[str] = set()
    for server in servers:
        text = server.ask("INFO", "commandstats").decode()
        found |= set(re.findall(r"^cmdstat_([a-z|_]+):calls=[1-9]", text, re.MULTILINE))
        server.ask("CONFIG RESETSTAT")
    return found


async def make_large_index(redis_url: str) -> None:
    """Its buckets are too many to be dropped one by one."""
    async with open_index(redis_url, prefix="glr:large:", bits=18):
        pass


def refused(servers: Sequence[RedisServer]) -> list[object]:
    return [entry for server in servers for entry in server.ask("ACL LOG")]


async def test_the_rights_suffice_and_each_is_used(own_redis: RedisServer) -> None:
    rules = acl_rules("glr:", OF_DATABASE)
    allow([own_redis], rules)
    used([own_redis])
    async with open_index(url(own_redis, 3), bits=8) as index:
        await use_everything(index)
    await make_large_index(url(own_redis, 3))
    assert unused(rules, [own_redis]) == set()
    assert refused([own_redis]) == []


def missing(findings: Sequence[Finding]) -> list[str]:
    """The rules that the findings say to add, each once."""
    fixes = " ".join(finding.fix for finding in findings if not finding.ok)
    return [
        rule
        for command in re.findall(r"`ACL SETUSER glr ([^`]+)`", fixes)
        for rule in command.split()
    ]


@pytest.mark.parametrize("rule", acl_rules("glr:", OF_DATABASE))
async def test_a_missing_right_is_named(own_redis: RedisServer, rule: str) -> None:
    rules = acl_rules("glr:", OF_DATABASE)
    allow([own_redis], [other for other in rules if other != rule])
    async with open_index(url(own_redis, 3), create=False) as index:
        findings = await index.server_watch.examine()
    assert missing(findings) == [rule]
    (lacking,) = (f for f in findings if not f.ok and f.name.endswith("rights"))
    assert lacking.required is (rule[1:] not in OPTIONAL_RIGHTS)
    others = {finding.name for finding in findings if not finding.ok} - {lacking.name}
    assert others == (
        {"client-tracking"}
        if rule == "+client|tracking"
        else {"redis-eviction"}
        if rule == "+info"
        else set()
    )


@pytest.mark.parametrize("pattern", ["~glr:{reg}:*", "%R~glr:*", "~other:*"])
async def test_keys_that_are_not_allowed(own_redis: RedisServer, pattern: str) -> None:
    if not own_redis.knows_acl_rule(pattern):
        pytest.skip("Redis 6.2 does not distinguish keys to read and keys to write")
    allow([own_redis], [pattern, *acl_rules("glr:")[1:]])
    async with open_index(url(own_redis), create=False) as index:
        assert missing(await index.server_watch.examine()) == ["~glr:*"]


async def test_a_start_without_a_right_says_what_to_do(own_redis: RedisServer) -> None:
    allow([own_redis], [rule for rule in acl_rules("glr:") if rule not in ("+zadd", "+time")])
    with pytest.raises(SettingsError, match=r"run `ACL SETUSER glr \+time \+zadd` in Redis"):
        async with open_services(Settings(redis_url=url(own_redis))):
            pass
    assert own_redis.ask("KEYS", "*") == []


async def test_a_preflight_leaves_no_keys_behind(own_redis: RedisServer) -> None:
    allow([own_redis], acl_rules("glr:"))
    async with open_index(url(own_redis), create=False) as index:
        assert all(finding.ok for finding in await index.server_watch.examine())
    assert own_redis.ask("KEYS", "*") == []


async def test_a_full_server_is_not_reported_as_a_missing_right(own_redis: RedisServer) -> None:
    own_redis.ask("CONFIG SET", "maxmemory", 1)
    async with open_index(own_redis.url, create=False) as index:
        findings = {f.name: f for f in await index.server_watch.examine()}
    own_redis.ask("CONFIG SET", "maxmemory", 0)
    assert "OOM" in findings["redis-errors"].text
    assert not any(finding.required and not finding.ok for finding in findings.values())


async def test_a_command_that_is_renamed(own_redis: RedisServer) -> None:
    own_redis.kill()
    own_redis.options = [*own_redis.options, "--rename-command", "EVAL", ""]
    own_redis.start()
    async with open_index(own_redis.url, create=False) as index:
        findings = {f.name: f for f in await index.server_watch.examine()}
    assert findings["redis-commands"].required
    assert findings["redis-commands"].text == "Redis does not know eval"


async def test_the_rights_of_a_cluster(own_cluster: RedisCluster) -> None:
    """Each of its masters is tried."""
    nodes = own_cluster.nodes
    hosts = ",".join(node.address for node in nodes)
    cluster_url = f"redis+cluster://glr:{PASSWORD}@{hosts}"
    rules = acl_rules("glr:", OF_CLUSTER)
    allow(nodes, rules)
    used(nodes)
    await make_large_index(cluster_url)
    async with open_index(cluster_url, bits=8) as index:
        await use_everything(index)
        assert unused(rules, nodes) == {"asking"}
        image_id = make_ids(1)[0]
        key = index.claims.buckets.key(index.claims.buckets.number(image_id))
        source = own_cluster.master_of(key)
        target = next(node for node in own_cluster.masters() if node is not source)
        own_cluster.begin_move(own_cluster.slot(key), source, target)
        await index.claims.claim(1, [image_id])
        assert "asking" in used(nodes)
        own_cluster.end_move(own_cluster.slot(key), source, target)
    assert refused(nodes) == []
    for rule, where in [("+zadd", nodes[:1]), ("+asking", nodes), ("+cluster|slots", nodes)]:
        allow(nodes, rules)
        allow(where, [other for other in rules if other != rule])
        async with open_index(cluster_url, create=False) as index:
            assert missing(await index.server_watch.examine()) == [rule]


async def test_the_rights_behind_sentinels(sentinels: Sentinels) -> None:
    rules = acl_rules("glr:", OF_SENTINEL)
    allow(sentinels.servers, rules)
    for sentinel in sentinels.sentinels:
        sentinel.ask("ACL SETUSER", "watch", "on", f">{PASSWORD}", "+sentinel|masters")
    hosts = sentinels.url.rpartition("@")[2]
    sentinel_url = (
        f"redis+sentinel://glr:{PASSWORD}@{hosts}"
        f"?sentinel_username=watch&sentinel_password={PASSWORD}"
    )
    used(sentinels.servers)
    await make_large_index(sentinel_url)
    async with open_index(sentinel_url, bits=8) as index:
        await use_everything(index)
        assert all(finding.ok for finding in await index.server_watch.examine())
    assert unused(rules, sentinels.servers) == set()
    assert refused(sentinels.servers) == []
    allow(sentinels.servers, [rule for rule in rules if rule != "+role"])
    for sentinel in sentinels.sentinels[:1]:
        sentinel.ask("ACL SETUSER", "watch", "-sentinel")
    async with open_index(sentinel_url, create=False) as index:
        findings = {f.name: f for f in await index.server_watch.examine()}
    assert missing(list(findings.values())) == ["+role"]
    assert sentinels.sentinels[0].address in findings["sentinels"].text
    assert sentinels.sentinels[1].address not in findings["sentinels"].text


def test_the_documents_list_the_rights() -> None:
    shown = re.findall(
        r"^ACL SETUSER resolver on >PASSWORD ((?:.*\\\n)*.*)$", STORAGE, re.MULTILINE
    )
    assert [line.replace("\\\n", " ").split() for line in shown] == [acl_rules("glr:")]
    for more in (OF_CLUSTER, OF_SENTINEL, OF_DATABASE):
        assert f"`{' '.join(f'+{name}' for name in more)}`" in STORAGE


def test_the_preflight_tries_each_command_of_the_scripts() -> None:
    names = {
        name.lower()
        for script in ROOT.rglob("*.lua")
        for name in re.findall(r"redis\.p?call\('(\w+)'", script.read_text())
    }
    assert {f"+{name}" for name in names} - set(acl_rules("glr:")) == set()
