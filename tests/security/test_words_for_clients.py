"""Everything in an answer means one thing to every client: URLs, links, names and ids."""

from __future__ import annotations

import ipaddress
import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from resolver.errors import InvalidLocation
from resolver.gateway.clients import Clients
from resolver.gateway.limits import BURST_SECONDS, NEWCOMERS_SHARE, Limits, TokenBuckets
from resolver.gateway.request_ids import new_request_id
from resolver.location_fields import parse_base_url
from tests.fuzz.conftest import count_examples, examples
from tests.gateway.conftest import V2, Gateway, Start

parse_header_links = pytest.importorskip("requests.utils").parse_header_links

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
OTHER = "1a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
RFC_3986 = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*", re.ASCII)


@pytest.fixture
async def two(start: Start) -> Gateway:
    gateway = await start()
    for name in ("one", "two"):
        await gateway.location(name, versions=V2)
        await gateway.claim(name, ID)
    return gateway


def assert_links(response: Any, rels: set[str]) -> None:
    """Each ``Link`` is one that was meant, as parsers that many programs use read it: that of
    aiohttp, and that of requests, which cannot read a URL with a semicolon."""
    value = ", ".join(response.headers.getall("Link", ()))
    links = [(str(link["url"]), link["rel"]) for link in response.links.values()]
    if value and ";" not in "".join(url for url, _ in links):
        links += [(link["url"], link["rel"]) for link in parse_header_links(value)]
    assert bool(value) is bool(links)
    for url, rel in links:
        assert re.match(r"https://(one|two)\.example:9292/v[12]/images/", url)
        assert rel in rels
        assert RFC_3986.fullmatch(url)
    assert RFC_3986.fullmatch(response.headers.get("Location", ""))


FORGED = "a>;rel=duplicate;pri=1,<https://evil.example/x"


@pytest.mark.parametrize("where", ["?{}", "/file?{}", "/{}", "?x=1&{}"])
async def test_a_client_cannot_add_entries_to_the_link_field(two: Gateway, where: str) -> None:
    for method in ("GET", "POST"):
        response, _ = await two.call(method, f"/v2/images/{ID}{where.format(FORGED)}")
        assert response.status == 400
        assert "evil" not in str(response.headers.get("Link", ""))


@examples(50)
@given(tail=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=24))
async def test_each_link_field_has_exactly_the_intended_entries(two: Gateway, tail: str) -> None:
    count_examples("links: written for clients")
    for path in (f"/v2/images/{ID}?{tail}", f"/v2/images/{ID}/{tail}", f"/v1/images/{ID}{tail}"):
        target = path.partition("#")[0]
        response, _ = await two.get(target)
        assert_links(response, {"duplicate", "alternate"})
        response, _ = await two.call("POST", target)
        assert_links(response, {"alternate"})


@pytest.mark.parametrize("character", '<>"{}|\\^`[]')
async def test_characters_that_no_url_may_have_are_refused(two: Gateway, character: str) -> None:
    for target in (f"/v2/images/{ID}?a={character}", f"/v2/schemas/{character}"):
        response, body = await two.get(target)
        assert (response.status, "Location" in response.headers) == (400, False)
        assert "RFC 3986" in str(body)
    with pytest.raises(InvalidLocation):
        parse_base_url(f"https://one.example/a{character}b")


@pytest.mark.parametrize("escape", ["%", "%4", "%zz", "%%41"])
async def test_a_broken_escape_is_refused(two: Gateway, escape: str) -> None:
    assert (await two.get(f"/v2/images/{ID}?a={escape}"))[0].status == 400


async def test_characters_that_a_url_may_have_are_kept(two: Gateway) -> None:
    query = "a=:/?@!$&'()*+,;=-._~%3C%3E"
    response, _ = await two.get(f"/v2/images/{ID}/members/a@b;c=(d)?{query}")
    assert response.headers["Location"].endswith(f"/{ID}/members/a@b;c=(d)?{query}")
    assert_links(response, {"duplicate"})


async def test_a_location_named_like_an_image_changes_no_answer(start: Start) -> None:
    """Answers to several ids, with owners and without, from the index and from locations."""
    gateway = await start(probe=True, probe_timeout=0.2)
    await gateway.location(ID, url="http://127.0.0.1:9", covered=False)
    await gateway.location("upper", url="http://127.0.0.1:9")
    await gateway.claim("upper", ID.upper())
    await gateway.claim(ID, OTHER)
    third = "2a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
    for ids in ([ID, OTHER, third], [third, OTHER, ID], [OTHER, ID, ID]):
        _, rows = await gateway.call("POST", "/resolve", json=ids)
        assert [row["id"] for row in rows] == ids
        for row in rows:
            names = [owner["location"] for owner in row["owners"]] + row["missing"]
            assert set(names) <= {ID, "upper"}
            _, alone = await gateway.get(f"/resolve/{row['id']}")
            for member in ("id", "outcome", "uri", "url", "owners", "missing"):
                assert row[member] == alone[member], (row["id"], member)


def test_request_ids_are_not_predictable() -> None:
    ids = [int(new_request_id()[-12:], 16) for _ in range(2000)]
    steps = {after - before for before, after in pairwise(ids)}
    assert len(steps) > 1990, "no counter"
    assert 0.4 < sum(i > 1 << 47 for i in ids) / len(ids) < 0.6
    assert len({new_request_id() for _ in range(20_000)}) == 20_000


NO_FIELDS: CIMultiDict[str] = CIMultiDict()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def granted(prefix: str, new_prefix: int, count: int, rate: float = 10.0) -> int:
    """How many of so many networks of a size in ``prefix`` get a token, one after the other."""
    buckets = TokenBuckets(rate, Clock())
    limits = Limits(rate, Clients())
    network = ipaddress.ip_network(prefix)
    step = 1 << 128 - new_prefix
    first = int(network.network_address)
    return sum(
        not buckets.take(
            limits.client_key(str(ipaddress.IPv6Address(first + n * step)), NO_FIELDS), 1
        )
        for n in range(count)
    )


def test_many_ipv6_networks_of_one_customer_share_a_bound() -> None:
    burst = int(10 * BURST_SECONDS)
    assert granted("2001:db8:aaaa::/56", 64, 256) <= 256
    assert granted("2001:db8:aaaa::/48", 64, 30_000) <= 16 * burst
    assert granted("2001:db8:aaaa::/47", 64, 40_000) <= 2 * 16 * burst
    assert granted("2001:db8:aaaa::/48", 72, 20_000) <= burst * 16


def test_a_47_cannot_have_its_own_networks_or_others_forgotten() -> None:
    """It has more /64 than are remembered: here as many, with a smaller table."""
    buckets = TokenBuckets(1, Clock(), max_clients=100)
    spent = bytes([192, 0, 2, 1])
    assert buckets.take(spent, BURST_SECONDS) == 0
    networks = [bytes.fromhex("20010db80000") + n.to_bytes(2, "big") for n in range(400)]
    networks += [bytes.fromhex("20010db80001") + n.to_bytes(2, "big") for n in range(400)]
    assert sum(not buckets.take(key, 1) for key in networks * 3) <= 2 * 16 * BURST_SECONDS
    assert buckets.wait(spent, 1) > 0


def test_clients_that_are_forgotten_share_a_bucket() -> None:
    """Who has a /32 can be 65,536 times new; not without end."""
    assert granted("2001:d00::/24", 48, 90_000) <= 65_536 + NEWCOMERS_SHARE * 10 * BURST_SECONDS


def test_a_client_in_another_network_is_not_limited_with_it() -> None:
    limits, buckets = Limits(10, Clients()), TokenBuckets(10, Clock())
    for n in range(5000):
        buckets.take(limits.client_key(f"2001:db8:aaaa:{n:x}::1", NO_FIELDS), 1)
    assert buckets.take(limits.client_key("2001:db8:aaaa:ffff::1", NO_FIELDS), 1) > 0
    assert buckets.take(limits.client_key("2001:db8:bbbb::1", NO_FIELDS), 1) == 0
    assert buckets.take(limits.client_key("192.0.2.1", NO_FIELDS), 1) == 0


async def test_text_of_an_operator_is_one_json_string(start: Start) -> None:
    gateway = await start()
    reason = 'disks", "outcome": "found'
    await gateway.location("one", state="maintenance", reason=reason)
    await gateway.claim("one", ID)
    _, body = await gateway.get(f"/resolve/{ID}")
    assert body["outcome"] == "unknown"
    assert reason in body["detail"]
    _, rows = await gateway.call("POST", "/resolve", json=[ID])
    assert json.dumps(rows[0]["outcome"]) == '"unknown"'
