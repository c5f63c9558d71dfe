"""`locations apply`, `discover`, `check` and `sweep`, and tables."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from resolver.cli import cli, main, output
from resolver.cli.apply_command import difference, kept_fields
from resolver.cli.discover_command import classify_endpoint, location_name
from resolver.cli.sweep_command import SweepProgress
from resolver.glance import keystone
from resolver.models import Poll, Sweep
from resolver.registry.presentation import fields_of
from resolver.registry.validation import parse_location
from resolver.registry.yaml_file import read_locations
from resolver.standin import StandIn
from resolver.standin.call import Caller
from resolver.sync.indexer_watch import MISSED_CHECKS
from tests.cli.test_commands import Run, gateway, run
from tests.gateway.conftest import ADMIN, TOKEN, Gateway, Start, start
from tests.support.faults import Switch, status

__all__ = ["gateway", "run", "start"]

ONE = {"url": "https://one.example", "region": "R1"}


def row(name: str, **fields: Any) -> dict[str, Any]:
    """A location as the gateway shows it, with the fields that `difference` reads."""
    return {"name": name, **json.loads(json.dumps(fields_of(parse_location(name, fields))))}


def test_equal_locations_are_not_changed() -> None:
    registered = {"one": row("one", **ONE)}
    same = {**ONE, "url": "https://ONE.example/", "weight": 1, "auth": None, "networks": []}
    assert difference({"one": same}, registered, prune=True) == []


def test_fields_missing_from_the_file_are_kept() -> None:
    registered = {"one": row("one", **ONE, weight=7, state="draining", auth={"cloud": "prod"})}
    assert difference({"one": ONE}, registered, prune=False) == []
    assert kept_fields({"one": ONE}, registered) == {"one": ["weight", "state", "auth"]}
    wanted = {"one": {**ONE, "weight": 1, "auth": None}}
    (change,) = difference(wanted, registered, prune=False)
    assert change["changed"] == {"weight": [7, 1], "auth": [{"cloud": "prod"}, None]}
    assert change["fields"] == {**ONE, "weight": 1, "auth": None}
    assert kept_fields(wanted, registered) == {"one": ["state"]}


def test_a_new_url_drops_a_credential_missing_from_the_file() -> None:
    registered = {"one": row("one", **ONE, sees_all=True, auth={"cloud": "prod"})}
    (change,) = difference({"one": {"url": "https://new.example"}}, registered, prune=False)
    assert change["changed"] == {
        "url": ["https://one.example", "https://new.example"],
        "auth": [{"cloud": "prod"}, None],
        "sees_all": [True, None],
    }


def test_locations_are_removed_only_with_prune() -> None:
    registered = {"one": row("one", **ONE), "two": row("two", url="https://two.example")}
    assert difference({"one": ONE}, registered, prune=False) == []
    (change,) = difference({"one": ONE}, registered, prune=True)
    assert (change["what"], change["location"]) == ("remove", "two")


@pytest.mark.parametrize(
    ("region", "prefix", "name"),
    [
        ("Oslo 2 (new)", "", "oslo-2-new"),
        ("Oslo", "Cloud B ", "cloud-b-oslo"),
        ("", "", "image"),
        ("", "b-", "b"),
        ("Ø", "", "image"),
        ("x" * 99, "", "x" * 60),
    ],
)
def test_a_location_is_named_after_its_region(region: str, prefix: str, name: str) -> None:
    assert location_name(region, prefix) == name


OTHER = "https://other.example"
REGISTERED = [
    row("one", url="https://one.example", auth={"cloud": "prod"}),
    row("by-hand", url="https://hand.example", auth=None),
    row("of-b", url="https://b.example", auth={"cloud": "b"}),
]


@pytest.mark.parametrize(
    ("wanted", "base", "name", "what"),
    [
        ("r1", "https://one.example", "one", "there already"),
        ("r1", OTHER, "r1", "new"),
        ("one", OTHER, "one", f"`locations set one --url {OTHER}`"),
        ("by-hand", OTHER, "by-hand", f"`locations set by-hand --url {OTHER}`"),
        ("of-b", OTHER, "prod-of-b", "new"),
    ],
)
def test_a_catalog_endpoint_is_classified(wanted: str, base: str, name: str, what: str) -> None:
    found = classify_endpoint(base, wanted, REGISTERED, [], cloud="prod", in_catalog={base})
    assert found["name"] == name
    assert what in found["what"]


def test_endpoints_of_one_catalog_get_different_names() -> None:
    first, second = "https://first.example", "https://second.example"
    urls = {first, second}
    earlier = [{"name": "r1", "url": first, "what": "new"}]
    found = classify_endpoint(second, "r1", [], earlier, cloud="prod", in_catalog=urls)
    assert found == {"name": "r1-2", "what": "new"}
    found = classify_endpoint(first, "r1", [], earlier, cloud="prod", in_catalog=urls)
    assert found == {"name": "r1", "what": "there already"}
    # The first one was registered before the second came.
    registered = [row("r1", url=first, auth={"cloud": "prod"})]
    found = classify_endpoint(second, "r1", registered, [], cloud="prod", in_catalog=urls)
    assert found == {"name": "r1-2", "what": "new"}


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://c.example/image/v2/", "https://c.example/image"),
        ("https://c.example/image/V2", "https://c.example/image"),
        ("https://c.example/v2.15", "https://c.example"),
        ("https://c.example:9292", "https://c.example:9292"),
        ("https://c.example/v2/5e1f0d7a", "https://c.example"),
        ("https://c.example:9292/V1/AUTH_5e1f/", "https://c.example:9292"),
        ("https://c.example/v2/%(tenant_id)s", "https://c.example"),
        ("https://c.example/v2/more/deep", "https://c.example/v2/more/deep"),
    ],
)
def test_version_and_project_are_cut_from_a_catalogs_url(url: str, base: str) -> None:
    assert keystone.base_url(url) == base


async def test_apply_can_be_repeated(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "locations.yaml"
    file.write_text("locations: {one: {url: https://one.example, weight: 2}}")
    code, out, err = await run("locations", "apply", str(file), "--yes", "--json")
    assert (code, err) == (0, "1 change made\n")
    assert [(c["what"], c["location"]) for c in json.loads(out)] == [("add", "one")]
    assert (await run("locations", "apply", str(file)))[1] == "nothing to change\n"
    file.write_text("locations: {one: {url: https://new.example}}")
    code, out, _ = await run("locations", "apply", str(file), "--dry-run")
    assert "another server: its claims are discarded" in out
    assert code == 0
    file.write_text("locations: {one: {url: nonsense}}")
    code, _, err = await run("locations", "apply", str(file))
    assert code == 1
    assert err.startswith(f"glance-resolver: locations file {file}: one: `url` must begin")


async def test_apply_warns_of_two_locations_with_one_url(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "locations.yaml"
    file.write_text(json.dumps({"locations": {"one": ONE, "two": {"url": f"{ONE['url']}/"}}}))
    code, _, err = await run("locations", "apply", str(file), "--yes")
    assert (code, f"one, two: all are {ONE['url']}" in err) == (0, True)


async def test_a_dry_run_is_checked_by_the_gateway(start: Start, tmp_path: Path) -> None:
    reader = "token-of-a-dashboard"
    tokens = f"ops={TOKEN},see:ro={reader}"
    gateway = await start(admin_tokens=tokens, allowed_hosts="*.example")

    async def apply(fields: dict[str, Any], token: str = TOKEN) -> tuple[int, str]:
        file = tmp_path / "locations.yaml"
        file.write_text(json.dumps({"locations": {"one": fields}}))
        arguments = ["locations", "apply", str(file), "--dry-run", "--gateway", gateway.url]
        result = await asyncio.to_thread(CliRunner().invoke, cli, [*arguments, "--token", token])
        return result.exit_code, result.output + str(result.exception)

    status, output = await apply(ONE)
    assert (status, "+ one" in output) == (0, True)
    status, output = await apply({**ONE, "auth": {"token_file": "/etc/hostname"}})
    assert (status, "RESOLVER_SECRET_FILES" in output) == (1, True)
    status, output = await apply({"url": "https://one.elsewhere"})
    assert (status, "RESOLVER_ALLOWED_HOSTS" in output) == (1, True)
    status, output = await apply(ONE, reader)
    assert (status, "did not check it" in output) == (0, True)
    assert await gateway.services.registry.records() == {}


APPLIED_FILES = [
    {"one": ONE},
    {"one": {**ONE, "weight": 3}, "two": {"url": "https://two.example"}},
    {"one": {"url": "https://moved.example"}},
    {"one": {**ONE, "state": "active", "region": "", "auth": None}},
    {"one": {**ONE, "auth": {"cloud": "other"}, "networks": ["10.0.0.0/8"]}},
    {"two": {"url": "https://two.example", "state": "draining"}},
]


@pytest.mark.parametrize("locations", APPLIED_FILES)
async def test_apply_and_serve_give_a_file_the_same_meaning(
    locations: dict[str, Any], run: Run, gateway: Gateway, start: Start, tmp_path: Path
) -> None:
    """Two registries with the same location: one gets the file by the command, the other as a
    process gets it that is started with it."""
    by_hand = {**ONE, "weight": 7, "state": "maintenance", "reason": "disks", "sees_all": True}
    file = tmp_path / "locations.yaml"
    file.write_text(json.dumps({"locations": locations}))  # JSON is YAML
    started = await start()
    for each in (gateway, started):
        await each.services.registry.put("one", {**by_hand, "auth": {"cloud": "prod"}})
    await started.services.registry.register(read_locations(str(file)))
    code, _, err = await run("locations", "apply", str(file), "--yes")
    assert code == 0, err
    applied, registered = [
        {
            name: fields_of(r.location)
            for name, r in (await each.services.registry.records()).items()
        }
        for each in (gateway, started)
    ]
    assert applied == registered
    assert applied["one"]["weight"] == locations.get("one", {}).get("weight", 7)
    code, out, _ = await run("locations", "apply", str(file))
    assert (code, "nothing to change" in out) == (0, True)


async def test_apply_names_what_it_keeps(run: Run, gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "locations.yaml"
    file.write_text("locations: {one: {url: https://one.example}}")
    await gateway.services.registry.put("one", {"url": "https://one.example", "state": "draining"})
    _, out, _ = await run("locations", "apply", str(file), "--dry-run")
    assert f"kept, not in {file}: one (state)\n" in out
    for number in range(20):
        fields = {"url": f"https://l{number}.example", "weight": 2}
        await gateway.services.registry.put(f"l{number:02}", fields)
    rows = [f"l{number:02}: {{url: 'https://l{number}.example'}}" for number in range(20)]
    file.write_text(f"locations: {{{', '.join(rows)}}}")
    _, out, _ = await run("locations", "apply", str(file), "--dry-run")
    assert "l07 (weight) and 12 more" in out
    assert "l08" not in out


async def test_apply_sends_many_changes_with_one_request(
    run: Run, gateway: Gateway, tmp_path: Path
) -> None:
    file = tmp_path / "locations.yaml"
    rows = [f"l{n}: {{url: 'http://127.0.0.{n % 250 + 2}:{n + 20000}'}}" for n in range(1000)]
    file.write_text(f"locations: {{{', '.join(rows)}}}")
    code, _, err = await run("locations", "apply", str(file), "--yes", "--json")
    assert (code, err) == (0, "1,000 changes made\n")
    assert len(gateway.services.tables.table) == 1000
    response = await gateway.http.get("/metrics")
    count = 'glance_resolver_requests_total{method="POST",route="/locations",status="200"} 1.0'
    assert count in await response.text()
    # One wrong location, and nothing is changed.
    file.write_text("locations: {a: {url: 'http://a.example'}, b: {url: 'http://127.0.0.1:1'}}")
    gateway.services.own_ports.add(1)
    code, _, err = await run("locations", "apply", str(file), "--yes", "--prune")
    assert code == 1
    assert "b: `url` is this gateway itself" in err
    assert "0 of 1002 changes are made" in err
    assert len(gateway.services.tables.table) == 1000
    file.write_text("locations: {}")
    code, _, _ = await run("locations", "apply", str(file), "--yes", "--prune")
    assert code == 0
    assert len(gateway.services.tables.table) == 0


async def test_apply_says_that_changes_may_be_made_where_no_answer_came(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The gateway ends while it makes them."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            writer.write(b'Content-Length: 17\r\n\r\n{"locations": []}')
        writer.close()

    file = tmp_path / "locations.yaml"
    file.write_text("locations: {a: {url: 'http://a.example'}, b: {url: 'http://b.example'}}")
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as ending:
        url = f"http://127.0.0.1:{ending.sockets[0].getsockname()[1]}"
        options = ["--yes", "--gateway", url, "--token", TOKEN]
        with pytest.raises(SystemExit):
            await asyncio.to_thread(main, ["locations", "apply", str(file), *options])
    err = capfd.readouterr().err
    assert f"0 of 2 changes are made, and perhaps some of 2 more: apply {file} again" in err


@pytest.mark.parametrize(
    "body",
    [
        {"add": {}},
        {"put": []},
        {"put": {"one": "http://one.example"}},
        {"remove": "one"},
        {"remove": [1]},
        {"put": {"one": {}}, "remove": ["one"]},
        {"put": {}, "keep_other_fields": 1},
    ],
)
async def test_a_batch_of_another_form_is_refused(gateway: Gateway, body: Any) -> None:
    response, problem = await gateway.call("POST", "/locations", headers=ADMIN, json=body)
    assert (response.status, problem["code"]) == (400, "invalid-request")


async def test_check_says_how_to_fix_each_problem(run: Run, gateway: Gateway) -> None:
    switch = Switch()
    async with StandIn(middlewares=[switch.middleware]) as server:
        await gateway.services.registry.put("one", {"url": server.url, "api": "v1"})
        code, out, _ = await run("locations", "check", "one")
        assert code == 1
        assert "api\tno\tit is registered with v1, which it does not serve" in out
        assert "api: `locations set one --api auto`" in out
        assert "sweep\tno\tnot swept yet" in out
        code, out, _ = await run("locations", "set", "one", "--api", "auto", "--token-env", "NONE")
        code, out, _ = await run("locations", "check", "one", "--json")
        steps = {step["step"]: step for step in json.loads(out)["steps"]}
        assert steps["versions"]["ok"]
        assert steps["credential"]["said"] == "environment variable NONE holds no token"
        assert steps["credential"]["fix"]
        assert "listing" not in steps, "it needs the credential"
        switch.fault = status(403)
        await run("locations", "set", "one", "--no-auth")
        _, out, _ = await run("locations", "check", "one")
        assert "versions: give the base URL of a Glance server" in out
    _, out, _ = await run("locations", "check", "one")
    assert "versions: see that the server runs" in out
    assert (await run("locations", "check", "two"))[0] == 1


async def test_what_was_repaired_since_is_no_fault_of_a_check(
    run: Run, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last poll and sweep failed before the credential was there. Other failures stay: a check
    does not test what they need."""
    monkeypatch.setenv("CHECKED", "secret")
    async with StandIn(tokens={"secret": Caller("admin", admin=True)}) as server:
        fields = {"url": server.url, "auth": {"token_env": "CHECKED"}}
        put = await gateway.services.registry.put("one", fields)
        number, records, now = put.location.number, gateway.services.index.records, time.time()
        failed = {"error": "no token", "error_code": "no-credential", "failed": now - 40}
        swept = Sweep(started=now - 300, ended=now - 300, sees_all=True)
        await records.set_sweep(number, replace(swept, **failed))
        await records.set_poll(number, Poll(**failed), put.location)
        code, out, _ = await run("locations", "check", "one")
        assert code == 0, out
        assert "polls\tyes\tthe last one, 40 s ago, failed: no token" in out
        assert "sweep\tyes\tthe last one, 40 s ago, failed: no token" in out
        assert "`locations sweep one --wait` begins another" in out
        await records.set_sweep(number, swept)
        code, out, _ = await run("locations", "check", "one")
        assert code == 0, out
        await records.set_poll(number, Poll(**{**failed, "error_code": "no-changes"}), put.location)
        await records.set_sweep(number, replace(swept, **{**failed, "error_code": "too-long"}))
        code, out, _ = await run("locations", "check", "one")
        assert (code, "It works from here now" in out) == (1, False), out
        assert "polls: give it `notifications`, or rely on its sweeps" in out
        assert "sweep: shorten the properties of its largest images" in out
        monkeypatch.setenv("CHECKED", "wrong")
        code, out, _ = await run("locations", "check", "one")
        assert (code, "listing\tno" in out) == (1, True), out


async def test_check_finds_a_server_with_the_other_scheme(run: Run, gateway: Gateway) -> None:
    async with StandIn() as server:
        url = server.url.replace("http://", "https://")
        await gateway.services.registry.put("one", {"url": url})
        code, out, _ = await run("locations", "check", "one")
    assert code == 1
    assert f"versions: a Glance server answers at {server.url}: `locations set one --url" in out


def test_the_progress_of_a_sweep() -> None:
    progress = SweepProgress()
    running = {"images": 1000, "front": "40000000-0000-4000-8000-000000000000"}
    assert progress.describe(running, 10) == "1,000 images"
    running = {"images": 3000, "front": "80000000-0000-4000-8000-000000000000"}
    assert progress.describe(running, 14) == "3,000 images, 500 a second, 8 s left"
    running = {"images": 3000, "front": None}
    assert progress.describe(running, 14) == "3,000 images, 500 a second"


def test_tables_fit_the_terminal_and_have_colours_only_on_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("one", "down"), ("[red]two" + "x" * 80, "up")]
    output.print_table(("name", "health"), rows)
    assert capsys.readouterr().out == f"NAME\tHEALTH\none\tdown\n{rows[1][0]}\tup\n"
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(
        "rich.console.Console",
        lambda **options: Console(
            **options, force_terminal=True, width=40, color_system="standard"
        ),
    )
    output.print_table(("name", "health"), rows)
    shown = capsys.readouterr().out
    assert "\x1b[31mdown" in shown
    assert "[red]two" in shown, "markup in a name is not interpreted"
    plain = "".join(shown.split("\x1b[31m")).replace("\x1b[32m", "").replace("\x1b[0m", "")
    assert all(len(line) <= 40 + 20 for line in plain.splitlines())


async def test_sweep_does_not_wait_where_no_indexer_is_running(run: Run, gateway: Gateway) -> None:
    await gateway.location("one")
    for _ in range(MISSED_CHECKS):
        await gateway.services.indexer_watch.check()
    status, _, err = await run("locations", "sweep", "one", "--wait")
    assert status == 1
    assert "no indexer is running" in err
    assert "serve --role indexer" in err
    _, out, _ = await run("locations", "show", "one")
    assert "no indexer is running" in out
