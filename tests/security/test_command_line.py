"""What a hostile gateway, or another server in its place, can do to a terminal and to files."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from resolver.cli import main
from resolver.cli.printable import printable, printable_json, printable_lines
from tests.support.plain_server import PlainReply, PlainServer

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

    def answers(self, status: int, value: Any) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.reply = PlainReply(status, body)

    def answer(self, path: str, headers: Message) -> PlainReply:
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


def test_the_rows_of_a_hostile_gateway_are_harmless(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    row = {
        **LOCATION,
        "health": {"state": ESCAPES},
        "sweep": {"images": ESCAPES, "error": ESCAPES, "error_code": ESCAPES, "ended": ESCAPES},
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
