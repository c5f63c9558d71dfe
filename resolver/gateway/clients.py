"""Who a client is: its address, and whether it uses https, behind trusted proxies too."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import replace

from aiohttp import web

from resolver.gateway.negotiation import HeaderFields
from resolver.glance.host_policy import Address, parse_address
from resolver.resolution import Preferences

FORWARDED_FOR = "X-Forwarded-For"
MAX_PROXIES = 32
"""Addresses of ``X-Forwarded-For`` that are read: the client sends as many as it likes."""

FORWARDED_PROTO = "X-Forwarded-Proto"


class Clients:
    """Reads what identifies the client of a request."""

    def __init__(self, proxies: Iterable[str] = (), public_url: str = "") -> None:
        """``proxies``: networks whose ``X-Forwarded-…`` is believed. ``public_url``: the gateway's;
        where it is https, all clients use https."""
        self._proxies = [ipaddress.ip_network(network) for network in proxies]
        self._all_use_https = public_url.startswith("https:")

    def address(self, peer: str, headers: HeaderFields) -> Address | None:
        """The client's address: ``peer``, or behind trusted proxies the last address in
        ``X-Forwarded-For`` that is not one of theirs, of the last `MAX_PROXIES`. None where the
        peer has no address."""
        address = parse_address(peer)
        if not self._proxies or address is None or not self._trusts(address):
            return address
        fields = headers.getall(FORWARDED_FOR, ())
        named = ",".join(fields[-MAX_PROXIES:]).rsplit(",", MAX_PROXIES)[-MAX_PROXIES:]
        while named and self._trusts(address):
            before = parse_address(_without_port(named.pop()))
            if before is None:
                break
            address = before
        return address

    def address_text(self, peer: str, headers: HeaderFields) -> str | None:
        """The same as text, for log lines; None for a local socket."""
        if not self._proxies:
            return peer or None
        address = self.address(peer, headers)
        return str(address) if address else peer or None

    def uses_https(self, peer: str, scheme: str, headers: HeaderFields) -> bool:
        """Whether the client uses https. ``scheme``: of its connection to this gateway, or of the
        proxy's."""
        if self._all_use_https or scheme == "https":
            return True
        if not self._proxies or not (sent := headers.get(FORWARDED_PROTO, "")):
            return False
        address = parse_address(peer)
        return (
            address is not None
            and self._trusts(address)
            and sent.partition(",")[0].strip().lower() == "https"
        )

    def preferences(
        self, asked: Preferences, peer: str, scheme: str, headers: HeaderFields
    ) -> Preferences:
        """What a client asks for, with what is known of the client."""
        client = self.address(peer, headers)
        return replace(asked, client=client, https=self.uses_https(peer, scheme, headers))

    def preferences_for(self, request: web.BaseRequest, asked: Preferences) -> Preferences:
        """The same for a request of aiohttp."""
        return self.preferences(asked, request.remote or "", request.scheme, request.headers)

    def _trusts(self, address: Address) -> bool:
        return any(
            address.version == network.version and address in network for network in self._proxies
        )


def _without_port(text: str) -> str:
    """An address without the port that some proxies write behind it."""
    text = text.strip()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
