"""The table of clients in docs/clients.md is true.

To write what was measured into the document::

    export GLANCE_RESOLVER_WRITE_TABLE=1
    pytest -m '' tests/glance/test_client_table.py tests/glance/test_more_clients.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.glance.client_programs.client_operations import CLIENTS
from tests.glance.client_table import (
    DOCUMENT,
    PROGRAMS,
    REMARKS,
    check_row,
    measure,
    rows_of,
    with_rows,
)
from tests.glance.clients import Clients, Ran
from tests.glance.endpoints import Endpoint, endpoints, own_gateway, servers
from tests.support.glance import ADMIN_TOKEN

__all__ = ["endpoints", "own_gateway", "servers"]

pytestmark = [pytest.mark.glance, pytest.mark.balancer]


def test_the_table_has_a_row_for_each_client() -> None:
    text = DOCUMENT.read_text()
    assert with_rows(text, rows_of(text)) == text
    assert set(CLIENTS) < set(REMARKS)


@pytest.mark.parametrize(
    "client",
    [
        pytest.param(name, marks=pytest.mark.long) if name in ("openstack", "glance") else name
        for name in CLIENTS
    ],
)
def test_the_table_of_clients_is_true(
    endpoints: dict[str, Endpoint], clients: Clients, tmp_path: Path, client: str
) -> None:
    endpoint = endpoints["nginx"]
    code = (PROGRAMS / "client_operations.py").read_text()

    def run(home: Path, spec: Mapping[str, str]) -> Ran:
        return clients.run(home, "python", "-c", code, json.dumps(spec))

    urls = {
        "direct": endpoint.servers["two"].url,
        "redirected": endpoint.gateway.url,
        "carried": endpoint.carrier.url,
    }
    found = {
        way: measure(
            endpoint.servers, tmp_path / way, client, run, {"url": url, "token": ADMIN_TOKEN}
        )
        for way, url in urls.items()
    }
    check_row(client, **found)
