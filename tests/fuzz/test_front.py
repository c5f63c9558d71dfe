"""Random well-formed requests get the same bytes from the front and from the plain application."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator
from itertools import pairwise
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


class Request(NamedTuple):
    """A well-formed request, but for the ids of the images."""

    method: str
    version: str
    path: tuple[str, str, str]
    query: str | None
    image: int | str
    fields: list[str]

    def encode(self, ids: list[str], connection: str) -> bytes:
        """``connection``: the field of that name."""
        text = self.image if isinstance(self.image, str) else ids[self.image]
        target = "".join(self.path).replace(ID, text, 1)
        target += "" if self.query is None else f"?{self.query}"
        line = f"{self.method} {target} HTTP/{self.version}"
        fields = [*self.fields, f"Connection: {connection}"]
        return "\r\n".join([line, "Host: gateway", *fields, "", ""]).encode()


REQUEST = st.builds(
    Request,
    st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS"]),
    st.sampled_from(["1.1", "1.1", "1.0"]),
    st.tuples(st.sampled_from(PREFIXES), st.sampled_from(HEADS), TAIL),
    st.none() | QUERY,
    IMAGE_TEXT,
    st.lists(FIELD, max_size=3, unique_by=lambda field: field.partition(":")[0].lower()),
)

LAST = b"GET /livez HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
HOST = b"Host: gateway\r\n"
MALFORMED = [
    b"\0\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/2.0\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"A : b\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b" A: b\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"A: \0\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
]


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


def has_its_length(response: str, method: str) -> bool:
    head, _, body = response.partition("\r\n\r\n")
    length = re.search(r"(?m)^Content-Length: (\d+)\r?$", head)
    return method == "HEAD" or length is None or int(length[1]) == len(body.encode())


def without_reasons(responses: str) -> str:
    """As `comparable`, and without why locations gave no answer, which on a busy machine changes
    from one question to the next."""
    return re.sub(r"(could be asked: |can vouch\. )[^<\"]*", r"\1…", comparable(responses))


@examples(200)
@given(REQUEST)
async def test_the_front_answers_as_the_application(
    loop_errors: ErrorLog, servers: Servers, request_: Request
) -> None:
    count_examples("http: front and application")
    sent = request_.encode(servers.ids, "close")
    front, plain = [await exchange(url, sent) for url in (servers.front.url, servers.plain_url)]
    assert without_reasons(front) == without_reasons(plain), sent
    assert has_its_length(front, request_.method), sent
    assert not re.match(r"HTTP/1\.1 500", front), sent


def split_responses(text: str) -> list[str]:
    return re.split(r"HTTP/(?=1\.\d \d{3} )", without_reasons(text))[1:]


@examples(100)
@given(
    st.lists(REQUEST, min_size=1, max_size=4),
    st.sets(st.floats(0, 1, exclude_max=True), max_size=8),
    st.sampled_from(MALFORMED),
)
async def test_the_front_answers_pipelined_requests_as_the_application(
    loop_errors: ErrorLog,
    servers: Servers,
    requests: list[Request],
    cuts: set[float],
    malformed: bytes,
) -> None:
    """Split anywhere, and with malformed bytes behind them."""
    count_examples("http: front and application, pipelined")
    sent = b"".join(request.encode(servers.ids, "keep-alive") for request in requests)
    expected = split_responses(await exchange(servers.plain_url, sent + LAST))
    assert len(expected) == len(requests) + 1, sent
    for end in (LAST, malformed):
        whole = sent + end
        at = sorted({int(cut * len(whole)) for cut in cuts} | {0, len(whole)})
        pieces = [whole[a:b] for a, b in pairwise(at)]
        responses = split_responses(await exchange(servers.front.url, *pieces))
        assert responses[:-1] == expected[:-1], whole
        assert responses[-1].startswith("1.1 200 " if end is LAST else "1.1 4"), whole
