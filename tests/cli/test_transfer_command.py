"""`index export` and `index import` as typed, against gateways of this process."""

from __future__ import annotations

import gzip
import io
import os
import random
import sys
from email.message import Message
from pathlib import Path

import pytest

from resolver.cli import main
from resolver.cli.transfer_progress import TransferProgress
from resolver.models import Location
from resolver.registry.export_format import Writer
from tests.cli.test_commands import Run, gateway, run
from tests.gateway.conftest import Gateway, start
from tests.gateway.test_transfer import contents, fill
from tests.support.plain_server import PlainReply, PlainServer

__all__ = ["gateway", "run", "start"]


@pytest.fixture
async def text(gateway: Gateway, run: Run, tmp_path: Path) -> bytes:
    """An export of a gateway with locations and claims. The gateway is empty afterwards."""
    await fill(gateway)
    file = tmp_path / "first"
    status, _, err = await run("index", "export", str(file))
    assert status == 0, err
    for name in ("one", "two", "three"):
        await gateway.services.registry.remove(name)
    await gateway.services.index.claims.purge([1, 2, 3])
    return file.read_bytes()


@pytest.mark.parametrize("name", ["index.gz", "index.txt"])
async def test_export_and_import(gateway: Gateway, run: Run, tmp_path: Path, name: str) -> None:
    before = await fill(gateway)
    file = tmp_path / name
    file.write_bytes(b"an older export")
    status, out, err = await run("index", "export", str(file))
    assert (status, out) == (0, "")
    claims = sum(map(len, before.values()))
    assert err.startswith("exported ")
    assert f" images with {claims:,} claims in " in err
    assert os.listdir(tmp_path) == [name]
    data = file.read_bytes()
    assert (gzip.decompress(data) if name.endswith(".gz") else data).endswith(b"\n")
    await gateway.services.registry.remove("two")
    status, out, err = await run("index", "import", str(file))
    assert (status, err) == (0, "")
    assert f"{claims:,} claims, {len(before['two']):,} of them new" in out
    assert out.endswith("3 locations, registered: two\n")
    assert await contents(gateway.services.index) == before
    status, out, _ = await run("index", "import", str(file))
    assert (status, "claims, 0 of them new, in" in out) == (0, True)


async def test_standard_input_and_output(
    gateway: Gateway, run: Run, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in (text, gzip.compress(text)):
        source = io.TextIOWrapper(io.BufferedReader(io.BytesIO(data)))  # type: ignore[type-var]
        monkeypatch.setattr(sys, "stdin", source)
        assert (await run("index", "import", "-"))[0] == 0
    status, out, err = await run("index", "export", "-")
    assert (status, out.encode()) == (0, text)
    assert "exported" in err


async def test_an_export_to_a_device_does_not_replace_it(
    gateway: Gateway, run: Run, tmp_path: Path
) -> None:
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    assert (await run("index", "export", str(link)))[0] == 0
    assert link.is_symlink()
    assert not os.path.isfile(os.devnull)  # noqa: ASYNC240


class Exporting(PlainServer):
    """A gateway with an export that is not complete."""

    def __init__(self, export: PlainReply) -> None:
        super().__init__()
        self.export = export

    def answer(self, path: str, headers: Message) -> PlainReply:
        return self.export


HEAD = Writer([]).head()
STOPPED = HEAD + Writer.error("Redis went away")


@pytest.mark.parametrize(
    ("export", "why"),
    [
        (PlainReply(body=HEAD), "it broke off"),
        (PlainReply(body=HEAD, is_cut=True), "it broke off"),
        (PlainReply(body=STOPPED), "Redis went away"),
        (PlainReply(body=STOPPED, is_cut=True), "Redis went away"),
    ],
)
def test_an_incomplete_export_leaves_the_older_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], export: PlainReply, why: str
) -> None:
    file = tmp_path / "index.gz"
    file.write_bytes(b"an older export")
    with Exporting(export) as server, pytest.raises(SystemExit, match="1"):
        main(["index", "export", str(file), "--gateway", server.url, "--token", "a-token"])
    err = capfd.readouterr().err
    assert err == f"glance-resolver: the export is incomplete: {why}\n"
    assert file.read_bytes() == b"an older export"
    assert os.listdir(tmp_path) == ["index.gz"]


async def test_a_refused_export_leaves_the_older_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "index.gz"
    file.write_bytes(b"an older export")
    status, _, err = await run("index", "export", str(file), token="wrong-token")
    assert (status, "RESOLVER_ADMIN_TOKENS" in err) == (1, True)
    assert file.read_bytes() == b"an older export"
    assert os.listdir(tmp_path) == ["index.gz"]


async def test_a_damaged_file(run: Run, text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "index.gz"
    packed = gzip.compress(text)
    for data, message in (
        (packed[: len(packed) // 2], "index.gz: Compressed file ended before"),
        (packed[:-8] + b"12345678", "index.gz: CRC check failed"),
        (packed[:1000] + b"\0" * 50 + packed[1050:], "index.gz: "),
        (text[:-100], ": line "),
        (text.replace(b" 0\n", b" 1\n", 1), "checksum"),
    ):
        file.write_bytes(data)
        status, out, err = await run("index", "import", str(file))
        assert (status, out) == (1, ""), data[:20]
        assert message in err
        assert err.count("\n") == 1
    file.write_bytes(packed[: len(packed) // 2])
    _, _, err = await run("index", "import", str(file))
    assert "line " in err  # the message of the gateway, which says what was imported


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("export",), 2, "Missing argument"),
        (("export", "/nowhere/x"), 1, "/nowhere/x: No such file"),
        (("import", "/nowhere/x"), 1, "/nowhere/x: No such file"),
        (("import", "/"), 1, "/: Is a directory"),
        (("import", os.devnull), 1, "line 1: the file ends"),
        (("import", __file__), 1, "line 1: it is not an export of glance-resolver"),
    ],
)
async def test_failures_are_one_line(
    run: Run, arguments: tuple[str, ...], status: int, message: str
) -> None:
    code, _, err = await run("index", *arguments)
    assert (code, message in err) == (status, True), err
    assert "Traceback" not in err


async def test_no_gateway(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"")
    for subcommand in ("export", "import"):
        with pytest.raises(SystemExit) as end:
            run_index(subcommand, str(file), "--gateway", "http://127.0.0.1:1")
        assert end.value.code == 1
        assert "cannot reach the gateway at http://127.0.0.1:1: " in capfd.readouterr().err
    assert file.read_bytes() == b""


def run_index(*arguments: str) -> None:
    from resolver.cli import main  # noqa: PLC0415

    main(["index", *arguments])


async def test_a_refusal_is_seen_while_a_large_file_is_sent(
    gateway: Gateway, run: Run, tmp_path: Path
) -> None:
    """The gateway refuses after the first lines, long before the file's end."""
    file = tmp_path / "x"
    rest = random.Random(1).randbytes(64) * 400_000  # 25 MB
    file.write_bytes(b"not an export\n" + rest)
    status, _, err = await run("index", "import", str(file))
    assert (status, "line 1: it is not an export" in err) == (1, True)
    status, _, err = await run("index", "import", str(file), token="wrong-token")
    assert (status, "RESOLVER_ADMIN_TOKENS" in err) == (1, True)
    await gateway.location("one", url="https://moved.example")
    writer = Writer([Location(name="one", url="https://one.example")])
    file.write_bytes(writer.head() + rest)
    status, _, err = await run("index", "import", str(file))
    assert (status, "remove it here or set its URL first" in err) == (1, True)


def test_the_progress_bar_passes_all_bytes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    chunks = [b"glance-resolver-index 1\nsum x\n80", b"00\n8000a\nff", b"ff ", b"end"]
    progress = TransferProgress("import")
    assert list(progress.watch(chunks)) == chunks
    assert "images" in output.getvalue()
