"""The table of operation by client in docs/clients.md: measured, and compared with the document.

Each client does each operation at a Glance itself, where all must work; at a gateway, which
redirects; and at an endpoint that carries bytes. To write what was measured into the document::

    GLANCE_RESOLVER_WRITE_TABLE=1 pytest -m '' tests/glance/test_client_table.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.glance.client_operations import CLIENTS, OPERATIONS
from tests.glance.clients import Clients
from tests.glance.endpoints import Endpoint, endpoints, own_gateway, servers
from tests.glance.gateway import ROOT
from tests.glance.test_clients import UNKNOWN_ID
from tests.support.glance import ADMIN_TOKEN, GlanceProcess

__all__ = ["endpoints", "own_gateway", "servers"]

pytestmark = [pytest.mark.glance, pytest.mark.balancer]

DOCUMENT = ROOT / "docs" / "clients.md"
SCRIPT = Path(__file__).with_name("client_operations.py")
HEAD = "| operation |"
LABELS = {
    "list": "list images",
    "show": "show by id",
    "name": "show by name",
    "absent": "an id that no location has: not found",
    "download": "download",
    "create": "create with bytes",
    "change": "set a property",
    "tag": "add a tag",
    "delete": "delete",
}
WRITES = ("create", "change", "tag", "delete")
YES, SMALL_WRITE, CARRIED, NO, NONE = "yes", "small write", "carried", "no", "-"
SIZE = 200_000

Table = dict[str, dict[str, str]]
"""Label of an operation, then the client: the cell."""


def table_of(text: str) -> Table:
    """The table in the document."""
    start = text.index(HEAD)
    lines = text[start : text.index("\n\n", start)].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    clients = [client.strip("`") for client in rows[0][1:]]
    return {row[0]: dict(zip(clients, row[1:], strict=True)) for row in rows[2:]}


def with_table(text: str, table: Table) -> str:
    """The document with this table in place of its own."""
    start = text.index(HEAD)
    end = text.index("\n\n", start)
    lines = [f"{HEAD} {' | '.join(f'`{client}`' for client in CLIENTS)} |"]
    lines.append("|---" * (1 + len(CLIENTS)) + "|")
    for label in LABELS.values():
        cells = (table.get(label, {}).get(client, NONE) for client in CLIENTS)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return text[:start] + "\n".join(lines) + text[end:]


def images_named(servers: dict[str, GlanceProcess], name: str) -> list[dict[str, object]]:
    """What both servers have of that name, by themselves."""
    found = []
    for server in servers.values():
        found += server.request("GET", f"/v2/images?name={name}").json()["images"]
    return found


def measure(
    endpoint: Endpoint, clients: Clients, directory: Path, client: str, url: str
) -> dict[str, str]:
    """What came of each operation at this URL, empty where it worked: the client says so, and of a
    write the server shows it."""
    directory.mkdir()
    server = endpoint.servers["two"]
    source, content = directory / "source", os.urandom(SIZE)
    source.write_bytes(content)
    image, victim = server.create(data=content), server.create()
    new = f"new-{image.id}"
    spec = {
        "client": client,
        "url": url,
        "token": ADMIN_TOKEN,
        "id": image.id,
        "name": f"image-{image.id[:8]}",
        "absent": UNKNOWN_ID,
        "victim": victim.id,
        "new": new,
        "source": str(source),
        "saved": str(directory / "saved"),
    }
    ran = clients.run(directory / "home", "python", "-c", SCRIPT.read_text(), json.dumps(spec))
    assert ran.status == 0, ran.err
    found: dict[str, str] = json.loads(ran.out.splitlines()[-1])
    shown = server.request("GET", f"/v2/images/{image.id}").json()
    made = images_named(endpoint.servers, new)
    is_done = {
        "create": [(row["status"], row["size"]) for row in made] == [("active", SIZE)],
        "change": shown.get("a") == "b",
        "tag": shown["tags"] == ["seen"],
        "delete": server.request("GET", f"/v2/images/{victim.id}").status == 404,
    }
    for operation, done in is_done.items():
        if not done and found.get(operation) == "":
            found[operation] = "the client reports no error, and nothing has changed"
    return found


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
    urls = {
        "direct": endpoint.servers["two"].url,
        "redirected": endpoint.gateway.url,
        "carried": endpoint.carrier.url,
    }
    found = {
        way: measure(endpoint, clients, tmp_path / way, client, url) for way, url in urls.items()
    }
    assert {operation: why for operation, why in found["direct"].items() if why} == {}

    def cell(operation: str) -> str:
        if operation not in found["direct"]:
            return NONE
        if not found["redirected"][operation]:
            return SMALL_WRITE if operation in WRITES else YES
        return NO if found["carried"][operation] else CARRIED

    column = {LABELS[operation]: cell(operation) for operation in OPERATIONS}
    text = DOCUMENT.read_text()
    table = table_of(text)
    if os.environ.get("GLANCE_RESOLVER_WRITE_TABLE"):
        for label, measured in column.items():
            table.setdefault(label, {})[client] = measured
        DOCUMENT.write_text(with_table(text, table))
        return
    written = {label: cells.get(client) for label, cells in table.items()}
    assert written == column, {way: found[way] for way in ("redirected", "carried")}
    assert {operation: why for operation, why in found["carried"].items() if why} == {}
