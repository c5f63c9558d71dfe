"""Which host a request is for, and which path on it: one rule for the front and the aiohttp
application (RFC 9112, 3.2).

Version documents have the host in their links, so nothing else is accepted: no user, no path, no
double quotes.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

MAX_PORT = 65_535

_HOST = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45})\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2}){1,255})"
    r"(?::([0-9]{0,5}))?",
    re.ASCII,
)
"""A host and perhaps a port (RFC 3986, 3.2). IPv4 addresses look like names. Of the addresses in
brackets only IPv6 exists; zones (RFC 6874) mean something on the client's machine only."""

_URL = re.compile(r"https?://([^/?#]*)(.*)", re.ASCII | re.IGNORECASE | re.DOTALL)


class InvalidTargetError(ValueError):
    """A request's ``Host`` or target is missing or malformed. The client gets the message."""


class Destination(NamedTuple):
    """Where a request goes."""

    host: str
    """With its port, if one was sent. Empty where the client named no host."""
    target: str
    """The path, which begins with a slash, and the query, as sent."""


def parse_destination(target: str, host: str | None, *, needs_host: bool) -> Destination:
    """Reads a request's target, which is a path or a whole URL, and its ``Host``.

    Where the target is a URL, its host counts and not the field. An empty field is valid: the
    client knows no host.

    Args:
        target: as in the request line.
        host: the field's value; None where there is none.
        needs_host: whether the field must be there, as in HTTP/1.1.

    Raises:
        InvalidTargetError: the field is missing, or one of them is malformed. A target with a
            fragment is: a proxy before us may have read it as a part of the path.
    """
    if "#" in target:
        raise InvalidTargetError("the request's target has a fragment, which no server is sent")
    if host is None and needs_host:
        raise InvalidTargetError("the Host field is missing")
    if host and not is_host(host):
        raise InvalidTargetError(
            "the Host field is not a host: send a name or an address, perhaps with a port"
        )
    if target.startswith("/"):
        return Destination(host or "", target)
    url = _URL.fullmatch(target)
    if url is None or not is_host(url[1]):
        raise InvalidTargetError("the request's target is neither a path nor a URL with a host")
    return Destination(url[1], url[2] if url[2].startswith("/") else f"/{url[2]}")


def is_host(text: str) -> bool:
    """Whether a text is a host, perhaps with a port, and nothing else."""
    match = _HOST.fullmatch(text)
    if match is None:
        return False
    address, port = match.groups()
    return (not port or int(port) <= MAX_PORT) and (not address or _is_ipv6(address))


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
