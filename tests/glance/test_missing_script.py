"""The script of ``report missing`` brings an image from another region of a real catalog."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.glance.catalog import PROJECT, USER, Catalog, catalog
from tests.glance.clients import Ran, clean_env, run_program
from tests.glance.conftest import installed
from tests.glance.install import KEYSTONE_PASSWORD, install_openstackclient
from tests.support.wait import wait_until_blocking

__all__ = ["catalog"]

pytestmark = [
    pytest.mark.glance,
    pytest.mark.balancer,
    pytest.mark.long,
    pytest.mark.timeout(900),  # the first run installs
]


def test_the_script_imports_at_a_terminal_and_makes_nothing_without_one(
    catalog: Catalog, tmp_path: Path
) -> None:
    """Without a terminal ``openstack image create`` takes the rest of the script for the image."""
    source, lacking = catalog.servers["two"], catalog.servers["one"]
    for region, server in catalog.servers.items():
        catalog.keystone.image_endpoint(region, server.url)
    image = source.create_public()
    for name in catalog.servers:
        swept = catalog.gateway.operator("locations", "sweep", name, "--wait")
        assert swept.status == 0, swept.err
    report = catalog.gateway.operator("report", "missing", "--region", "one")
    assert report.status == 0, report.err
    assert image.id in report.out.decode()
    script = tmp_path / "script"
    script.write_bytes(report.out)
    home = installed(install_openstackclient)
    env = clean_env(
        tmp_path,
        {
            "OS_AUTH_URL": f"{catalog.keystone.url}/v3",
            "OS_USERNAME": USER,
            "OS_PASSWORD": KEYSTONE_PASSWORD,
            "OS_PROJECT_NAME": PROJECT,
            "OS_USER_DOMAIN_ID": "default",
            "OS_PROJECT_DOMAIN_ID": "default",
            "PATH": f"{home.bin('openstack').parent}:/usr/bin:/bin",
        },
    )

    def run(*command: str) -> Ran:
        return run_program(command, env, tmp_path)

    refused = run("setsid", "--wait", "bash", str(script))
    assert (refused.status, "terminal" in refused.err) == (1, True), refused
    assert image.id not in lacking.ids()
    ran = run("script", "--quiet", "--return", "--command", f"bash {script}", "/dev/null")
    assert ran.status == 0, ran.out.decode()

    def has_arrived() -> bool:
        return bool(lacking.request("GET", f"/v2/images/{image.id}").json()["status"] == "active")

    wait_until_blocking(has_arrived, 60)
    assert lacking.request("GET", f"/v2/images/{image.id}/file").body == image.data
