"""A gateway that asks clients who they are: stand-in servers, and their Keystones."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from resolver.standin import StandIn
from resolver.standin.call import Caller
from tests.gateway.conftest import Gateway, Start
from tests.support.clouds import Cloud, cloud_of
from tests.support.fake_keystone import FakeKeystone
from tests.support.http_connection import Response, connected

END = "2126-01-01T00:00:00.000000Z"
OPS, ALICE, BOB = "token-ops", "alices-token", "bobs-token"
CALLERS = {OPS: Caller("admin", admin=True), ALICE: Caller("alice"), BOB: Caller("bob")}
"""Who is who at each stand-in server. Their Keystones say which tokens they accept."""


@dataclass
class World:
    """A gateway with `RESOLVER_READ_AUTH`, its locations and their Keystones."""

    gateway: Gateway
    cloud: Cloud
    keystones: dict[str, FakeKeystone] = field(default_factory=dict)
    """By domain."""

    @property
    def keystone(self) -> FakeKeystone:
        """The only one."""
        (keystone,) = self.keystones.values()
        return keystone

    async def add(self, name: str, **options: Any) -> StandIn:
        """A location that takes tokens, with the gateway's own credential for it."""
        fields = {"auth": {"token_env": "GLANCE_OPS"}, **options.pop("fields", {})}
        return await self.cloud.add(name, tokens=CALLERS, fields=fields, **options)

    async def share(self, text: str, *names: str, **fields: Any) -> None:
        """An image that these locations have, and the index knows."""
        for name in names:
            self.cloud.servers[name].add(id=text, visibility="private", **fields)
            await self.cloud.claim(name, text)

    async def ask(self, method: str, path: str, token: str = "", *fields: str) -> Response:
        """The response on a connection of its own."""
        sent = (f"X-Auth-Token: {token}",) if token else ()
        async with connected(self.gateway.url) as connection:
            return await connection.ask(method, path, *sent, *fields)


class Begin:
    """Starts worlds."""

    def __init__(self, start: Start, stack: AsyncExitStack) -> None:
        self._start, self._stack = start, stack

    async def __call__(self, mode: str, *domains: str, **settings: Any) -> World:
        """A world with a Keystone for each domain, or one for locations without a domain."""
        keystones = {
            domain: await self._stack.enter_async_context(FakeKeystone())
            for domain in domains or ("",)
        }
        named = [f"{domain}={k.url}" if domain else k.url for domain, k in keystones.items()]
        defaults = {"probe": True, "probe_timeout": 60, "index_timeout": 5}
        gateway = await self._start(
            read_auth=mode, **{**defaults, "domains": ",".join(named), **settings}
        )
        cloud = await self._stack.enter_async_context(cloud_of(gateway.services))
        return World(gateway, cloud, keystones)


@pytest.fixture
async def begin(start: Start, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Begin]:
    monkeypatch.setenv("GLANCE_OPS", OPS)
    async with AsyncExitStack() as stack:
        yield Begin(start, stack)


def comparable(response: Response, text: str) -> str:
    """A response without the image's id and what differs from one request to the next."""
    shown = response.text.replace(text, "ID")
    shown = re.sub(r'"age": [0-9.]+', '"age": …', shown)
    shown = re.sub(r"(asked) [0-9.]+ s ago", r"\1 … s ago", shown)
    return re.sub(r"(?m)^(Date|X-Openstack-Request-Id|Content-Length): .*$", r"\1: …", shown)
