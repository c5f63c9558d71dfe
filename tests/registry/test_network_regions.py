"""Which region is near a client."""

from __future__ import annotations

import ipaddress
import random

import pytest

from resolver.models import Location
from resolver.registry.network_regions import NetworkRegions


def location(name: str, region: str, *networks: str) -> Location:
    return Location(name=name, url=f"https://{name}.example", region=region, networks=networks)


LOCATIONS = [
    location("wide", "west", "10.0.0.0/8", "0.0.0.0/0"),
    location("narrow", "north", "10.1.0.0/16", "10.1.2.3/32", "2001:db8::/32"),
    location("also-narrow", "east", "10.1.0.0/16", "2001:db8:1::/48"),
    location("no-region", "", "10.1.2.0/24"),
    location("hostile", "south", "10.1.2.3/99", "", "x", "10.1.2.3/31"),
]


@pytest.mark.parametrize(
    ("address", "region"),
    [
        ("10.200.0.1", "west"),
        ("10.1.9.9", "east"),  # the first name of two with the same network
        ("10.1.2.3", "north"),
        ("10.1.2.4", "east"),
        ("192.0.2.1", "west"),
        ("2001:db8::1", "north"),
        ("2001:db8:1::1", "east"),
        ("2001:db9::1", ""),
        ("::1", ""),
    ],
)
def test_the_smallest_matching_network_wins(address: str, region: str) -> None:
    for seed in range(3):
        locations = random.Random(seed).sample(LOCATIONS, len(LOCATIONS))
        assert NetworkRegions(locations).region_of(ipaddress.ip_address(address)) == region


def test_without_an_address_or_networks_no_region_is_near() -> None:
    assert NetworkRegions(LOCATIONS).region_of(None) == ""
    assert not NetworkRegions([location("one", "north")])
    assert NetworkRegions([]).region_of(ipaddress.ip_address("10.1.2.3")) == ""
