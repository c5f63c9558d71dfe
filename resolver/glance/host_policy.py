"""Which hosts may be spoken to, as RESOLVER_ALLOWED_HOSTS has them."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from resolver.errors import LocationUnavailable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_address(text: str) -> Address | None:
    """The address that a text is, IPv4 where it is that mapped into IPv6; None for a name."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(host: str) -> bool:
    address = parse_address(host)
    if address is not None:
        return address.is_loopback
    return host == "localhost" or host.endswith(".localhost")


class AllowedHosts:
    """The rules: names, ``*.suffix``, addresses and networks. Without any, every host will do."""

    def __init__(self, rules: Iterable[str]) -> None:
        self.rules = tuple(rule.lower() for rule in rules)
        self.networks = []
        for rule in self.rules:
            try:
                self.networks.append(ipaddress.ip_network(rule, strict=False))
            except ValueError:
                continue

    def names(self, host: str) -> bool:
        """Whether the name itself is allowed."""
        host = host.lower().removesuffix(".")
        return any(
            host == rule or (rule.startswith("*.") and host.endswith(rule[1:]))
            for rule in self.rules
        )

    def admits(self, host: str, address: Address) -> bool:
        """Whether ``host`` may be spoken to at ``address``.

        A name that is allowed vouches for its addresses, but for those that mean another machine
        to everybody who looks: this machine's own and the link's, such as a cloud's metadata.
        """
        if not self.rules or any(address in network for network in self.networks):
            return True
        local = address.is_loopback or address.is_link_local or address.is_unspecified
        return self.names(host) and (is_loopback(host) or not (local or address.is_multicast))


def _refusal(host: str, address: Address | None = None) -> LocationUnavailable:
    where = f"{host} at {address}" if address and str(address) != host else host
    return LocationUnavailable(
        f"host {where} is not allowed here (RESOLVER_ALLOWED_HOSTS)", code="not-allowed"
    )


class HostPolicyResolver(AbstractResolver):
    """Looks names up for the connector, and gives it only addresses that are allowed: the check
    and the connection see the same lookup, so a name that means another host by now gains nothing.
    """

    def __init__(self, allowed: AllowedHosts) -> None:
        self._allowed = allowed
        self._resolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises LocationUnavailable when one of the addresses is not allowed."""
        found = await self._resolver.resolve(host, port, family)
        for one in found:
            address = parse_address(one["host"])
            if address is None or not self._allowed.admits(host, address):
                raise _refusal(host, address)
        return found

    async def close(self) -> None:
        await self._resolver.close()


class HostPolicyMiddleware:
    """What every request passes: https where it is wanted, and no address that is not allowed.
    A host that is an address is not looked up, so the resolver would not see it."""

    def __init__(self, allowed: AllowedHosts, *, require_https: bool) -> None:
        self._allowed = allowed
        self._require_https = require_https

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        host = request.url.host or ""
        if self._require_https and request.url.scheme != "https" and not is_loopback(host):
            raise LocationUnavailable(
                "it is reached without https (RESOLVER_REQUIRE_HTTPS)", code="not-allowed"
            )
        address = parse_address(host)
        if address is not None and not self._allowed.admits(host, address):
            raise _refusal(host, address)
        return await handler(request)
