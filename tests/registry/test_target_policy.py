"""Which URLs a location may have, by the settings of the gateway."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

import pytest

from resolver.errors import InvalidLocation
from resolver.glance.host_policy import Address
from resolver.models import Location
from resolver.registry.target_policy import OwnPorts, TargetPolicy
from resolver.settings import Settings


class Resolver:
    """Looks up names in a table and counts the lookups."""

    def __init__(self, **addresses: str) -> None:
        self._addresses = addresses
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[Address]:
        self.asked.append(host)
        if host not in self._addresses:
            raise InvalidLocation(f"host {host} cannot be looked up")
        return [ipaddress.ip_address(text) for text in self._addresses[host].split()]


def make_policy(*, own_port: int = 0, **settings: Any) -> TargetPolicy:
    return TargetPolicy(Settings(**settings), OwnPorts(own_port))


async def test_https_is_required_off_loopback_only() -> None:
    policy = make_policy(require_https=True)
    for url in ("https://one.example", "http://127.0.0.1:1", "http://[::1]", "http://localhost"):
        await policy.check(url)
    for url in ("http://one.example", "http://10.0.0.1", "http://localhost.example"):
        with pytest.raises(InvalidLocation, match="RESOLVER_REQUIRE_HTTPS"):
            await policy.check(url)


async def test_the_public_url_follows_the_same_rules() -> None:
    url, public = "https://one.example", "https://public.one.example"
    policy = make_policy(require_https=True, allowed_hosts=("*.one.example", "one.example"))
    await policy.check_location(Location(name="one", url=url, public_url=public))
    await policy.check_location(Location(name="one", url=url))
    for refused, why in (
        ("http://public.one.example", "`public_url` must be https"),
        ("https://two.example", "`public_url`: host two.example is not allowed"),
    ):
        with pytest.raises(InvalidLocation, match=why):
            await policy.check_location(Location(name="one", url=url, public_url=refused))
    own = make_policy(public_url="https://images.example")
    with pytest.raises(InvalidLocation, match="`public_url` is this gateway itself"):
        await own.check_location(Location(name="one", url=url, public_url="https://images.example"))


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://one.example", ()),
        ("http://one.example", ("two.example", "One.Example")),
        ("http://a.one.example", ("*.one.example",)),
        ("http://10.1.2.3", ("10.0.0.0/8",)),
        ("http://[::1]:5", ("::1",)),
        ("http://localhost", ("127.0.0.0/8", "::1/128")),
    ],
)
async def test_hosts_that_are_allowed(url: str, allowed: tuple[str, ...]) -> None:
    await make_policy(allowed_hosts=allowed).check(url)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://one.example", ("two.example",)),
        ("http://one.example", ("*.one.example",)),
        ("http://evilone.example", ("*.one.example", "one.example")),
        ("http://11.0.0.1", ("10.0.0.0/8",)),
        ("http://10.0.0.1", ("*.0.0.2",)),
        ("http://localhost", ("10.0.0.0/8",)),
        ("http://[::ffff:11.0.0.1]", ("10.0.0.0/8",)),
    ],
)
async def test_hosts_that_are_not_allowed(url: str, allowed: tuple[str, ...]) -> None:
    with pytest.raises(InvalidLocation, match="RESOLVER_ALLOWED_HOSTS"):
        await make_policy(allowed_hosts=allowed).check(url)


async def test_a_name_is_allowed_by_a_network_if_all_its_addresses_are_in_it() -> None:
    resolver = Resolver(inside="10.0.0.1 10.0.0.2", outside="10.0.0.1 11.0.0.1")
    policy = TargetPolicy(Settings(allowed_hosts=("10.0.0.0/8",)), OwnPorts(), resolver)
    await policy.check("http://inside")
    with pytest.raises(InvalidLocation, match="RESOLVER_ALLOWED_HOSTS"):
        await policy.check("http://outside")


@pytest.mark.parametrize("port", [9393, 9292])
async def test_a_host_is_looked_up_once(port: int) -> None:
    resolver = Resolver(one="10.0.0.1")
    settings = Settings(allowed_hosts=("10.0.0.0/8",), host="10.0.0.2")
    await TargetPolicy(settings, OwnPorts(9393), resolver).check(f"http://one:{port}")
    assert resolver.asked == ["one"]


async def test_a_name_that_needs_no_address_is_not_looked_up() -> None:
    resolver = Resolver()
    policy = TargetPolicy(Settings(allowed_hosts=("one",)), OwnPorts(9393), resolver)
    await policy.check("http://one:9292")
    assert resolver.asked == []


async def test_a_port_bound_later_counts_as_this_gateway() -> None:
    ports = OwnPorts(0)
    policy = TargetPolicy(Settings(), ports)
    await policy.check("http://127.0.0.1:5000")
    ports.add(5000)
    with pytest.raises(InvalidLocation, match="this gateway itself"):
        await policy.check("http://127.0.0.1:5000")
