"""Random well-formed requests get the same bytes from the front and from the plain application."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conftest import ErrorLog, count_examples, examples
from tests.gateway.conftest import Gateway, Start, start
from tests.gateway.random_locations import register_random_locations
from tests.gateway.test_plain_application import HEADERS, comparable, exchange, plain_server

__all__ = ["start"]

SEED = 20
ID = "@"
"""Placeholder for an image id."""

HEADS = ["/v1/images/@", "/v2/images/@", "/resolve/@", "/v2/images", "/v1", "/v2/", "/", "/livez"]
HEADS += ["/v2/schemas/image", "/v2/info/stores", "/v2/metadefs/x", "/versions", "/v3", "/readyz"]
PREFIXES = ["", "", "", "/region/north", "/region/south", "/region/no%20where", "/region"]
URL_TEXT = "abcXYZ019-._~!$&'()*+,;=:@/"
TAIL = st.text(st.sampled_from(URL_TEXT), max_size=8) | st.sampled_from(
    ["", "/file", "/members/x", "/%2e%2e/x", "/%2E", "%2f", "/%c3%a9", "//", "/explain", "%00"]
)
QUERY = st.lists(
    st.sampled_from(["region=", "exclude=", "fresh=", "limit=", "marker=", "a", "&", "&&", "="])
    | st.sampled_from(["north", "l0", "1", "yes", "%6e", "%ff", "?", "+"])
    | st.text(st.sampled_from(URL_TEXT), max_size=6),
    max_size=5,
).map("".join)
VALUE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=16)
FIELD = st.sampled_from([field for fields in HEADERS for field in fields]) | st.builds(
    "{}: {}".format,
    st.sampled_from(
        [
            *("Accept", "X-Resolver-Region", "X-Resolver-Exclude", "X-Resolver-Fresh", "X-A"),
            *("X-Forwarded-For", "Traceparent", "X-Openstack-Request-Id", "Range", "If-None-Match"),
        ]
    ),
    VALUE,
)
IMAGE_TEXT = st.integers(0, 3) | st.sampled_from(["no-uuid", "0" * 32, "{}", "%30"])


class Servers(NamedTuple):
    front: Gateway
    plain_url: str
    ids: list[str]


@pytest.fixture
async def servers(start: Start) -> AsyncIterator[Servers]:
    rng = random.Random(SEED)
    front = await start(
        public_url="https://gateway.example",
        hosts="gateway",
        region="north",
        index_timeout=10,  # a busy machine changes no answer
        trusted_proxies="127.0.0.1",
    )
    ids = await register_random_locations(front, rng, 4)
    async with plain_server(front) as plain_url:
        yield Servers(front, plain_url, ids)


@examples(200)
@given(
    st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS"]),
    st.tuples(st.sampled_from(PREFIXES), st.sampled_from(HEADS), TAIL),
    st.none() | QUERY,
    IMAGE_TEXT,
    st.lists(FIELD, max_size=3, unique_by=lambda field: field.partition(":")[0].lower()),
)
async def test_the_front_answers_as_the_application(
    loop_errors: ErrorLog,
    servers: Servers,
    method: str,
    path: tuple[str, str, str],
    query: str | None,
    image: int | str,
    fields: list[str],
) -> None:
    count_examples("http: front and application")
    text = image if isinstance(image, str) else servers.ids[image]
    target = "".join(path).replace(ID, text, 1) + ("" if query is None else f"?{query}")
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway", *fields, "Connection: close", "", ""]
    request = "\r\n".join(lines).encode()
    front, plain = [await exchange(url, request) for url in (servers.front.url, servers.plain_url)]
    assert comparable(front) == comparable(plain), request
    assert not re.match(r"HTTP/1\.1 500", front), request
