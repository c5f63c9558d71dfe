"""``glance-resolver catalog``: the commands for Keystone's catalog."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.cli.test_commands import Run, run
from tests.gateway.conftest import Gateway, Start, start

__all__ = ["run", "start"]

PUBLIC = "https://images.example/api"


@pytest.fixture
async def gateway(start: Start) -> Gateway:
    gateway = await start(public_url=PUBLIC)
    await gateway.location("one", region="RegionOne")
    await gateway.location("also-one", region="RegionOne")
    await gateway.location("two", region="Nord Ost/2")
    await gateway.location("bare")
    return gateway


def commands(out: str) -> list[list[str]]:
    """The commands among lines for a shell."""
    return [shlex.split(line) for line in out.splitlines() if not line.startswith("#")]


async def test_the_gateway_gets_a_region_of_its_own(run: Run) -> None:
    status, out, err = await run("catalog")
    assert (status, err) == (0, "")
    assert commands(out) == [
        ["openstack", "region", "create", "global"],
        ["openstack", "endpoint", "create", "--region", "global", "image", "public", PUBLIC],
    ]


async def test_the_gateway_replaces_the_endpoints_of_the_regions(run: Run) -> None:
    options = ["--in-place", "--interface", "public", "--interface", "internal"]
    status, out, err = await run("catalog", *options, "--service", "glance")
    assert (status, err) == (0, "left out, since they have no region: bare\n")
    create = ["openstack", "endpoint", "create", "--region"]
    urls = {
        "Nord Ost/2": f"{PUBLIC}/region/Nord%20Ost%2F2",
        "RegionOne": f"{PUBLIC}/region/RegionOne",
    }
    assert commands(out) == [
        [*create, region, "glance", interface, url]
        for region, url in urls.items()
        for interface in ("public", "internal")
    ]
    assert "openstack endpoint delete" in out, "or each region has two"


async def test_the_commands_are_available_as_json(run: Run) -> None:
    _, out, _ = await run("catalog", "--region", "wide", "--endpoint", f"{PUBLIC}/", "--json")
    assert json.loads(out) == [
        {
            "region": "wide",
            "interface": "public",
            "service": "image",
            "url": PUBLIC,
            "command": f"openstack endpoint create --region wide image public {PUBLIC}",
        }
    ]


@pytest.mark.parametrize(
    ("endpoint", "status", "warning"),
    [
        ("https://images.example", 0, ""),
        ("http://images.example", 0, "users' tokens are sent in the clear"),
        ("http://127.0.0.1:9393", 0, "leads users to their own hosts"),
        ("https://localhost", 0, "leads users to their own hosts"),
        ("images.example", 2, "is not an http or https URL"),
    ],
)
async def test_a_url_unfit_for_users_is_an_error_or_a_warning(
    run: Run, endpoint: str, status: int, warning: str
) -> None:
    ended, out, err = await run("catalog", "--endpoint", endpoint)
    assert ended == status
    assert (warning in err) if warning else not err
    assert (endpoint in out) == (status == 0)
