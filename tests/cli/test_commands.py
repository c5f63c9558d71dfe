"""The operator commands against a gateway in this process."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from resolver.cli import cli, main
from tests.gateway.conftest import TOKEN, Gateway, Start, start

__all__ = ["start"]

ID = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
OTHER = "ffffffff-4e5f-4a6b-8c7d-9e0f1a2b3c4d"

Run = Callable[..., Any]


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    return await start()


@pytest.fixture
def run(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in a thread: (exit status, standard output, standard error)."""

    async def run_command(*arguments: str, token: str | None = TOKEN) -> tuple[int, str, str]:
        options = ["--gateway", gateway.url, *(["--token", token] if token else [])]
        capfd.readouterr()

        def call_main() -> int:
            try:
                main([*arguments, *options])
            except SystemExit as end:
                return int(end.code or 0)
            return 0

        status = await asyncio.to_thread(call_main)
        out, err = capfd.readouterr()
        return status, out, err

    return run_command


async def test_locations_are_added_changed_shown_and_removed(run: Run) -> None:
    status, out, err = await run(
        "locations",
        "add",
        "one",
        "https://one.example",
        "--region",
        "R1",
        "--token-env",
        "T",
        "--sees-all",
        "yes",
    )
    assert status == 0, err
    assert "one is https://one.example" in out
    status, out, _ = await run("locations", "set", "one", "--weight", "3", "--no-auth")
    assert (status, out) == (0, "one: changed weight, auth\n")
    _, out, _ = await run("locations", "show", "one", "--json")
    row = json.loads(out)
    assert (row["weight"], row["auth"], row["sees_all"], row["region"]) == (3, None, True, "R1")
    _, out, _ = await run("locations", "show", "one")
    assert "not swept yet" in out
    _, out, _ = await run("locations", "list")
    assert out.splitlines()[1].split("\t")[:3] == ["one", "R1", "active"]
    status, out, _ = await run("locations", "remove", "one", "--yes")
    assert (status, out) == (0, "one: removed\n")
    _, out, err = await run("locations", "list")
    assert "no locations" in err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("locations", "show", "nope"), 1, "there is no location 'nope'"),
        (("locations", "add", "one", "ftp://x"), 1, "http:// or https://"),
        (("locations", "set", "one"), 2, "at least one option"),
        (("locations", "add", "o", "http://x", "--no-auth", "--token-env", "A"), 2, "one of"),
        (("locations", "sweep", "nope"), 1, "no location"),
        (("index", "claim", "nope", ID), 1, "no location"),
        (("resolve",), 2, "give image ids"),
        (("nonsense",), 2, "No such command"),
    ],
)
async def test_failures_are_one_line(
    run: Run, arguments: tuple[str, ...], status: int, message: str
) -> None:
    code, out, err = await run(*arguments)
    assert code == status
    assert message in err
    assert "Traceback" not in err + out


async def test_errors_for_a_wrong_token_and_a_missing_gateway(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, err = await run("locations", "list", token="wrong-token")
    assert status == 1
    assert "does not know this admin token" in err
    _, _, err = await run("locations", "list", token=None)
    assert "give --token, RESOLVER_TOKEN" in err
    with pytest.raises(SystemExit) as end:
        main(["locations", "list", "--gateway", "http://127.0.0.1:1"])
    assert end.value.code == 1
    assert "cannot reach the gateway at http://127.0.0.1:1" in capfd.readouterr().err


async def test_the_exit_status_of_resolve_is_the_outcome(run: Run, gateway: Gateway) -> None:
    status, out, _ = await run("resolve", ID)
    assert (status, out) == (4, f"{ID}  unknown  No location is registered and in service.\n")
    await gateway.location("one")
    status, out, _ = await run("resolve", ID)
    assert (status, out) == (3, f"{ID}  absent\n")
    away = {"state": "maintenance", "reason": "new racks"}
    await gateway.services.registry.put("two", {"url": "https://two.example", **away})
    hidden = OTHER.replace("f", "e")
    await gateway.claim("two", hidden)
    _, out, _ = await run("resolve", hidden)
    _, explained, _ = await run("resolve", hidden, "--explain")
    assert out == f"{hidden}  unknown  {explained.splitlines()[1]}\n"
    assert "two is in maintenance: new racks" in out
    await gateway.services.registry.remove("two")
    status, out, _ = await run("resolve", "my debian")
    assert (status, "--name 'my debian'" in out) == (2, True)
    await gateway.claim("one", ID)
    status, out, _ = await run("resolve", ID.upper())
    assert (status, out) == (
        0,
        f"{ID}  found  one  https://one.example:9292/v2/images/{ID}"
        f"  (identifier https://one.example:9292/v1/images/{ID})\n",
    )
    assert (await run("resolve", ID, OTHER))[0] == 3
    status, out, _ = await run("resolve", ID, "nonsense")
    assert (status, "--name nonsense" in out) == (2, True)
    _, out, _ = await run("resolve", ID, "--json")
    assert json.loads(out)["outcome"] == "found"
    _, out, _ = await run("resolve", ID, "--explain")
    assert "chosen" in out


async def test_claim_release_and_stats(run: Run, gateway: Gateway) -> None:
    await gateway.location("one")
    assert await run("index", "claim", "one", ID, OTHER) == (0, "one: 2 images claimed\n", "")
    assert await run("index", "release", "one", OTHER) == (0, "one: 1 image released\n", "")
    _, out, _ = await run("index", "stats", "--json")
    assert json.loads(out)["locations"]["one"]["claims"] == 1
    _, out, _ = await run("index", "stats")
    assert "images          1" in out
    assert "counted         0 s ago" in out
    head, row = (line.split("\t") for line in out.splitlines()[-2:])
    assert head == ["LOCATION", "CLAIMS", "LISTED", "COVERED", "WHY"]
    assert row[:3] == ["one", "1", "0"]


def test_config_masks_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESOLVER_ADMIN_TOKENS", "ops=verysecret")
    monkeypatch.setenv("RESOLVER_REDIS_URL", "redis://user:verysecret@host:1/2")
    for options in ([], ["--json"]):
        result: Result = CliRunner().invoke(cli, ["config", *options])
        assert result.exit_code == 0
        assert "verysecret" not in result.output
        assert "redis://user:***@host:1/2" in result.output


async def test_rebuild(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    gateway = await start(role="all")
    await gateway.location("one")
    await gateway.claim("one", ID)
    options = ["--gateway", gateway.url, "--token", TOKEN]
    await asyncio.to_thread(run_main, ["index", "rebuild", "--bits", "10", "--wait", *options])
    assert "the index has 1,024 buckets" in capfd.readouterr().out
    assert gateway.services.index.bits == 10
    assert (await gateway.get(f"/resolve/{ID}"))[0].status == 200


def run_main(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code


async def test_add_warns_of_a_url_that_another_location_has(run: Run) -> None:
    status, _, err = await run("locations", "add", "one", "https://one.example")
    assert (status, err) == (0, "")
    status, _, err = await run("locations", "add", "two", "https://one.example/")
    assert (status, err.startswith("one has the same URL")) == (0, True)


async def test_add_refuses_a_name_that_is_taken(run: Run, gateway: Gateway) -> None:
    assert (await run("locations", "add", "one", "https://one.example"))[0] == 0
    status, _, err = await run("locations", "add", "one", "https://other.example")
    assert status == 1
    assert "one is registered already, as https://one.example" in err
    assert "locations set one --url" in err
    assert (await run("locations", "set", "one", "--url", "https://other.example"))[0] == 0
    row = json.loads((await run("locations", "show", "one", "--json"))[1])
    assert row["url"] == "https://other.example"


async def test_remove_asks_and_without_an_answer_removes_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert (await run("locations", "add", "one", "https://one.example"))[0] == 0
    status, _, err = await run("locations", "remove", "one")
    assert status == 1
    assert "remove one (https://one.example, 0 images)?" in err
    assert "--yes does it without asking" in err
    assert (await run("locations", "show", "one"))[0] == 0
    assert (await run("locations", "remove", "one", "--yes"))[0] == 0
    assert (await run("locations", "show", "one"))[0] == 1


async def test_a_catalog_needs_a_public_url_and_regions(run: Run) -> None:
    status, out, err = await run("catalog", token=None)
    assert status == 0
    assert "openstack endpoint create --region global image public http://127.0.0.1:" in out
    assert "set RESOLVER_PUBLIC_URL at the gateway, or give --endpoint" in err
    status, out, err = await run("catalog", "--in-place")
    assert (status, out) == (2, "")
    assert "no location has a region" in err
