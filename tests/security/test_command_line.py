"""What a hostile gateway, or another server in its place, can do to a terminal and to files."""

from __future__ import annotations

import contextlib
import json
import secrets
import socketserver
import threading
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from resolver.bounded_http import MAX_DOCUMENT_BYTES, MAX_HEAD_BYTES
from resolver.cli import main
from resolver.cli.gateway_client import MAX_PAGES
from resolver.cli.printable import printable, printable_json, printable_lines
from resolver.cli.stream_client import MAX_LINE_BYTES
from tests.support.plain_server import PlainReply, PlainServer
from tests.support.wait import POLL_SECONDS

ESCAPES = "\x1b]0;title\x07 \x1b[2J \x9b31m \u202eevil\u2066 a\rb\x08 \x7f"
LOCATION = {
    "name": ESCAPES,
    "url": ESCAPES,
    "region": ESCAPES,
    "state": "active",
    "reason": ESCAPES,
    ESCAPES: [ESCAPES, {ESCAPES: ESCAPES}],
}


class Server(PlainServer):
    """A hostile gateway, which answers every request with the same bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.reply = PlainReply()
        self.asked = 0

    def answers(self, status: int, value: Any, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        fields = {name.replace("_", "-"): text for name, text in headers.items()}
        self.reply = PlainReply(status, body, fields)

    def answer(self, path: str, headers: Message) -> PlainReply:
        self.asked += 1
        return self.reply


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def assert_harmless(text: str) -> None:
    for line in text.split("\n"):
        assert line.replace("\t", "").isprintable(), repr(line)


COMMANDS = [
    ("locations", "list"),
    ("locations", "list", "-o", "json"),
    ("locations", "show", "one"),
    ("locations", "check", "one"),
    ("locations", "log"),
    ("locations", "remove", "one", "--yes"),
    ("locations", "sweep", "one"),
    ("resolve", "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"),
    ("index", "stats"),
    ("report", "conflicts"),
    ("status",),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("status", [400, 401, 503])
def test_the_text_of_an_error_is_harmless(
    server: Server, capfd: pytest.CaptureFixture[str], command: tuple[str, ...], status: int
) -> None:
    server.answers(status, {"detail": ESCAPES, "title": ESCAPES, "code": ESCAPES})
    with pytest.raises(SystemExit):
        main([*command, "--gateway", server.url, "--token", "a-token"])
    out, err = capfd.readouterr()
    assert_harmless(out + err)


LISTS = ("locations", "members", "changes", "steps", "problems")

READING_COMMANDS = [
    *COMMANDS,
    ("status", "--json"),
    ("members",),
    ("resolve", "--explain", "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"),
    ("resolve", "--name", "a"),
    ("catalog", "--in-place", "--endpoint", "https://images.example"),
    ("catalog",),
    ("report", "missing", "--region", "a"),
    ("index", "export", "-"),
]


@pytest.mark.parametrize("command", READING_COMMANDS, ids=" ".join)
def test_an_answer_that_is_none_of_a_gateway_is_an_error(
    server: Server, capfd: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    answers: dict[str, Any] = {
        "no JSON": b"hello",
        "empty": b"",
        "no UTF-8": b'{"a": "\xff"}',
        "deep": b"[" * 2_000_000,
        "less deep": {"locations": deep},
        "long number": b'{"images": ' + b"9" * 5000 + b"}",
        "list": [],
        "list of texts": ["a"],
        "text": "a",
        "null": b"null",
        "object": {},
        "members of other types": {
            **dict.fromkeys(("locations", "members", "changes", "steps", "problems"), 1),
            **{name: [1] for name in ("id", "outcome", "owners", "sweep", "health", "ok")},
        },
        "rows of other types": {name: ["a"] for name in LISTS},
        "rows without members": {name: [{}] for name in LISTS},
    }
    for kind, answer in answers.items():
        if answer == [] and command[:2] == ("resolve", "--name"):
            continue  # nothing matches
        server.answers(200, answer, Content_Type="application/json")
        with pytest.raises(SystemExit) as ended:
            main([*command, "--gateway", server.url, "--token", "a-token"])
        _, err = capfd.readouterr()
        assert ended.value.code in (1, 2), kind
        assert "did not answer as one" in err or "what answers there has no version" in err, kind
        assert_harmless(err)


@pytest.mark.parametrize(
    "command", [("report", "conflicts"), ("report", "missing", "--region", "a")], ids=" ".join
)
@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"[]\n",
        b"[" * 5000 + b"\n",
        b"{}\n",
        b"hello\n",
        b'{"id": "a", "owners": [], "source": null, "reason": ""}',
        b'{"id": "a", "source": "b", "owners": [1]}\n',
        b"a" * (MAX_LINE_BYTES + 1) + b"\n",
        b"a" * (MAX_LINE_BYTES + 1),
    ],
    ids=lambda body: body[:20].decode(),
)
def test_a_stream_that_is_no_report_is_an_error(
    server: Server, capfd: pytest.CaptureFixture[str], command: tuple[str, ...], body: bytes
) -> None:
    server.answers(200, body, Content_Type="application/x-ndjson")
    with pytest.raises(SystemExit, match="1"):
        main([*command, "--gateway", server.url, "--token", "a-token"])
    out, err = capfd.readouterr()
    assert "did not answer as one" in err
    assert "0 images" not in out + err


def test_a_text_that_is_no_export_is_not_written(
    server: Server, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.answers(200, b"glance-resolver-indices\n" * 100_000, Content_Type="text/plain")
    file = tmp_path / "index"
    with pytest.raises(SystemExit, match="1"):
        main(["index", "export", str(file), "--gateway", server.url])
    assert "did not answer as one: it sent no export" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_listing_without_end_is_an_error(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answers(200, [], Link='</resolve?marker=x>; rel="next"')
    with pytest.raises(SystemExit, match="1"):
        main(["resolve", "--name", "a", "--gateway", server.url, "--auth-token", "a-token"])
    assert "its listing does not end" in capfd.readouterr().err
    assert server.asked == MAX_PAGES


ENDLESS = {
    "document": lambda: (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n["
        + b'"a",' * (MAX_DOCUMENT_BYTES // 4 + 65_536)
    ),
    "error": lambda: b"HTTP/1.1 503 Nope\r\n\r\n" + b" " * (MAX_DOCUMENT_BYTES + 262_144),
    "interim responses": lambda: b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD_BYTES // 25 + 65_536),
}
"""Answers that are sent again and again; of each more than is read. Every worker that runs tests
reads this file: each is made where it is needed."""


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_answer_without_end_is_an_error(capfd: pytest.CaptureFixture[str], kind: str) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Endless) as server:
        server.daemon_threads = True
        server.content = ENDLESS[kind]()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            for command in (("status",), ("index", "export", "-")):
                if kind == "document" and command[0] == "index":
                    continue  # it is refused by its type
                with pytest.raises(SystemExit, match="1"):
                    main([*command, "--gateway", url])
                assert "the answer is too long" in capfd.readouterr().err
        finally:
            server.shutdown()
            thread.join()


class _Endless(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(self.server.content)  # type: ignore[attr-defined]


def test_the_rows_of_a_hostile_gateway_are_harmless(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    row = {
        **LOCATION,
        "health": {"state": ESCAPES},
        "sweep": {"images": ESCAPES, "error": ESCAPES, "error_code": ESCAPES, "ended": None},
        "vouches": True,
        "serves": [ESCAPES],
        **dict.fromkeys(("priority", "weight", "auth"), ESCAPES),
        "coverage": {"covered": False, "why": ESCAPES},
    }
    server.answers(200, {"locations": [row]})
    for form in ("table", "wide", "json", "yaml", "name"):
        with pytest.raises(SystemExit):
            main(["locations", "list", "-o", form, "--gateway", server.url, "--token", "a-token"])
        out, err = capfd.readouterr()
        assert "title" in out
        assert_harmless(out + err)


def test_bytes_that_are_no_http_are_harmless(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answers(200, ESCAPES.encode())
    with pytest.raises(SystemExit):
        main(["index", "export", "-", "--gateway", server.url, "--token", "a-token"])
    _, err = capfd.readouterr()
    assert_harmless(err)


def test_printable_texts_are_left_as_they_are() -> None:
    for text in ("", "plain", "Région 7", 'a "b" {}', "日本"):
        assert printable(text) == text
    assert printable_json({"a": [1, None, True, "x"]}) == {"a": [1, None, True, "x"]}
    assert printable_lines("a\nb\x1b") == "a\nb?"


def test_an_export_writes_through_no_link(
    server: Server,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where another user can write into the folder, and guesses the name of the part."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "guessed")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "index.guessed.part").symlink_to(victim)
    server.answers(200, b"anything")
    file = str(tmp_path / "index")
    with pytest.raises(SystemExit):
        main(["index", "export", file, "--gateway", server.url, "--token", "a-token"])
    assert victim.read_text() == "precious"
    assert "index" in capfd.readouterr().err
    assert not (tmp_path / "index").exists()
