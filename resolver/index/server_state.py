"""What Redis says of itself: which process answers, what it has evicted, and what it may evict."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from resolver.index.preflight import Finding
from resolver.index.redis.client import Command, RedisClient, Server

NO_EVICTION = "noeviction"


# Searched for: these replies have a hundred lines, and a request may wait for them.
_RUN_ID = re.compile(rb"^run_id:(\w+)", re.MULTILINE)
_EVICTED_KEYS = re.compile(rb"^evicted_keys:(\d+)", re.MULTILINE)
_POLICY = re.compile(rb"^maxmemory_policy:([\w-]+)", re.MULTILINE)


class ServerState(NamedTuple):
    """One server as it is now."""

    name: str
    """``host:port``; empty where it is the only one."""
    run_id: str
    """Of its process: another one after a restart or a failover. Empty where it does not say."""
    evicted_keys: int
    """Keys that it has dropped to make room since it was started, those of others too."""
    policy: str = ""
    """Its ``maxmemory-policy``; empty where it does not say."""

    @property
    def may_evict(self) -> bool:
        """Whether its policy lets it drop keys."""
        return self.policy not in ("", NO_EVICTION)


COMMANDS: tuple[Command, ...] = (("INFO", "server"), ("INFO", "stats"))

POLICY_COMMANDS: tuple[Command, ...] = (
    ("INFO", "memory"),
    ("CONFIG", "GET", "maxmemory-policy"),
)
"""Either says the policy. The second is asked only where the first is not allowed, so that the
ACL log of Redis stays empty with the rights that docs/storage.md lists."""


async def read_states(
    client: RedisClient, *, with_policy: bool = False, foreground: bool = False
) -> list[ServerState]:
    """The state of each server; none where the index is in this process. ``foreground``: on the
    connection of requests.

    Raises:
        IndexUnavailable: one of them does not answer.
    """
    servers = await client.servers()
    reads = (
        _read_state(client, server, with_policy=with_policy, foreground=foreground)
        for server in servers
    )
    return await asyncio.gather(*reads)


async def _read_state(
    client: RedisClient, server: Server, *, with_policy: bool, foreground: bool
) -> ServerState:
    state = _parse_state(server.name, await client.ask(server, COMMANDS, foreground=foreground))
    for command in POLICY_COMMANDS if with_policy else ():
        if not state.policy:
            (reply,) = await client.ask(server, [command])
            state = state._replace(policy=_parse_policy(reply))
    return state


def loss_state(states: Sequence[ServerState]) -> str | None:
    """A text that is another one after a server has evicted a key, was restarted or was replaced.
    Empty where the index is in this process; None where a server does not say."""
    if not all(state.run_id for state in states):
        return None
    return ",".join(sorted(f"{state.run_id}={state.evicted_keys}" for state in states))


def eviction_finding(states: Sequence[ServerState]) -> Finding:
    """Whether the servers keep what they are given."""
    name = "redis-eviction"
    if evicting := [state for state in states if state.may_evict]:
        shown = ", ".join(
            f"{state.policy}{f' on {state.name}' if state.name else ''}" for state in evicting
        )
        volatile = all(state.policy.startswith("volatile-") for state in evicting)
        loses = "leases and recent deletions" if volatile else "parts of the index"
        return Finding(
            name=name,
            ok=False,
            text=f"Redis drops {loses} when its memory is full: its maxmemory-policy is {shown}",
            fix=f"run `CONFIG SET maxmemory-policy {NO_EVICTION}` on each server, set it in the "
            "configuration, and give Redis more memory if it is full",
            required=False,
        )
    if any(not state.policy for state in states):
        return Finding(
            name=name,
            ok=False,
            text="Redis does not say whether it drops keys when its memory is full",
            fix="allow the login `+info`",
            required=False,
        )
    return Finding(name=name, ok=True, text="Redis drops no keys when its memory is full")


def _parse_state(name: str, replies: Sequence[Any]) -> ServerState:
    server, stats = replies
    return ServerState(name, _value(_RUN_ID, server), int(_value(_EVICTED_KEYS, stats) or 0))


def _parse_policy(reply: Any) -> str:
    """The policy in an INFO section or in the reply to CONFIG GET."""
    if isinstance(reply, list):
        reply = b"maxmemory_policy:" + b"".join(reply[1:2])
    return _value(_POLICY, reply)


def _value(field: re.Pattern[bytes], reply: Any) -> str:
    """The value of a field of INFO; empty where the login may not ask."""
    found = field.search(reply) if isinstance(reply, bytes) else None
    return found[1].decode() if found else ""
