"""Which URLs a location may have here: what the settings allow, and never this gateway itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import SplitResult, urlsplit

from resolver.errors import InvalidLocation
from resolver.glance.host_policy import Address, HostPolicy, is_loopback, parse_address
from resolver.models import Location
from resolver.settings import Settings

URL_FIELDS = ("url", "public_url")
"""The fields of a location whose URLs are checked."""

DEFAULT_PORTS = {"http": 80, "https": 443}

Lookup = Callable[[str], Awaitable[Sequence[Address]]]
"""Returns the addresses of a host name; those that map IPv4 into IPv6 as IPv4.

Raises:
    InvalidLocation: the name cannot be looked up.
"""


async def look_up(host: str) -> list[Address]:
    """The addresses of a host by the system's resolver; see `Lookup`. It also reads the less usual
    spellings of an address, such as ``127.1``."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InvalidLocation(f"`url`: host {host} cannot be looked up") from error
    addresses = (parse_address(str(info[4][0])) for info in found)
    return [address for address in addresses if address is not None]


class OwnPorts:
    """The ports that this process listens on.

    The server adds a port when it has bound it, since port 0 means that the system chooses one.
    """

    def __init__(self, configured: int = 0) -> None:
        self._ports = {configured} - {0}

    def add(self, port: int) -> None:
        """Records a port that was bound."""
        self._ports.add(port)

    def __contains__(self, port: int) -> bool:
        return port in self._ports


class TargetPolicy:
    """Checks the URL of a location before it is registered. The host is looked up at most once in
    a check; connections check its addresses again, since a name may change its meaning."""

    def __init__(self, settings: Settings, own_ports: OwnPorts, lookup: Lookup = look_up) -> None:
        self._require_https = settings.require_https
        self._allowed = HostPolicy(settings.allowed_hosts)
        self._public_url = urlsplit(settings.public_url)
        self._listen_host = settings.host
        self._own_ports = own_ports
        self._lookup = lookup

    async def check_location(self, location: Location, request_host: str = "") -> None:
        """Checks both URLs of a location, as `check`.

        Raises:
            InvalidLocation: a location may not have them here.
        """
        for name in URL_FIELDS:
            if url := getattr(location, name):
                await self.check(url, request_host, name)

    async def check(self, url: str, request_host: str = "", name: str = "url") -> None:
        """Checks a URL that `parse_base_url` returned. ``request_host``: the ``Host`` header of the
        request that asks for it, which is a name of this gateway; empty if there is none. ``name``:
        the field that has it.

        Raises:
            InvalidLocation: a location may not have this URL here. The message says why.
        """
        try:
            await self._check(url, request_host)
        except InvalidLocation as error:
            detail = error.detail.replace("`url`", f"`{name}`", 1)
            raise InvalidLocation(detail) from error

    async def _check(self, url: str, request_host: str) -> None:
        target = urlsplit(url)
        host = target.hostname or ""
        if self._require_https and target.scheme != "https" and not is_loopback(host):
            raise InvalidLocation("`url` must be https here (RESOLVER_REQUIRE_HTTPS)")
        addresses = await self._check_allowed(host)
        if self._has_own_name(target, request_host) or (
            (target.port or DEFAULT_PORTS[target.scheme]) in self._own_ports
            and await self._has_own_address(host, addresses)
        ):
            raise InvalidLocation("`url` is this gateway itself: give a Glance server")

    async def _check_allowed(self, host: str) -> Sequence[Address] | None:
        """Raises InvalidLocation unless RESOLVER_ALLOWED_HOSTS allows the host. Returns its
        addresses if they had to be looked up: a name that only a network could allow is allowed if
        all its addresses are."""
        allowed = self._allowed
        if not allowed.rules or allowed.allows_name(host):
            return None
        addresses: Sequence[Address] = []
        if allowed.networks or parse_address(host):
            addresses = await self._addresses(host)
        if not addresses or not all(allowed.allows(host, address) for address in addresses):
            raise InvalidLocation(
                f"`url`: host {host} is not allowed here (RESOLVER_ALLOWED_HOSTS: "
                f"{', '.join(allowed.rules)})"
            )
        return addresses

    def _has_own_name(self, target: SplitResult, request_host: str) -> bool:
        """Whether the URL leads to this gateway by a name that clients use."""
        public = self._public_url
        if public.netloc:
            below = target.path == public.path or target.path.startswith(f"{public.path}/")
            return below and target.netloc.lower() == public.netloc.lower()
        return target.netloc.lower() == request_host.lower() and not target.path

    async def _has_own_address(self, host: str, addresses: Sequence[Address] | None) -> bool:
        """Whether a connection to the host reaches the address that this gateway listens on.
        ``addresses``: of the host, if they were looked up already."""
        try:
            if addresses is None or host.endswith("."):
                addresses = await self._addresses(host.removesuffix("."))
            ours = await self._addresses(self._listen_host)
        except InvalidLocation:
            return False
        if any(address.is_unspecified for address in ours):
            return any(_is_local(address) for address in addresses)
        return any(
            address in ours or (address.is_unspecified and any(own.is_loopback for own in ours))
            for address in addresses
        )

    async def _addresses(self, host: str) -> Sequence[Address]:
        address = parse_address(host)
        return [address] if address else await self._lookup(host)


def _is_local(address: Address) -> bool:
    """Whether the address belongs to this machine: only then can a socket be bound to it."""
    if address.is_unspecified or address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True
