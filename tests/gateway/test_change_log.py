"""The log of a gateway has what operators changed, also after Redis lost the audit log."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from resolver.models import format_id
from tests.gateway.conftest import ADMIN, Gateway, Start
from tests.support.ids import make_ids

ID = format_id(make_ids(1)[0])
Lines = list[MutableMapping[str, Any]]

ONE = {"url": "https://one.example", "auth": {"token_env": "ONE_TOKEN"}}
MAINTENANCE = {"state": "maintenance", "reason": "new disks"}


@pytest.fixture
def lines() -> Iterator[Lines]:
    with capture_logs() as captured:
        yield captured


def changes(lines: Lines) -> list[tuple[Any, ...]]:
    """Who did what to which location, and the values before and after."""
    return [
        (line["admin"], line["event"], line["location"], line["before"], line["after"])
        for line in lines
        if "before" in line
    ]


async def test_each_change_of_a_location_is_logged_with_its_values(
    gateway: Gateway, lines: Lines
) -> None:
    await gateway.call("PUT", "/locations/one", headers=ADMIN, json=ONE)
    for _ in range(2):  # the second changes nothing
        await gateway.call("PATCH", "/locations/one", headers=ADMIN, json=MAINTENANCE)
    await gateway.call("DELETE", "/locations/one", headers=ADMIN)
    added, changed, removed = changes(lines)
    assert added[:4] == ("ops", "location added", "one", None)
    assert ONE.items() <= added[4].items()
    active = {"state": "active", "reason": ""}
    assert changed == ("ops", "location changed", "one", active, MAINTENANCE)
    assert (removed[:3], removed[4]) == (("ops", "location removed", "one"), None)
    assert {**ONE, **MAINTENANCE}.items() <= removed[3].items()


async def test_changes_of_many_locations_are_logged_one_by_one(
    gateway: Gateway, lines: Lines
) -> None:
    put = {"one": ONE, "two": {"url": "https://two.example"}}
    await gateway.call("POST", "/locations", headers=ADMIN, json={"put": put})
    body = {"put": {"one": {**ONE, "weight": 7}}, "remove": ["two"]}
    await gateway.call("POST", "/locations", headers=ADMIN, json=body)
    assert [change[1:3] for change in changes(lines)] == [
        ("location added", "one"),
        ("location added", "two"),
        ("location changed", "one"),
        ("location removed", "two"),
    ]
    assert changes(lines)[2][3:] == ({"weight": 1}, {"weight": 7})


async def test_what_changes_no_location_is_logged_as_in_the_audit_log(
    gateway: Gateway, lines: Lines
) -> None:
    await gateway.location("one")
    async with gateway.http.get("/index/export", headers=ADMIN) as response:
        export = await response.text()
    lines.clear()
    await gateway.call("PUT", f"/locations/one/images/{ID}", headers=ADMIN)
    await gateway.call("POST", "/locations/one/sweep", headers=ADMIN, json={"confirm_shrink": True})
    await gateway.call("POST", "/index/rebuild", headers=ADMIN, json={"bits": 9})
    await gateway.call("POST", "/index/import", headers=ADMIN, data=export)
    logged = [(line["what"], line.get("detail")) for line in lines if line["event"] == "admin"]
    _, body = await gateway.get("/audit?limit=5", headers=ADMIN)
    audited = [(row["what"], row["detail"]) for row in reversed(body["changes"])]
    assert logged == [entry for entry in audited if entry[0] != "import-begin"]


async def test_what_a_process_registers_at_its_start_is_not_logged_by_field(
    start: Start, lines: Lines
) -> None:
    await start(startup_locations={"one": ONE})
    assert changes(lines) == []
    assert any(line["event"] == "startup locations registered" for line in lines)
