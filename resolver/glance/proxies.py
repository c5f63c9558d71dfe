"""The HTTP proxies of the environment, as OpenStack clients and curl read them."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from resolver.errors import LocationUnavailable
from resolver.glance.host_policy import is_loopback, parse_address

DEFAULT_PORTS = {"http": 80, "https": 443}


def proxy_for(url: str) -> str | None:
    """The URL of the proxy for a request, from ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``ALL_PROXY`` in
    lower or upper case; None where there is none, or where ``NO_PROXY`` or loopback exempts it.

    Raises:
        LocationUnavailable: the proxy is not an HTTP proxy.
    """
    scheme = url.partition(":")[0].lower()
    proxy = _variable(f"{scheme}_proxy") or _variable("all_proxy")
    if not proxy:
        return None  # at once: this is asked for each request
    target = urlsplit(url)
    host = (target.hostname or "").lower().removesuffix(".")
    port = target.port or DEFAULT_PORTS.get(target.scheme, 0)
    if is_loopback(host) or _is_exempt(host, port):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.lower().startswith(("http://", "https://")):
        raise LocationUnavailable(
            f"the environment's proxy for {target.scheme} must begin with http:// or https://: "
            f"correct {target.scheme.upper()}_PROXY, or name the host in NO_PROXY",
            code="bad-proxy",
        )
    return proxy


def proxy_hosts() -> set[str]:
    """The hosts of all proxies of the environment."""
    values = (_variable(name) for name in ("http_proxy", "https_proxy", "all_proxy"))
    urls = (value if "://" in value else f"http://{value}" for value in values if value)
    return {(urlsplit(url).hostname or "").lower() for url in urls}


def _variable(name: str) -> str:
    """An empty variable in lower case counts: it takes the other one back."""
    return os.environ.get(name, os.environ.get(name.upper(), ""))


def _is_exempt(host: str, port: int) -> bool:
    """Whether an entry of ``NO_PROXY`` names the host: ``*``, a name and all below it, an address
    or a network, each perhaps with a port."""
    address = parse_address(host)
    for entry in _variable("no_proxy").lower().split(","):
        name = entry.strip()
        if name == "*":
            return True
        bare, colon, digits = name.rpartition(":")
        if colon and digits.isdigit() and ":" not in bare.strip("[]"):
            if int(digits) != port:
                continue
            name = bare
        name = name.strip("[]").removeprefix("*").strip(".")
        if not name:
            continue
        if address is not None:
            try:
                if address in ipaddress.ip_network(name, strict=False):
                    return True
            except ValueError:
                continue
        elif host == name or host.endswith(f".{name}"):
            return True
    return False
