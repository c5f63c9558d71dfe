"""What commands print for shells, and the files that they read: each of the wrong kind or size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from resolver.cli import main
from resolver.registry.export_format import FORMAT_NAME
from resolver.resolution.image_reports import import_commands
from tests.security.test_command_line import ESCAPES, Server, assert_harmless, server
from tests.support.plain_server import PlainReply, PlainServer

__all__ = ["server"]

EXAMPLE = Path(__file__).parents[2] / "config" / "locations.example.yaml"
ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
REGION = "R'1 $(id)"
COMMANDS = import_commands(REGION, "R2; id", ID, ID.upper())


def report(server: Server, **changes: str) -> None:
    """``report missing`` of a gateway that answers with these commands."""
    row = {"id": ID, "source": "one", **COMMANDS, **changes}
    server.answers(200, json.dumps(row).encode() + b"\n", Content_Type="application/x-ndjson")
    main(["report", "missing", "--region", REGION, "--gateway", server.url])


def test_the_commands_of_a_report_are_printed(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        report(server)
    *_, line = capfd.readouterr().out.splitlines()
    assert line == f"{COMMANDS['create']} && {COMMANDS['command']}"


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    "change",
    [
        lambda text: f"{text}; id",
        lambda text: f"{text} && id",
        lambda text: f"{text} `id`",
        lambda text: f"{text} $(id)",
        lambda text: f"{text} > file",
        lambda text: f"{text} $HOME",
        lambda text: f"{text} 'open",
        lambda text: f"PATH=. {text}",
        lambda text: text.replace("image", "server", 1),
        lambda text: text.replace("OS_REGION_NAME", "LD_PRELOAD"),
        lambda text: text.replace("OS_REGION_NAME=", "OS_REGION_NAME=$(id)"),
        lambda _: "id",
        lambda _: "",
    ],
)
def test_a_command_that_does_something_else_is_not_printed(
    server: Server, capfd: pytest.CaptureFixture[str], name: str, change: Any
) -> None:
    with pytest.raises(SystemExit, match="1"):
        report(server, **{name: change(COMMANDS[name])})
    out, err = capfd.readouterr()
    assert "did not answer as one" in err
    assert out == ""


@pytest.mark.parametrize(
    "command",
    [
        ("index", "claim", "one", ID),
        ("index", "release", "one", ID),
        ("index", "rebuild", "--bits", "9"),
        ("locations", "apply", str(EXAMPLE)),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("answer", [b"hello", []])
def test_a_change_that_is_not_answered_as_one_is_no_success(
    server: Server, capfd: pytest.CaptureFixture[str], command: tuple[str, ...], answer: Any
) -> None:
    server.answers(200, answer)
    with pytest.raises(SystemExit, match="1"):
        main([*command, "--gateway", server.url])
    out, err = capfd.readouterr()
    assert "did not answer as one" in err
    assert out == ""


class Warner(PlainServer):
    """A report with escape sequences in a header."""

    def answer(self, *_: object) -> PlainReply:
        headers = {"Content-Type": "application/x-ndjson", "X-Resolver-Missing": "\x1b]0;x\x07"}
        return PlainReply(200, b"", headers)


def test_a_header_is_harmless(capfd: pytest.CaptureFixture[str]) -> None:
    with Warner() as server, pytest.raises(SystemExit):
        main(["report", "conflicts", "--gateway", server.url])
    out, err = capfd.readouterr()
    assert "?]0;x?" in err
    assert_harmless(out + err)


@pytest.mark.parametrize(
    "end",
    ["end ", "end x", "end 1 2", "end 1 x s", "end -1 -1 s", "end ² 1 s", "end 1 1 1 1", ESCAPES],
)
def test_an_export_whose_last_line_is_none_is_an_error(
    server: Server, capfd: pytest.CaptureFixture[str], tmp_path: Path, end: str
) -> None:
    content = f"{FORMAT_NAME.decode()} 3\n{end}\n".encode()
    server.answers(200, content, Content_Type="text/plain")
    with pytest.raises(SystemExit, match="1"):
        main(["index", "export", str(tmp_path / "index"), "--gateway", server.url])
    assert "the export is incomplete: it broke off" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_export_to_a_terminal_is_harmless(server: Server) -> None:
    body = FORMAT_NAME + b" 1\n" + ESCAPES.encode() + b"\nend 0 0 digest\n"
    server.answers(200, body, Content_Type="text/plain")
    ours, terminal = os.openpty()
    with open(ours, "rb", buffering=0) as shown, open(terminal, "wb", buffering=0) as output:
        command = ["index", "export", "-", "--gateway", server.url, "--token", "a-token"]
        subprocess.run([sys.executable, "-m", "resolver", *command], stdout=output, check=True)
        text = shown.read(4096).decode().replace("\r\n", "\n")
    assert text.startswith(FORMAT_NAME.decode())
    assert_harmless(text)


def test_an_export_follows_no_link_of_another_user(
    server: Server,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a folder that everybody can write into, it could lead to any file of this user."""
    content = FORMAT_NAME + b" 3\nend 0 0 sha256=0\n"
    server.answers(200, content, Content_Type="text/plain")
    victim, link = tmp_path / "victim", tmp_path / "index"
    victim.write_text("precious")
    link.symlink_to(victim)
    command = ["index", "export", str(link), "--gateway", server.url]
    with pytest.raises(SystemExit, match="0"):
        main(command)
    assert victim.read_bytes() == content, "one's own is followed"
    if os.getuid() == 0:
        os.lchown(link, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    victim.write_text("precious")
    with pytest.raises(SystemExit, match="1"):
        main(command)
    assert "it is a link that another user has made" in capfd.readouterr().err
    assert victim.read_text() == "precious"


CONTENTS = {
    "sparse": None,
    "bytes": b"\xff\xfe" * 20,
    "empty": b"",
    "two lines": b"one-token\ntwo\n",
    "nul": b"a\0-token-of-some-length",
    "escapes": ESCAPES.encode(),
    "long": b"a" * 20_000,
}


def make_larger_than_memory(file: Path) -> None:
    """Makes a file of zeros that takes no room."""
    file.touch()
    os.truncate(file, 1 << 40)


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_token_file_that_has_no_token_is_one_line(
    server: Server,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    file = tmp_path / "token"
    content = CONTENTS[kind]
    if content is None:
        make_larger_than_memory(file)
    else:
        file.write_bytes(content)
    monkeypatch.setenv("RESOLVER_TOKEN_FILE", str(file))
    with pytest.raises(SystemExit, match="2"):
        main(["locations", "list", "--gateway", server.url])
    err = capfd.readouterr().err
    assert f"RESOLVER_TOKEN_FILE {file}: " in err
    assert_harmless(err)
    assert server.asked == 0


def test_a_token_may_come_from_a_pipe(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    os.mkfifo(file)
    writer = threading.Thread(target=file.write_text, args=("a-token-of-some-length\n",))
    writer.start()
    monkeypatch.setenv("RESOLVER_TOKEN_FILE", str(file))
    server.answers(200, {"locations": []})
    with pytest.raises(SystemExit, match="0"):
        main(["locations", "list", "--gateway", server.url])
    writer.join()
    assert server.asked == 1


@pytest.mark.parametrize("name", ["RESOLVER_CONFIG", "RESOLVER_TLS_CERT"])
def test_a_file_larger_than_memory_is_one_line(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    file = tmp_path / "file"
    make_larger_than_memory(file)
    monkeypatch.setenv(name, str(file))
    with pytest.raises(SystemExit, match="1"):
        main(["serve", "--port", "0"])
    out, err = capfd.readouterr()
    assert "it is longer than" in out + err
    assert "Traceback" not in out + err
