"""What a web page may make a browser ask here: nothing in the name of another host, and nothing but
reads from another site.

A page of ``evil.example`` can have that name lead to the gateway's address (DNS rebinding), and
then reads what the browser's network lets it reach. The browser still sends ``Host: evil.example``.
And any page can send a ``POST`` without asking, although it cannot read the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from resolver.errors import Forbidden, MisdirectedRequest
from resolver.gateway.methods import READ_METHODS
from resolver.gateway.negotiation import HeaderFields
from resolver.glance.host_policy import HostPolicy, is_loopback, parse_address

HEALTH_PATHS = frozenset({"/healthcheck", "/livez", "/readyz"})
"""Answered to any host: what they say is public, and load balancers send any."""

_ONE_LABEL = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)


class BrowserGuard:
    """Refuses what only a web page of another site would send."""

    def __init__(self, public_url: str, hosts: Sequence[str]) -> None:
        """The settings of these names. With neither, any host is answered."""
        public = urlsplit(public_url)
        self._public_netloc = public.netloc.lower()
        names = [*hosts, public.hostname or ""] if public_url else hosts
        self._names = HostPolicy(name for name in names if name)

    def allows_host(self, host: str) -> bool:
        """Whether requests to a host, perhaps with a port, are for this gateway. Addresses,
        ``localhost`` and names of one label are: nobody can register them to make them lead here.
        """
        if not self._names.rules or not host:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return (
            self._names.allows_name(name)
            or _ONE_LABEL.fullmatch(name) is not None
            or is_loopback(name)
            or parse_address(name) is not None
        )

    def check(self, method: str, path: str, host: str, fields: HeaderFields) -> None:
        """Checks a request. ``host``: the one that it is for.

        Raises:
            MisdirectedRequest: that is not a host of this gateway.
            Forbidden: a page of another site makes the browser send it.
        """
        if path not in HEALTH_PATHS and not self.allows_host(host):
            raise MisdirectedRequest(
                "this is not a name of this gateway: use a host of RESOLVER_PUBLIC_URL or "
                "RESOLVER_HOSTS, or add this one"
            )
        if method not in READ_METHODS and self._is_cross_site(host, fields):
            raise Forbidden(
                "a web page of another site sends this: only reads are answered to those",
                code="cross-site",
            )

    def _is_cross_site(self, host: str, fields: HeaderFields) -> bool:
        # Browsers before 2020 to 2023 send no Sec-Fetch-Site. Of another host of the same site
        # somebody else may be in charge. A proxy may change the host of "same-origin".
        site = fields.get("Sec-Fetch-Site", "").lower()
        if site in ("cross-site", "same-origin", "none"):
            return site == "cross-site"
        origin = fields.get("Origin", "")
        if not origin:
            return False
        return urlsplit(origin).netloc.lower() not in ({host.lower(), self._public_netloc} - {""})
