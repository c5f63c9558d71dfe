"""``RESOLVER_DOMAINS``: the Keystone of each domain."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit


def parse_domains(items: Iterable[str]) -> dict[str, str]:
    """The URL of each domain's Keystone, from ``NAME=URL``. A URL alone is that of the locations
    without a domain, whose name is empty.

    Raises:
        ValueError: an item is malformed, or a domain or a URL occurs twice.
    """
    domains: dict[str, str] = {}
    for item in items:
        name, equals, url = item.partition("=")
        if not equals or "://" in name:
            name, url = "", item
        name, url = name.strip(), identity_url(url.strip())
        if name in domains:
            raise ValueError(f"domain {name!r} is given twice")
        if url in domains.values():
            raise ValueError(f"{url} is given twice: locations with one Keystone are of one domain")
        domains[name] = url
    return domains


def identity_url(url: str) -> str:
    """The base URL of Keystone's v3 API.

    Raises:
        ValueError: it is not a plain http or https URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(f"{url!r}: write NAME=https://keystone.example/v3")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("a Keystone's URL has no user, query or fragment")
    base = url.rstrip("/").removesuffix("/v2.0").removesuffix("/v3").rstrip("/")
    return f"{base}/v3"
