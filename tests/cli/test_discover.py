"""`locations discover` against a Keystone whose catalog is as untidy as real ones."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.test_commands import Run, gateway, run
from tests.gateway.conftest import Gateway, start
from tests.support.fake_keystone import FakeKeystone

__all__ = ["gateway", "run", "start"]

pytest.importorskip("openstack")

DISCOVER = ("locations", "discover", "--cloud")


def image_service(*endpoints: tuple[str, str, str]) -> list[dict[str, Any]]:
    """A catalog with these (region, interface, URL)."""
    listed = [
        {"id": str(number), "interface": interface, "region": region, "region_id": region, "url": u}
        for number, (region, interface, u) in enumerate(endpoints)
    ]
    return [{"type": "image", "name": "glance", "id": "i", "endpoints": listed}]


@pytest.fixture
async def keystones() -> AsyncIterator[dict[str, FakeKeystone]]:
    async with FakeKeystone() as a, FakeKeystone() as b:
        yield {"a": a, "b": b}


def write(file: Path, clouds: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump({"clouds": clouds}))


@pytest.fixture
def clouds(
    keystones: dict[str, FakeKeystone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    file = tmp_path / "clouds.yaml"
    write(file, {name: {"auth": keystone.auth()} for name, keystone in keystones.items()})
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
    return file


async def registered(run: Run) -> dict[str, tuple[str, str, Any]]:
    status, out, err = await run("locations", "list", "--json")
    assert status == 0, err
    return {row["name"]: (row["url"], row["region"], row["auth"]) for row in json.loads(out)}


@pytest.mark.usefixtures("clouds")
async def test_an_untidy_catalog_gives_usable_locations(
    run: Run, gateway: Gateway, keystones: dict[str, FakeKeystone]
) -> None:
    keystones["a"].catalog = image_service(
        ("Everywhere", "public", f"{gateway.url}/v2"),
        ("RegionOne", "public", "https://images.first.example/v2/5d2f77aa5d2f"),
        ("RegionOne", "public", "https://second.example/image/V2/"),
        ("Süd 3", "public", "https://third.example:9292/v2/AUTH_5d2f"),
        ("RegionOne", "internal", "http://10.9.8.7:9292"),
    )
    expected = {
        "regionone": ("https://images.first.example", "RegionOne", {"cloud": "a"}),
        "regionone-2": ("https://second.example/image", "RegionOne", {"cloud": "a"}),
        "s-d-3": ("https://third.example:9292", "Süd 3", {"cloud": "a"}),
    }
    status, out, _ = await run(*DISCOVER, "a")
    assert (status, await registered(run)) == (0, {}), "they are only shown"
    assert "a glance-resolver, left out" in out
    status, out, err = await run(*DISCOVER, "a", "--yes")
    assert status == 0, err
    assert await registered(run) == expected
    status, out, _ = await run(*DISCOVER, "a", "--yes", "--json")
    assert [row["what"] for row in json.loads(out)] == [
        "a glance-resolver, left out",
        *3 * ["there already"],
    ]
    assert await registered(run) == expected


@pytest.mark.usefixtures("clouds")
async def test_two_clouds_with_the_same_region_get_different_names(
    run: Run, keystones: dict[str, FakeKeystone]
) -> None:
    for name, keystone in keystones.items():
        url = f"https://{name}.example/v2"
        keystone.catalog = image_service(("RegionOne", "public", url))
        assert (await run(*DISCOVER, name, "--yes"))[0] == 0
    assert await registered(run) == {
        "regionone": ("https://a.example", "RegionOne", {"cloud": "a"}),
        "b-regionone": ("https://b.example", "RegionOne", {"cloud": "b"}),
    }


@pytest.mark.usefixtures("clouds")
async def test_another_keystone_is_named_in_domain(
    run: Run, keystones: dict[str, FakeKeystone]
) -> None:
    for name, keystone in keystones.items():
        keystone.catalog = image_service((name, "public", f"https://{name}.example"))
    _, _, err = await run(*DISCOVER, "a", "--yes")
    assert "Keystone" not in err
    _, _, err = await run(*DISCOVER, "b")
    assert "locations of a are registered, too: if their Keystones differ" in err
    assert "discover --domain NAME" in err
    status, _, err = await run(*DISCOVER, "b", "--domain", "north", "--yes")
    assert (status, "Keystones differ" in err) == (0, False)
    _, out, _ = await run("locations", "list", "--json")
    assert {row["name"]: row["domain"] for row in json.loads(out)} == {"a": "", "b": "north"}


@pytest.mark.usefixtures("clouds")
async def test_regions_and_names_are_chosen(run: Run, keystones: dict[str, FakeKeystone]) -> None:
    keystones["a"].catalog = image_service(
        *((region, "public", f"https://{region}.example") for region in ("r1", "r2", "r3")),
        ("r1", "internal", "https://inside.example"),
    )
    status, _, err = await run(*DISCOVER, "a", "--name", "x", "--yes")
    assert status == 2
    assert "--region" in err
    status, _, err = await run(*DISCOVER, "a", "--region", "r9", "--yes")
    assert status == 2
    assert "r1, r2, r3" in err
    assert await registered(run) == {}
    for options in (
        ("--region", "r2", "--name", "mine"),
        ("--region", "r1", "--region", "r3", "--prefix", "a-"),
        ("--interface", "internal", "--prefix", "inside-"),
    ):
        status, _, err = await run(*DISCOVER, "a", "--yes", *options)
        assert status == 0, err
    assert {name: url for name, (url, _, _) in (await registered(run)).items()} == {
        "mine": "https://r2.example",
        "a-r1": "https://r1.example",
        "a-r3": "https://r3.example",
        "inside-r1": "https://inside.example",
    }


@pytest.mark.usefixtures("clouds")
async def test_a_refused_entry_does_not_stop_the_others(
    run: Run, keystones: dict[str, FakeKeystone]
) -> None:
    keystones["a"].catalog = image_service(
        ("a", "public", "ftp://a.example"), ("b", "public", "https://b.example")
    )
    status, out, _ = await run(*DISCOVER, "a", "--yes")
    assert status == 1
    assert "refused: `url` must begin with http" in out
    assert set(await registered(run)) == {"b"}


@pytest.mark.usefixtures("clouds")
async def test_a_name_that_no_location_can_have_is_refused_by_the_gateway(
    run: Run, keystones: dict[str, FakeKeystone]
) -> None:
    keystones["a"].catalog = image_service(("a", "public", "https://a.example"))
    status, out, _ = await run(*DISCOVER, "a", "--name", "two words/../b?x", "--yes")
    assert status == 1
    assert "refused: " in out
    assert "cannot reach" not in out
    assert await registered(run) == {}


async def test_each_region_is_looked_up_in_its_own_keystone(
    run: Run, keystones: dict[str, FakeKeystone], clouds: Path
) -> None:
    login = keystones["a"].auth()
    regions = []
    for name, keystone in keystones.items():
        keystone.catalog = image_service((name, "public", f"https://{name}.example"))
        regions.append({"name": name, "values": {"auth": {"auth_url": keystone.url}}})
    write(clouds, {"wide": {"auth": login, "regions": regions}})
    status, _, err = await run(*DISCOVER, "wide", "--yes")
    assert (status, "wide has the regions a, b: if their Keystones differ" in err) == (0, True)
    assert await registered(run) == {
        "a": ("https://a.example", "a", {"cloud": "wide", "region": "a"}),
        "b": ("https://b.example", "b", {"cloud": "wide", "region": "b"}),
    }
