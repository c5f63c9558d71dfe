"""Which region is near a client: that of the location whose networks contain its address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from resolver.models import Location

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NetworkRegions:
    """The regions of all networks that locations name.

    Of two networks that contain an address the smaller one counts; of two locations with the same
    network, the one whose name comes first.
    """

    def __init__(self, locations: Iterable[Location]) -> None:
        regions: dict[tuple[int, int], dict[int, str]] = {}
        """By the number of an address's bits and of those behind the network's prefix: regions by
        the prefix."""
        for location in sorted(locations, key=lambda location: location.name):
            for text in location.networks if location.region else ():
                try:
                    network = ipaddress.ip_network(text)
                except ValueError:  # what nobody has registered this way
                    continue
                rest = network.max_prefixlen - network.prefixlen
                prefix = int(network.network_address) >> rest
                known = regions.setdefault((network.max_prefixlen, rest), {})
                known.setdefault(prefix, location.region)
        self._regions = sorted(regions.items())  # the smallest networks first

    def __bool__(self) -> bool:
        return bool(self._regions)

    def region_of(self, address: Address | None) -> str:
        """The region near an address; empty if no location names its network."""
        if address is None:
            return ""
        number = int(address)
        for (bits, rest), regions in self._regions:
            if bits == address.max_prefixlen and (region := regions.get(number >> rest)):
                return region
        return ""
