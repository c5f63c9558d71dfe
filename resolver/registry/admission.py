"""Where clients may be sent by the current settings, however a location came into the table.

`resolver.registry.target_policy` checks a URL when an operator registers it. But a record may be
older than the settings, or another process, an import or something else may have written it. So the
same rules are applied again to each location in the table, whenever it changes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from resolver.errors import InvalidLocation
from resolver.glance.host_policy import HostPolicy, is_loopback, parse_address
from resolver.location_fields import is_base_url
from resolver.models import Location
from resolver.registry.target_policy import Lookup, look_up
from resolver.settings import Settings

LOOKUP_INTERVAL_SECONDS = 60.0
"""Time between two lookups of the hosts that only their addresses can allow."""

LOOKUP_TIMEOUT_SECONDS = 5.0
"""How long all lookups together may take."""

PARALLEL_LOOKUPS = 32


class Admission:
    """The rules for the locations in the table."""

    def __init__(
        self,
        allowed_hosts: Iterable[str] = (),
        *,
        require_https: bool = False,
        public_url: str = "",
        lookup: Lookup = look_up,
    ) -> None:
        """The first three are the settings of these names. ``lookup``: finds the addresses of host
        names."""
        self._allowed = HostPolicy(allowed_hosts)
        self._require_https = require_https
        self._public_url = urlsplit(public_url)
        self._lookup = lookup
        self._verdicts: dict[str, bool] = {}
        """By host name: whether its addresses were allowed when they were looked up last."""
        self._looked_up_at: dict[str, float] = {}
        """By host name, on `time.monotonic`."""

    @classmethod
    def of(cls, settings: Settings) -> Admission:
        """The rules of a process with these settings."""
        return cls(
            settings.allowed_hosts,
            require_https=settings.require_https,
            public_url=settings.public_url,
        )

    @property
    def needs_addresses(self) -> bool:
        """Whether there are rules about networks, by which a name's addresses may allow it."""
        return bool(self._allowed.networks)

    def refusal(self, location: Location) -> str:
        """Why no client may be sent to a location; empty if clients may. Anybody may read it."""
        url = location.base
        if not (is_base_url(url) and is_base_url(location.url)):
            return "its URL is not one that a location can have"
        target = urlsplit(url)
        host = target.hostname or ""
        if self._require_https and target.scheme != "https" and not is_loopback(host):
            return "its URL is not https (RESOLVER_REQUIRE_HTTPS)"
        if not self._allows(host):
            return "its host is not allowed (RESOLVER_ALLOWED_HOSTS)"
        own = self._public_url
        if own.netloc.lower() == target.netloc and f"{target.path}/".startswith(f"{own.path}/"):
            return "its URL is that of this gateway (RESOLVER_PUBLIC_URL)"
        return ""

    def _allows(self, host: str) -> bool:
        if not self._allowed.rules or self._allowed.allows_name(host):
            return True
        address = parse_address(host)
        if address is not None:
            return self._allowed.allows(host, address)
        return self._verdicts.get(host, False)

    async def look_up_hosts(self, locations: Iterable[Location]) -> bool:
        """Looks up the hosts that only their addresses can allow and that were not looked up
        recently. Returns whether another location is refused now. A host that cannot be looked up
        is allowed if it was before."""
        hosts = {
            urlsplit(location.base).hostname or ""
            for location in locations
            if self.needs_addresses and is_base_url(location.base)
        }
        unnamed = [
            host
            for host in hosts
            if parse_address(host) is None and not self._allowed.allows_name(host)
        ]
        before = self._verdicts
        self._verdicts = {host: before[host] for host in unnamed if host in before}
        now = time.monotonic()
        due = [
            host
            for host in unnamed
            if now - self._looked_up_at.get(host, -math.inf) > LOOKUP_INTERVAL_SECONDS / 2
        ]
        if not due:
            return False
        self._looked_up_at = {host: self._looked_up_at.get(host, now) for host in unnamed}
        self._looked_up_at |= dict.fromkeys(due, now)
        free = asyncio.Semaphore(PARALLEL_LOOKUPS)
        tasks = [asyncio.create_task(self._check_addresses(host, free)) for host in due]
        try:
            await asyncio.wait(tasks, timeout=LOOKUP_TIMEOUT_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return any(before.get(host, False) is not self._verdicts.get(host, False) for host in due)

    async def _check_addresses(self, host: str, free: asyncio.Semaphore) -> None:
        async with free:
            try:
                addresses = await self._lookup(host)
            except InvalidLocation:
                return
        self._verdicts[host] = bool(addresses) and all(
            self._allowed.allows(host, address) for address in addresses
        )


NO_RULES = Admission()
"""Only what is not a base URL is refused."""
