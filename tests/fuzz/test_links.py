"""`Link` fields of a hostile gateway: the operator commands ask that gateway only, or nobody."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import Message

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resolver.cli.gateway_client import Gateway
from tests.fuzz.conftest import count_examples, examples
from tests.support.plain_server import PlainReply, PlainServer

PARTS = st.sampled_from(
    [
        *(
            "<",
            ">",
            ";",
            ",",
            '"',
            "\\",
            " ",
            "\t",
            "/",
            "//",
            "rel=next",
            'rel="next"',
            "REL=next",
        ),
        *("http://", "https://elsewhere.example/", "/resolve?marker=a", "@", "?", "#", "..", "%0d"),
        *('</resolve?a=b>; rel="next"', '<//elsewhere.example/>; rel="next"', "anchor=x", "\xff"),
    ]
)
LINKS = st.lists(
    PARTS | st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=9)
).map("".join)


class LinkServer(PlainServer):
    """A server whose first answer to each `pages` has a `Link`."""

    def __init__(self) -> None:
        super().__init__()
        self.link = ""
        self.asked: list[str] = []

    def answer(self, path: str, headers: Message) -> PlainReply:
        self.asked.append(path)
        return PlainReply(body=b"[]", headers={"Link": self.link} if len(self.asked) == 1 else {})


@pytest.fixture
def server() -> Iterator[LinkServer]:
    with LinkServer() as server:
        yield server


@examples(150)
@given(LINKS)
@example('<//elsewhere.example/x>; rel="next"')
@example('</resolve?name=a&marker=b>; rel="next"')
def test_a_link_leads_to_the_same_gateway_or_nowhere(server: LinkServer, link: str) -> None:
    count_examples("links: read by commands")
    server.link, server.asked = link, []
    pages = list(
        Gateway(server.url, None).pages("/resolve?name=a", headers={}, on_headers=lambda _: None)
    )
    assert len(pages) == len(server.asked) <= 2
    if len(pages) == 2:
        target = server.asked[1]
        # http.server makes one slash of several at the beginning.
        assert target.startswith("/")
        assert target.lstrip("/") == link.strip(" \t")[1:].partition(">")[0].lstrip("/")
