"""A redirect leads only to a registered location that is in service and owns the image.

This holds for every spelling of the id, path, header fields and table of locations.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from resolver.models import State, format_id, letter_case_of, parse_id
from tests.fuzz.conftest import count_examples, examples
from tests.gateway.conftest import V1, V2, Gateway, Start

IMAGES = ("0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d", "FFFFFFFF-4e5f-4a6b-8c7d-9e0f1a2b3c4d")

URLS = [
    "https://a.example",
    "https://a.example/x",
    "https://a.example/xy",
    "https://a.example.evil.example",
    "https://a.example:9292/image",
    "http://10.0.0.1:9292",
    "http://[2001:db8::1]:9292/glance/api",
    "https://b.example/v2/images/api",
    f"https://b.example/{IMAGES[0]}",
    "https://b.example/%20;a=b",
]

KNOWN_FIELDS = {
    *("cache-control", "location", "link", "vary", "content-type", "content-length", "date"),
    *("server", "x-openstack-request-id", "connection", "retry-after", "allow"),
}


class RandomLocation(NamedTuple):
    url: str
    state: str
    versions: tuple[str, ...]
    owns: frozenset[int]
    """Positions in `IMAGES`."""
    upper: bool
    """Whether it spells its ids in upper case."""


random_locations = st.builds(
    RandomLocation,
    st.sampled_from(URLS),
    st.sampled_from([*State]).map(str),
    st.sampled_from([(), V1, V2, V1 + V2]),
    st.frozensets(st.sampled_from([0, 1])),
    st.booleans(),
)

# Input that parsers of URLs and header fields are known to misread, and random text.
pieces = st.one_of(
    st.sampled_from(
        [
            *(
                "/",
                "//",
                "\\",
                "/..",
                "/.",
                "%2f",
                "%5c",
                "%2e%2e",
                "@evil.example",
                ":80",
                "#",
                "?",
            ),
            *("%0d%0aLocation:%20http://evil.example", "%0a", "%0d", "%00", "%e5%98%8a%e5%98%8d"),
            *(
                "//evil.example",
                "http://evil.example",
                "%40evil.example",
                ";",
                "file",
                "/file",
                "&",
            ),
            *(
                "\t",
                "\xa0",
                "%",
                "%25",
                "..;",
                "/members/x",
                IMAGES[0],
                "\u0130".encode().decode("l1"),
            ),
        ]
    ),
    st.text(
        st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=8
    ),
)
tails = st.lists(pieces, max_size=4).map("".join)
spellings = st.sampled_from(
    [
        lambda text: text,
        str.upper,
        str.lower,
        lambda text: text.replace("-", ""),
        lambda text: f"urn:uuid:{text}",
        lambda text: text.replace("-", "%2d"),
    ]
)
targets = st.one_of(
    st.builds(
        lambda lead, api, image, spell, tail: f"{lead}/{api}/images/{spell(image)}{tail}",
        st.sampled_from(["", "", "", "http://evil.example", "/", "/.", "//evil.example", "/x/.."]),
        st.sampled_from(["v1", "v2"]),
        st.sampled_from(IMAGES),
        spellings,
        tails,
    ),
    tails.map(lambda tail: f"/v2/schemas/image{tail}"),
    tails,
)
hosts = st.sampled_from(
    ["evil.example", "evil.example:80@a.example", "a.example", "[::1", "", "\xff"]
)
fields = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *(
                    "Host",
                    "X-Forwarded-Host",
                    "X-Forwarded-Proto",
                    "X-Original-URL",
                    "X-Rewrite-URL",
                ),
                *(
                    "X-Forwarded-Prefix",
                    "X-Resolver-Region",
                    "X-Resolver-Exclude",
                    "Referer",
                    "Origin",
                ),
            ]
        ),
        hosts,
    ).map(": ".join)
    | hosts.map(lambda host: f"Forwarded: for=1.2.3.4;host={host};proto=https"),
    max_size=3,
)
requests = st.tuples(st.sampled_from(["GET", "HEAD"]), targets, fields)


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    return await start()


async def head_of(port: int, method: str, target: str, extra: list[str]) -> str:
    """The head of the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        host = (
            [] if any(field.startswith("Host:") for field in extra) else ["Host: gateway.example"]
        )
        lines = [f"{method} {target} HTTP/1.1", *host, *extra, "", ""]
        writer.write("\r\n".join(lines).encode("latin-1"))
        async with asyncio.timeout(30):
            return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    finally:
        writer.transport.abort()


def permitted(table: list[RandomLocation], target: str) -> set[str]:
    """The prefixes that a redirect of this request may have, up to the id."""
    starts = set()
    image = re.search(r"/v[12]/images/([^/?#]*)", target)
    if image is not None:
        try:
            image_id = parse_id(re.sub("%2[dD]", "-", image[1]))
        except Exception:
            return set()
        for location in table:
            for n in location.owns if location.state != State.MAINTENANCE else ():
                if parse_id(IMAGES[n]) == image_id:
                    text = IMAGES[n].upper() if location.upper else IMAGES[n]
                    spelling = format_id(image_id, letter_case_of(text))
                    starts |= {f"{location.url}/v{api}/images/{spelling}" for api in (1, 2)}
    elif target.startswith("/v2/schemas/"):
        starts = {f"{p.url}/v2/schemas/" for p in table if p.state != State.MAINTENANCE}
    return starts


async def register(gateway: Gateway, table: list[RandomLocation]) -> None:
    """Replaces all locations of the gateway."""
    for name in (await gateway.services.tables.current()).by_name:
        await gateway.services.registry.remove(name)
    for n, row in enumerate(table):
        await gateway.location(
            f"l{n}", url=row.url, state=row.state, versions=row.versions, covered=False
        )
        for image in row.owns:
            await gateway.claim(f"l{n}", IMAGES[image].upper() if row.upper else IMAGES[image])


@examples(100)
@given(
    st.lists(random_locations, min_size=1, max_size=4), st.lists(requests, min_size=10, max_size=30)
)
async def test_every_redirect_leads_to_a_registered_owner(
    gateway: Gateway, table: list[RandomLocation], sent: list[Any]
) -> None:
    count_examples("redirects: tables of locations")
    await register(gateway, table)
    port = int(gateway.url.rpartition(":")[2])
    redirects = 0
    for method, target, extra in sent:
        head = await head_of(port, method, target, extra)
        lines = head.split("\r\n")[1:-2]
        names = {line.partition(":")[0].lower() for line in lines}
        assert names <= KNOWN_FIELDS, head
        assert not re.search("[\0-\x09\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n)", head), head
        redirect_urls = re.findall(r"(?im)^Location: (.*)\r$", head)
        assert len(redirect_urls) == (" 307 " in head.partition("\r\n")[0])
        redirects += len(redirect_urls)
        redirect_urls += re.findall(r"<([^>]*)>; rel=duplicate", head)
        allowed = permitted(table, target)
        for redirect in redirect_urls:
            segments = re.split(r"[/\\\\]", unquote(redirect.partition("?")[0]))
            assert not {".", ".."} & set(segments), f"{target!r} leads out of {redirect}"
            assert any(
                redirect.startswith(start)
                and (start.endswith("/") or redirect[len(start) :][:1] in ("", "/", "?"))
                for start in allowed
            ), f"{method} {target!r} leads to {redirect}, not to one of {allowed}"
    event("redirects" if redirects else "none")
