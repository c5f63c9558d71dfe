"""Which hosts the resolver may connect to, as RESOLVER_ALLOWED_HOSTS lists them."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Container, Iterable
from functools import lru_cache

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from resolver.errors import LocationUnavailable

MAX_ADDRESS_CHARACTERS = 45
"""Of an IPv6 address that ends in an IPv4 address. ipaddress takes milliseconds to refuse more."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@lru_cache(maxsize=1024)
def parse_address(text: str) -> Address | None:
    """Parses an IP address; an IPv4 address mapped into IPv6 becomes IPv4. None for a name."""
    text = text.partition("%")[0]
    if len(text) > MAX_ADDRESS_CHARACTERS:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(host: str) -> bool:
    address = parse_address(host)
    if address is not None:
        return address.is_loopback
    return host == "localhost" or host.endswith(".localhost")


class HostPolicy:
    """The rules: names, ``*.suffix``, addresses and networks. Without rules, every host is
    allowed."""

    def __init__(self, rules: Iterable[str], *, require_https: bool = False) -> None:
        """``require_https``: without it, only loopback is allowed."""
        self.require_https = require_https
        self.rules = tuple(rule.lower() for rule in rules)
        self.networks = []
        for rule in self.rules:
            try:
                self.networks.append(ipaddress.ip_network(rule, strict=False))
            except ValueError:
                continue

    def allows_name(self, host: str) -> bool:
        """Whether a rule names this host, whatever its addresses are."""
        host = host.lower().removesuffix(".")
        return any(
            host == rule or (rule.startswith("*.") and host.endswith(rule[1:]))
            for rule in self.rules
        )

    def allows(self, host: str, address: Address) -> bool:
        """Whether the resolver may connect to ``host`` at ``address``.

        An allowed name covers all its addresses except those that mean a different machine on each
        host: loopback, unspecified and link-local ones, such as a cloud's metadata service.
        """
        if not self.rules or any(address in network for network in self.networks):
            return True
        is_local = address.is_loopback or address.is_link_local or address.is_unspecified
        return self.allows_name(host) and (
            is_loopback(host) or not (is_local or address.is_multicast)
        )

    def check_request(self, scheme: str, host: str, *, has_proxy: bool = False) -> None:
        """Checks what is known before a name is looked up: https where it is required, and the
        host where nothing is looked up here, so that `HostPolicyResolver` never sees it: an
        address, or a name that a proxy looks up.

        Raises:
            LocationUnavailable: the request is not allowed.
        """
        if self.require_https and scheme != "https" and not is_loopback(host):
            raise LocationUnavailable(
                "it is reached without https (RESOLVER_REQUIRE_HTTPS)", code="not-allowed"
            )
        address = parse_address(host)
        if address is not None and not self.allows(host, address):
            raise _not_allowed(host, address)
        if address is None and self.rules and has_proxy and not self.allows_name(host):
            raise _not_allowed(host)


def _not_allowed(host: str, address: Address | None = None) -> LocationUnavailable:
    where = f"{host} at {address}" if address and str(address) != host else host
    return LocationUnavailable(
        f"host {where} is not allowed here (RESOLVER_ALLOWED_HOSTS)", code="not-allowed"
    )


class HostPolicyResolver(AbstractResolver):
    """Resolves names for the connector and checks the addresses. The check and the connection use
    the same lookup, so that a name cannot resolve differently in between (DNS rebinding)."""

    def __init__(self, policy: HostPolicy, proxy_hosts: Callable[[], Container[str]]) -> None:
        """``proxy_hosts``: the hosts of the environment's proxies, to which any connection is
        allowed."""
        self._policy = policy
        self._proxy_hosts = proxy_hosts
        self._resolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name.

        Raises:
            LocationUnavailable: one of the addresses is not allowed.
        """
        results = await self._resolver.resolve(host, port, family)
        if host.lower() in self._proxy_hosts():
            return results
        for result in results:
            address = parse_address(result["host"])
            if address is None or not self._policy.allows(host, address):
                raise _not_allowed(host, address)
        return results

    async def close(self) -> None:
        await self._resolver.close()


class HostPolicyMiddleware:
    """Checks every request before a name is looked up."""

    def __init__(self, policy: HostPolicy) -> None:
        self._policy = policy

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        self._policy.check_request(
            request.url.scheme, request.url.host or "", has_proxy=request.proxy is not None
        )
        return await handler(request)
