"""What the operator commands send, to whom, and with which token."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import click
import pytest

from resolver import __version__
from resolver.cli import main
from resolver.cli.answer_shapes import MEMBERS, is_front
from resolver.cli.gateway_client import Gateway, GatewayAddress, GatewayError, read_token
from resolver.cli.stream_client import StreamRequest
from tests.support.plain_server import PlainReply, PlainServer

TOKEN = "a-secret-of-operators"


class Server(PlainServer):
    """A server that is not a gateway. It remembers each request's authorization; ``elsewhere``:
    where it redirects every request, if anywhere."""

    def __init__(self, elsewhere: str = "") -> None:
        super().__init__()
        self.elsewhere = elsewhere
        self.seen: list[tuple[str, str | None]] = []

    def answer(self, path: str, headers: Message) -> PlainReply:
        self.seen.append((path, headers["Authorization"]))
        if self.elsewhere:
            return PlainReply(307, headers={"Location": self.elsewhere + path})
        return PlainReply()


@pytest.fixture
def target() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def redirecting(target: Server) -> Iterator[Server]:
    with Server(elsewhere=target.url) as server:
        yield server


def test_a_redirect_is_not_followed_with_the_token(redirecting: Server, target: Server) -> None:
    with pytest.raises(GatewayError, match=f"answered 307 and names {target.url}/locations"):
        Gateway(redirecting.url, TOKEN).call("GET", "/locations")
    with pytest.raises(GatewayError, match="answered 307"):
        list(StreamRequest(redirecting.url, TOKEN).get("/index/export"))
    with pytest.raises(GatewayError, match="answered 307"):
        StreamRequest(redirecting.url, TOKEN).post("/index/import", [b"x"])
    assert len(redirecting.seen) == 3
    assert target.seen == []


class OtherVersion(PlainServer):
    """A gateway of another version, whose members have no ids."""

    def answer(self, path: str, headers: Message) -> PlainReply:
        member = {"host": "a", "pid": 1, "role": "all", "version": "0.0.9", "since": None}
        document = {"version": "0.0.9"} if path == "/status" else {"members": [member]}
        return PlainReply(body=json.dumps(document).encode())


def test_an_answer_of_another_version_names_both_versions() -> None:
    with OtherVersion() as server, pytest.raises(GatewayError) as error:
        Gateway(server.url, TOKEN).call("GET", "/members", shape=MEMBERS)
    assert f"has version 0.0.9 and this command {__version__}" in error.value.detail
    assert "has no member 'id'" in error.value.detail


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_loopback_is_not_asked_through_a_proxy(
    target: Server, redirecting: Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv(name, redirecting.url)
    assert Gateway(target.url, TOKEN).call("GET", "/locations") == {}
    assert target.seen == [("/locations", f"Bearer {TOKEN}")]
    assert redirecting.seen == []


@pytest.mark.parametrize("url", ["http://gateway.example:9393", "http://192.0.2.1", "http://[::2]"])
def test_a_token_goes_over_http_to_loopback_only(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(click.UsageError, match="RESOLVER_ALLOW_HTTP"):
        GatewayAddress(url, TOKEN)
    GatewayAddress(url, None)  # nothing to read
    GatewayAddress(url.replace("http:", "https:"), TOKEN)
    monkeypatch.setenv("RESOLVER_ALLOW_HTTP", "true")
    GatewayAddress(url, TOKEN)


@pytest.mark.parametrize(
    "token", ["secret\n", "secret\r\nX-Other: 1", "secret secret", "sécret", "密"]
)
def test_the_error_for_an_invalid_token_does_not_show_it(
    target: Server, capfd: pytest.CaptureFixture[str], token: str
) -> None:
    """As from a file read with its last line break."""
    for option in ("--token", "--auth-token"):
        with pytest.raises(SystemExit, match="2"):
            main(["resolve", "--name", "debian", "--gateway", target.url, option, token])
        err = capfd.readouterr().err
        assert "a line break at its end?" in err
        assert token.split(maxsplit=1)[0] not in err
    assert target.seen == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"])
def test_loopback_needs_no_tls(url: str) -> None:
    assert GatewayAddress(url, TOKEN).headers == {"Authorization": f"Bearer {TOKEN}"}


def test_the_token_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("RESOLVER_TOKEN_FILE", str(file))
    assert read_token(None) == TOKEN
    assert read_token("given") == "given"
    for wrong in ("", "two lines\nof it", "with space x"):
        file.write_text(wrong)
        with pytest.raises(click.UsageError, match="one line, the token"):
            read_token(None)
    file.unlink()
    with pytest.raises(click.UsageError, match="No such file"):
        read_token(None)


def test_commands_take_the_token_from_the_file(
    tmp_path: Path, target: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    monkeypatch.setenv("RESOLVER_TOKEN_FILE", str(file))
    monkeypatch.setenv("RESOLVER_URL", target.url)
    assert "RESOLVER_TOKEN" not in os.environ
    with pytest.raises(SystemExit):  # its answer is not that of a gateway
        main(["locations", "show", "one", "--json"])
    assert target.seen[0] == ("/locations/one", f"Bearer {TOKEN}")


def test_http_where_the_gateway_speaks_https_is_named(target: Server) -> None:
    """And the reverse."""
    with pytest.raises(GatewayError, match="does it speak http, not https"):
        Gateway(target.url.replace("http:", "https:"), None).call("GET", "/")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(GatewayError, match="does it speak https, not http"):
            Gateway(url, None).call("GET", "/")
        thread.join()


def test_text_from_servers_cannot_control_the_terminal() -> None:
    elsewhere = "http://\x1b]0;title\x07\x9b2Jx"
    with Server(elsewhere) as server, pytest.raises(GatewayError) as caught:
        Gateway(server.url, TOKEN).call("GET", "/locations")
    assert str(caught.value).isprintable()
    assert "answered 307 and names http://?]0;title" in str(caught.value)


@pytest.mark.parametrize("value", [{}, [], 7, True, "x", "-1"])
def test_what_is_no_id_is_no_front_of_a_sweep(value: object) -> None:
    """With Python 3.12 and newer a dict has another error for a slice than with 3.11."""
    assert not is_front(value)
