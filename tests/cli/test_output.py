"""Output of commands: forms, columns, the width of a terminal, and names that nearly are right."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from resolver.cli import cli
from resolver.models import Sweep
from tests.cli.test_commands import ID, Run, gateway, run
from tests.gateway.conftest import TOKEN, V1, V2, Gateway, start

__all__ = ["gateway", "run", "start"]


@pytest.fixture
async def locations(gateway: Gateway) -> Gateway:
    """Five locations as those of real clouds are called, one of which cannot be swept."""
    for name in ("frankfurt", "oslo", "bergen", "trondheim"):
        url = f"https://image.{name}.cloud.example:9292/image"
        await gateway.location(name, region=name.title(), url=url)
    number = await gateway.location("old-lab", region="Lab", covered=False, reason="new disks")
    failed = Sweep(error="it answers 401", error_code="unauthorized", failed=time.time())
    await gateway.services.index.records.set_sweep(number, failed)
    return gateway


def _on_terminal(width: int, *arguments: str, **environ: str) -> list[str]:
    """The lines that a command shows on a terminal of this width."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    ran = subprocess.Popen(
        [sys.executable, "-m", "resolver", *arguments],
        stdin=side,
        stdout=side,
        stderr=side,
        env={**environment, "TERM": "xterm", "NO_COLOR": "1", **environ},
    )
    os.close(side)
    shown = b""
    try:
        while data := os.read(main, 65536):
            shown += data
    except OSError:  # the other side is closed
        pass
    ran.wait(30)
    os.close(main)
    plain = shown.decode().replace("\x1b[1m", "").replace("\x1b[0m", "")
    return plain.replace("\r", "").splitlines()


async def on_terminal(gateway: Gateway, width: int, *arguments: str) -> list[str]:
    environ = {"RESOLVER_URL": gateway.url, "RESOLVER_TOKEN": TOKEN}
    return await asyncio.to_thread(_on_terminal, width, *arguments, **environ)


@pytest.mark.parametrize("width", [60, 80, 160])
async def test_a_list_fits_the_terminal_and_cuts_nothing(locations: Gateway, width: int) -> None:
    lines = await on_terminal(locations, width, "locations", "list")
    assert max(map(len, lines)) <= width
    rows = {line.split()[0]: line for line in lines if line.strip()}
    assert len([name for name in rows if name in locations.services.tables.table.by_name]) == 5
    assert "failing:" in rows["old-lab"]
    assert any("unauthorized" in line for line in lines)
    whole = "https://image.trondheim.cloud.example:9292/image"
    assert (whole in rows["trondheim"]) == (width > 150)
    assert any("-o wide also shows: " in line for line in lines) == (width < 150)


async def test_wide_shows_all_on_any_terminal(locations: Gateway) -> None:
    lines = await on_terminal(locations, 60, "locations", "list", "-o", "wide")
    (row,) = (line for line in lines if "old-lab" in line)
    assert "https://old-lab.example:9292" in row
    assert "never swept (unauthorized)" in row
    assert "new disks" in row


async def test_times_in_the_log_are_not_wrapped(run: Run, gateway: Gateway) -> None:
    await run("locations", "add", "one", "https://one.example", "--token-env", "T")
    await run("locations", "set", "one", "--no-auth")
    lines = await on_terminal(gateway, 80, "locations", "log")
    assert max(map(len, lines)) <= 80
    (row,) = (line for line in lines if "change" in line and "one" in line)
    assert row.split()[1].endswith("Z")
    assert "auth: token_env T -> none" in row


async def test_output_formats(run: Run, locations: Gateway) -> None:
    _, out, _ = await run("locations", "list", "-o", "name")
    assert set(out.split()) == {"frankfurt", "oslo", "bergen", "trondheim", "old-lab"}
    _, as_json, _ = await run("locations", "list", "-o", "json")
    assert len(json.loads(as_json)) == 5
    _, same, _ = await run("locations", "list", "--json")
    age = re.compile(r"\d+ s ago")
    assert age.sub("", same) == age.sub("", as_json)
    _, as_yaml, _ = await run("locations", "list", "-o", "yaml")
    names = [row["name"] for row in yaml.safe_load(as_yaml)]
    assert names == [row["name"] for row in json.loads(as_json)]


async def test_columns_are_chosen_by_name(run: Run, locations: Gateway) -> None:
    _, out, _ = await run("locations", "list", "--columns", "url,name,why")
    head, *rows = (line.split("\t") for line in out.splitlines())
    assert head == ["URL", "NAME", "WHY"]
    assert ["https://old-lab.example:9292", "old-lab", "never swept (unauthorized)"] in rows
    status, _, err = await run("locations", "list", "--columns", "regoin")
    assert status == 2
    assert "no column 'regoin' (did you mean 'region'?); there are name, region" in err


async def test_no_locations_are_an_empty_list(run: Run) -> None:
    status, out, _ = await run("locations", "list", "-o", "json")
    assert (status, json.loads(out)) == (0, [])
    status, out, err = await run("locations", "list")
    assert (status, out) == (0, "")
    assert "add one" in err


async def test_resolve_prints_the_download_url_before_the_identifier(
    run: Run, gateway: Gateway
) -> None:
    await gateway.location("one", versions=V2)
    await gateway.location("two", versions=V1)
    await gateway.claim("one", ID)
    await gateway.claim("two", ID)
    _, out, _ = await run("resolve", ID)
    lines = {line.split()[2]: line.split()[3:] for line in out.splitlines()}
    url = f"https://one.example:9292/v2/images/{ID}"
    identifier = f"https://one.example:9292/v1/images/{ID}"
    assert lines["one"] == [url, "(identifier", f"{identifier})"]
    assert lines["two"] == [f"https://two.example:9292/v1/images/{ID}"]


async def test_apply_shows_every_given_field_of_a_new_location(
    run: Run, gateway: Gateway, tmp_path: Path
) -> None:
    file = tmp_path / "locations.yaml"
    one = {"url": "https://one.example", "region": "R1", "auth": {"cloud": "prod"}, "priority": 9}
    file.write_text(yaml.safe_dump({"locations": {"one": one}}))
    _, out, _ = await run("locations", "apply", str(file), "--dry-run")
    (line,) = out.splitlines()
    assert line == "+ one  https://one.example; region: R1; priority: 9; auth: cloud prod"


async def test_a_similar_location_name_is_suggested(run: Run, locations: Gateway) -> None:
    for command in (("show",), ("set", "--weight", "3"), ("check",), ("remove", "--yes"), ("log",)):
        status, _, err = await run("locations", command[0], "olso", *command[1:])
        assert status == 1
        assert "there is no location 'olso' (did you mean 'oslo'?)" in err


def invoke(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, arguments, env=environ)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("locatoins", "list"), "locations"),
        (("location", "list"), "locations"),
        (("locations", "lst"), "list"),
        (("index", "stat"), "stats"),
        (("report", "conflict"), "conflicts"),
    ],
)
def test_a_similar_command_is_suggested(words: tuple[str, ...], meant: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert f"(did you mean {meant!r}?)" in result.output


def test_nothing_is_suggested_for_a_command_unlike_any_other() -> None:
    result = invoke("xyzzy")
    assert result.exit_code == 2
    assert "No such command 'xyzzy'" in result.output
    assert "did you mean" not in result.output


def test_config_shows_the_other_settings_if_one_is_unknown_or_invalid(tmp_path: Path) -> None:
    file = tmp_path / "resolver.toml"
    file.write_text('region = "north"\nprot = 1\n')
    result = invoke("config", RESOLVER_PROT="1", RESOLVER_PORT="99999", RESOLVER_WEIGHT="1")
    assert result.exit_code == 1
    values = [line.split() for line in result.stdout.splitlines()]
    assert ["RESOLVER_PORT", "(invalid)"] in values
    assert ["RESOLVER_HOST", "127.0.0.1"] in values
    error = str(result.exception)
    assert "RESOLVER_PROT (did you mean 'RESOLVER_PORT'?), RESOLVER_WEIGHT: correct" in error
    result = invoke("config", "--json", RESOLVER_CONFIG=str(file))
    assert result.exit_code == 1
    assert json.loads(result.stdout)["region"] == "north"
    assert "unknown setting 'prot'" in str(result.exception)


def test_config_reports_settings_that_contradict_each_other() -> None:
    result = invoke("config", RESOLVER_ABSENT_TTL="100", RESOLVER_CACHE_TTL="10")
    assert result.exit_code == 1
    assert "RESOLVER_ABSENT_TTL: 100 s is longer" in str(result.exception)
