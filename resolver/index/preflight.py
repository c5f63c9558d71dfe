"""The preflight: tries what the index needs of Redis, and says how to grant what is missing.

Each command is tried on each server, on keys that nothing else uses and that are deleted again. So
a trial needs no right but the one that it tries, while ``ACL DRYRUN`` needs one of its own, and
Redis 6.2 does not have it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resolver.errors import IndexUnavailable
from resolver.index.keys import Keys
from resolver.index.redis.client import Command, RedisClient, Server

TRIAL_SECONDS = 60
"""After this time Redis drops the keys of a trial by itself, where it may not delete them."""

SOME_SHA = "0" * 40
"""Of no script: a login that may run scripts gets NOSCRIPT."""

REACHABLE = "redis"
"""Name of the finding whether Redis answers."""

OPTIONAL_RIGHTS = {
    "client|tracking": "client tracking",
    "hello": "client tracking",  # only early releases of Redis 6.2 refuse it
    "info": "seeing whether Redis evicts keys or was restarted",
    "scan": "making an index with more than 131,072 buckets at once",
    "memory|usage": "the bytes that `index stats` shows",
}
"""Rights without which the index works, and what does not work then."""

SUBCOMMANDS = {"client": "client|tracking", "cluster": "cluster|slots"}
"""What connections send of these commands. Redis 6.2 names only the command that it refuses."""

_NO_PERMISSION = re.compile(r"permissions to (?:run the '([^']+)' command|access)")
_UNKNOWN_COMMAND = re.compile(r"ERR unknown (?:sub)?command", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of a preflight: something that is as it should be, or is not."""

    name: str
    """For machines: words in lower case, joined by hyphens."""
    ok: bool
    text: str
    """What was found."""
    fix: str = ""
    """What to do about it; empty if nothing is to be done."""
    required: bool = True
    """Whether the index cannot work without it."""


class TrialKeys:
    """Keys of each family of names that nothing else uses, all with one hash tag."""

    def __init__(self, prefix: str, hash_tag: str) -> None:
        names, tag = Keys(prefix), f"{{{hash_tag}}}"
        self.string, self.hash, self.set, self.zset, self.list = (
            f"{prefix}{tag}:trial:{kind}" for kind in ("string", "hash", "set", "zset", "list")
        )
        self.lease = names.lease(f"trial:{tag}")
        self.bucket = names.bucket_prefix(16).decode() + f"trial:{tag}"

    def all(self) -> list[str]:
        return list(vars(self).values())


def trials(keys: TrialKeys, own_commands: Mapping[str, Command]) -> list[tuple[str, Command]]:
    """Trials of each command that the index sends or its scripts call, each with the command's
    name in an ACL rule. They are in an order in which each finds the key that it needs.

    ``own_commands``: those of the client. Client tracking is tried by each connection itself.
    """
    text, table, members, scores, items = keys.string, keys.hash, keys.set, keys.zset, keys.list
    return [
        ("ping", ("PING",)),
        ("time", ("TIME",)),
        ("set", ("SET", text, "1")),
        ("pexpire", ("PEXPIRE", text, TRIAL_SECONDS * 1000)),
        ("get", ("GET", text)),
        ("incrby", ("INCRBY", text, 1)),
        ("hset", ("HSET", table, "a", "1")),
        ("hset", ("HSET", keys.lease, "a", "1")),
        ("hset", ("HSET", keys.bucket, "a", "1")),
        ("hsetnx", ("HSETNX", table, "a", "1")),
        ("hget", ("HGET", table, "a")),
        ("hget", ("HGET", keys.bucket, "a")),
        ("hmget", ("HMGET", table, "a")),
        ("hgetall", ("HGETALL", table)),
        ("hvals", ("HVALS", table)),
        ("hlen", ("HLEN", table)),
        ("hdel", ("HDEL", table, "b")),
        ("sadd", ("SADD", members, "a")),
        ("srem", ("SREM", members, "b")),
        ("smembers", ("SMEMBERS", members)),
        ("sismember", ("SISMEMBER", members, "a")),
        ("sscan", ("SSCAN", members, 0)),
        ("zadd", ("ZADD", scores, 1, "a")),
        ("zrangebyscore", ("ZRANGEBYSCORE", scores, 1, 1)),
        ("zremrangebyscore", ("ZREMRANGEBYSCORE", scores, 2, 2)),
        ("lpush", ("LPUSH", items, "a")),
        ("ltrim", ("LTRIM", items, 0, 9)),
        ("lrange", ("LRANGE", items, 0, 0)),
        *(("expire", ("EXPIRE", key, TRIAL_SECONDS)) for key in keys.all()),
        ("eval", ("EVAL", "return 1", 0)),
        ("evalsha", ("EVALSHA", SOME_SHA, 0)),
        ("scan", ("SCAN", 0)),
        ("memory|usage", ("MEMORY", "USAGE", text)),
        ("info", ("INFO", "server")),
        *own_commands.items(),
        ("del", ("DEL", text)),
        ("unlink", ("UNLINK", *keys.all())),
    ]


def acl_rules(prefix: str, own_commands: Mapping[str, Command] | None = None) -> list[str]:
    """The rules of an ACL that allow what the index needs and nothing else."""
    commands = [name for name, _ in trials(TrialKeys(prefix, ""), own_commands or {})]
    return [f"~{prefix}*", *dict.fromkeys(f"+{name}" for name in (*commands, "client|tracking"))]


async def preflight(client: RedisClient, prefix: str) -> list[Finding]:
    """Tries everything. It never raises: a Redis that fails is what it finds."""
    refusals = _Refusals(prefix, client.user)
    sentinels = _sentinel_findings(await client.sentinel_errors())
    try:
        servers = await client.servers()
        for server in servers:
            keys = TrialKeys(prefix, server.hash_tag)
            tried = trials(keys, client.own_commands)
            replies = await client.ask(server, [command for _, command in tried])
            for (right, _), reply in zip(tried, replies, strict=True):
                refusals.add(right, reply)
            await client.ask(server, [("PING",)], foreground=True)
    except IndexUnavailable as error:
        if not refusals.add_refusal(error.log_detail):
            return [*sentinels, unreachable(error)]
        return [*sentinels, *refusals.findings([])]
    tracking_error = client.tracking_error()
    for text in tracking_error.split("; "):
        refusals.add_refusal(text)
    return [*sentinels, *refusals.findings(servers), _tracking_finding(tracking_error)]


class _Refusals:
    """What the servers refused."""

    def __init__(self, prefix: str, user: str) -> None:
        self._prefix = prefix
        self._user = user
        self._not_allowed: dict[str, None] = {}
        """Rules that are missing in the ACL."""
        self._not_known: dict[str, None] = {}
        """Names of commands."""
        self._other_errors: dict[str, None] = {}
        """Errors that say nothing about rights, such as out of memory or read-only."""

    def add(self, right: str, reply: Any) -> None:
        """Adds the reply to one trial."""
        text = str(reply)
        if not isinstance(reply, Exception) or text.startswith("NOSCRIPT"):
            return
        if text.startswith("NOPERM"):
            self.add_refusal(text, right)
        elif _UNKNOWN_COMMAND.match(text):
            self._not_known[right] = None
        else:
            self._other_errors[text] = None

    def add_refusal(self, text: str, right: str = "") -> bool:
        """Adds what an error says about a missing right; False where it is about something else.
        ``right``: what was tried, if it is known."""
        found = _NO_PERMISSION.search(text)
        if found is None:
            return False
        command = right or (found[1] or "").lower()
        if found[1] is None:
            self._not_allowed[f"~{self._prefix}*"] = None
        else:
            self._not_allowed[f"+{SUBCOMMANDS.get(command, command)}"] = None
        return True

    def findings(self, servers: Sequence[Server]) -> list[Finding]:
        optional = [rule for rule in self._not_allowed if rule[1:] in OPTIONAL_RIGHTS]
        required = [rule for rule in self._not_allowed if rule not in optional]
        found = [
            self._rights_finding("redis-rights", required),
            self._rights_finding("redis-optional-rights", optional),
        ]
        if servers:
            names = ", ".join(server.name for server in servers)
            text = f"it answers{f' ({names})' if names else ''}"
            found.insert(0, Finding(name=REACHABLE, ok=True, text=text))
        return [*found, self._commands_finding(), self._errors_finding()]

    def _commands_finding(self) -> Finding:
        name = "redis-commands"
        if not self._not_known:
            return Finding(name=name, ok=True, text="Redis knows them")
        return Finding(
            name=name,
            ok=False,
            text=f"Redis does not know {', '.join(self._not_known)}",
            fix="use Redis 6.2 or newer without `rename-command`, and no proxy before it",
            required=any(command not in OPTIONAL_RIGHTS for command in self._not_known),
        )

    def _errors_finding(self) -> Finding:
        name = "redis-errors"
        if not self._other_errors:
            return Finding(name=name, ok=True, text="Redis refuses nothing", required=False)
        return Finding(
            name=name,
            ok=False,
            text=f"Redis refuses commands: {'; '.join(self._other_errors)}",
            fix="see what Redis says: it may be out of memory, without a disk, or a replica",
            required=False,  # it may pass, and until then known images are answered
        )

    def _rights_finding(self, name: str, missing: Sequence[str]) -> Finding:
        if not missing:
            return Finding(name=name, ok=True, text="the login has them")
        uses = dict.fromkeys(OPTIONAL_RIGHTS.get(rule[1:], "") for rule in missing)
        without = f"; what does not work without: {', '.join(uses)}"
        return Finding(
            name=name,
            ok=False,
            text=f"the login lacks {' '.join(missing)}{without if any(uses) else ''}",
            fix=f"run `ACL SETUSER {self._user} {' '.join(missing)}` in Redis, on each server, and "
            "keep it with `ACL SAVE` or in its configuration",
            required=not any(uses),
        )


def unreachable(error: IndexUnavailable) -> Finding:
    """What is found where Redis does not answer."""
    return Finding(
        name=REACHABLE,
        ok=False,
        text=str(error),
        fix="check that Redis runs, the network to it, and RESOLVER_REDIS_URL",
    )


def _tracking_finding(error: str) -> Finding:
    if not error:
        return Finding(name="client-tracking", ok=True, text="Redis reports changes")
    return Finding(
        name="client-tracking",
        ok=False,
        text=f"Redis reports no changes, so that each request asks it: {error}",
        fix="allow `+client|tracking` (on early releases of Redis 6.2 also `+hello`), and use no "
        "proxy that does not pass them on",
        required=False,
    )


def _sentinel_findings(errors: Mapping[str, str]) -> list[Finding]:
    """One finding about all Sentinels; none where there are none."""
    if not errors:
        return []
    name = "sentinels"
    failing = [f"{address}: {error}" for address, error in errors.items() if error]
    if not failing:
        return [Finding(name=name, ok=True, text=f"all {len(errors)} name a master")]
    return [
        Finding(
            name=name,
            ok=False,
            text="; ".join(failing),
            fix="check that they run, the login (sentinel_username and sentinel_password in "
            "RESOLVER_REDIS_URL), and that it has `+sentinel|masters`",
            required=False,  # most of them are enough
        )
    ]
