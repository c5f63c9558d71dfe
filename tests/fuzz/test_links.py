"""`Link` fields of a hostile gateway: the operator commands ask that gateway only, or nobody."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resolver.cli.gateway_client import Gateway
from tests.fuzz.conftest import count_examples, examples

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


class LinkServer:
    """A server whose first answer to each `pages` has a `Link`."""

    def __init__(self) -> None:
        self.link = ""
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # the name is that of http.server
                outer.asked.append(self.path)
                self.send_response(200)
                if len(outer.asked) == 1:
                    self.send_header("Link", outer.link)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"[]")

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[LinkServer]:
    server = LinkServer()
    yield server
    server.close()


@examples(150)
@given(LINKS)
@example('<//elsewhere.example/x>; rel="next"')
@example('</resolve?name=a&marker=b>; rel="next"')
def test_a_link_leads_to_the_same_gateway_or_nowhere(server: LinkServer, link: str) -> None:
    count_examples("links: read by commands")
    server.link, server.asked = link, []
    pages = list(Gateway(server.url, None).pages("/resolve?name=a", headers={}))
    assert len(pages) == len(server.asked) <= 2
    if len(pages) == 2:
        target = server.asked[1]
        # http.server makes one slash of several at the beginning.
        assert target.startswith("/")
        assert target.lstrip("/") == link[1:].partition(">")[0].lstrip("/")
