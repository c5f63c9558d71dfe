"""`healthcheck` against `serve`, each as a separate process, as in a container."""

from __future__ import annotations

import os
import signal
from email.message import Message
from pathlib import Path

import pytest

from resolver.cli import main
from resolver.cli.runtime_file import loopback_url
from tests.cli.test_serve import run, serve
from tests.support.certificates import Authority
from tests.support.plain_server import PlainReply, PlainServer
from tests.support.redis import free_port


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("::1", "http://[::1]:1"),
        ("192.0.2.7", "http://192.0.2.7:1"),
        ("localhost", "http://localhost:1"),
    ],
)
def test_healthcheck_asks_an_address_that_the_gateway_listens_on(host: str, url: str) -> None:
    assert loopback_url(host, 1, tls=False) == url
    assert loopback_url(host, 1, tls=True) == url.replace("http:", "https:")


async def test_healthcheck_reads_the_settings_of_serve(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "resolver.toml"
    config.write_text(f'port = {port}\nhost = "0.0.0.0"\n')
    environ = {"RESOLVER_CONFIG": str(config)}
    url = f"http://127.0.0.1:{port}/healthcheck"
    async with serve(options=(), **environ):
        assert await run("healthcheck", **environ) == (0, f"{url} answered 200\n", "")
        environ = {"RESOLVER_PORT": str(port)}
        assert await run("healthcheck", **environ) == (0, f"{url} answered 200\n", "")
        assert await run("healthcheck", "--port", str(port)) == (0, f"{url} answered 200\n", "")
        # A proxy of the environment is not used for this host.
        environ |= {"http_proxy": "http://127.0.0.1:1"}
        assert (await run("healthcheck", **environ))[0] == 0
    status, out, err = await run("healthcheck", **environ)
    assert (status, out) == (1, "")
    assert err == f"glance-resolver: {url} does not answer: [Errno 111] Connection refused\n"


class Moved(PlainServer):
    """Redirects all but ``/elsewhere``."""

    def answer(self, path: str, headers: Message) -> PlainReply:
        moved = PlainReply(302, b"", {"Location": "/elsewhere"})
        return PlainReply(200) if path == "/elsewhere" else moved


def test_a_redirect_is_not_healthy(capfd: pytest.CaptureFixture[str]) -> None:
    with Moved() as server:
        port = server.url.rpartition(":")[2]
        with pytest.raises(SystemExit, match="1"):
            main(["healthcheck", "--host", "127.0.0.1", "--port", port])
    assert "answered 302" in capfd.readouterr().err


async def test_healthcheck_over_tls_does_not_verify_the_certificate(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("gateway.example")
    environ = files.environ | {"RESOLVER_PORT": str(free_port())}
    async with serve(options=(), **environ):
        status, out, err = await run("healthcheck", **environ)
        assert (status, out.startswith("https://127.0.0.1:")) == (0, True), err


async def test_options_of_serve_combine_with_tls_from_a_configuration_file(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("gateway.example")
    config = tmp_path / "resolver.toml"
    config.write_text(f'port = 1\ntls_cert = "{files.cert}"\ntls_key = "{files.key}"\n')
    environ = {"RESOLVER_CONFIG": str(config), "XDG_RUNTIME_DIR": str(tmp_path)}
    async with serve(**environ) as server:
        assert server.url.startswith("https://")
        url = f"{server.url}/healthcheck"
        assert await run("healthcheck", **environ) == (0, f"{url} answered 200\n", "")


@pytest.mark.parametrize(
    "workers", [(), pytest.param(("--workers", "2"), marks=pytest.mark.redis)], ids=["1", "2"]
)
async def test_options_of_serve_are_found_in_the_runtime_folder(
    tmp_path: Path, workers: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    if workers:
        environ["RESOLVER_REDIS_URL"] = request.getfixturevalue("redis_url")
    (tmp_path / "glance-resolver-9393.url").write_text(
        "http://127.0.0.1:1\n"
    )  # of a server that was killed
    async with serve(*workers, "--host", "0.0.0.0", **environ) as server:
        url = f"{server.url}/healthcheck"
        assert await run("healthcheck", **environ) == (0, f"{url} answered 200\n", "")
        # Another port in the settings means another gateway.
        assert (await run("healthcheck", RESOLVER_PORT="1", **environ))[0] == 1
        assert (await run("healthcheck", "--port", "1", **environ))[0] == 1
        server.process.send_signal(signal.SIGTERM)
        assert await server.process.wait() == 0
    assert os.listdir(tmp_path) == []


async def test_a_free_port_is_found_in_the_runtime_folder(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path), "RESOLVER_PORT": "0"}
    async with serve(options=(), **environ) as server:
        url = f"{server.url}/healthcheck"
        assert await run("healthcheck", **environ) == (0, f"{url} answered 200\n", "")


async def test_a_runtime_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    async with serve(XDG_RUNTIME_DIR=str(tmp_path / "none")) as server:
        assert (
            "glance-resolver-9393.url: No such file or directory; `healthcheck` needs the same "
            in (server.output)
        )


@pytest.mark.parametrize(
    ("arguments", "environ", "status", "message"),
    [
        ((), {"RESOLVER_PROT": "1"}, 1, "unknown setting RESOLVER_PROT"),
        (("--timeout", "0"), {}, 2, "--timeout"),
        (("--port", "x"), {}, 2, "--port"),
        (("--host", "no such host"), {}, 1, "does not answer"),
    ],
)
async def test_failures_are_one_clear_line(
    arguments: tuple[str, ...], environ: dict[str, str], status: int, message: str
) -> None:
    code, out, err = await run("healthcheck", *arguments, **environ)
    assert (code, out) == (status, "")
    assert message in err
    assert "Traceback" not in err
