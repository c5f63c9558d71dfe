"""The table of what each client can do in docs/clients.md: measured, written, and compared.

A row is measured by tests/glance/client_programs, which do each operation with one client at a
Glance itself, where all must work; at a gateway, which redirects; and at an endpoint that carries
bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.glance.client_programs.client_operations import PATCH_TYPE
from tests.glance.clients import Ran
from tests.glance.gateway import ROOT
from tests.glance.test_clients import UNKNOWN_ID
from tests.support.glance import GlanceProcess, call

DOCUMENT = ROOT / "docs" / "clients.md"
PROGRAMS = Path(__file__).with_name("client_programs")
OPERATIONS = {
    "list": "list",
    "show": "by id",
    "name": "by name",
    "tagged": "by tag",
    "absent": "absent id",
    "download": "download",
    "create": "create",
    "change": "set property",
    "tag": "add tag",
    "delete": "delete",
}
"""Names of operations, and the heads of their columns."""
WRITES = ("create", "change", "tag", "delete")
REMARKS = {
    "openstack": "python-openstackclient 10.5",
    "glance": "python-glanceclient 4.13",
    "openstacksdk": "4.22",
    "openstacksdk 0.61": "0.61.0",
    "nova": "34.0, `nova.image.glance.API`",
    "cinder": "29.0, `cinder.image.glance`",
    "ironic": "39.0, `GlanceImageService`",
    "glance-download": "Glance 33.0, whose import method reads from a region of the catalog",
    "octavia": "19.0, `get_image_id_by_tag`",
    "heat": "27.0, `find_image_by_name_or_id`",
    "magnum": "23.0, `validate_image`",
    "ansible": "openstack.cloud 2.5 of Ansible 12.3: `image_info`, `image`; with openstacksdk 4.10",
    "libcloud": "3.9",
    "gophercloud": "0.12",
    "fog": "fog-openstack 1.0; follows no redirect",
    "fog with redirects": "the same with `RedirectFollower`, see above",
    "curl -L": "7.88",
    "curl": "follows no redirect without `-L`",
    "wget": "1.21",
    "aria2c": "1.36",
}
"""The table's rows, in order, and what its last column says."""
YES, SMALL_WRITE, CARRIED, NO, NONE = "yes", "small write", "carried", "no", "-"
SIZE = 200_000
HEAD = "| client | list |"

Run = Callable[[Path, Mapping[str, str]], Ran]
"""Runs a client's program in a new directory with this argument."""
Outcome = dict[str, str]
"""Operation, and what came of it: empty where it worked, else why not."""


def rows_of(text: str) -> dict[str, dict[str, str]]:
    """The rows of the table in the document: client, then head of the column."""
    start = text.index(HEAD)
    lines = text[start : text.index("\n\n", start)].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row[0].strip("`"): dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def with_rows(text: str, rows: dict[str, dict[str, str]]) -> str:
    """The document with these rows in place of its own."""
    start = text.index(HEAD)
    end = text.index("\n\n", start)
    heads = " | ".join(["client", *OPERATIONS.values(), ""])
    lines = [f"| {heads}|", "|---" * (len(OPERATIONS) + 2) + "|"]
    for client, remark in REMARKS.items():
        cells = [rows.get(client, {}).get(head, NONE) for head in OPERATIONS.values()]
        lines.append(f"| `{client}` | {' | '.join([*cells, remark])} |")
    return text[:start] + "\n".join(lines) + text[end:]


def measure(
    servers: Mapping[str, GlanceProcess],
    directory: Path,
    client: str,
    run: Run,
    where: Mapping[str, str],
) -> Outcome:
    """What a client can do at an endpoint. That a write worked is seen at the server."""
    directory.mkdir()
    server = servers["two"]
    source, content = directory / "source", os.urandom(SIZE)
    source.write_bytes(content)
    image, victim = server.create(data=content), server.create()
    tag = f"tag-{image.id[:8]}"
    # Magnum takes only images that name their distribution.
    fields = [("replace", "/tags", [tag]), ("add", "/os_distro", "fedora-coreos")]
    changes = [{"op": op, "path": path, "value": value} for op, path, value in fields]
    headers = {"X-Auth-Token": server.token, "Content-Type": PATCH_TYPE}
    changed = call(server.url, "PATCH", f"/v2/images/{image.id}", changes, headers)
    assert changed.status == 200, changed
    new = f"new-{image.id}"
    spec = {
        "client": client,
        "id": image.id,
        "name": f"image-{image.id[:8]}",
        "tag": tag,
        "absent": UNKNOWN_ID,
        "victim": victim.id,
        "new": new,
        "source": str(source),
        "saved": str(directory / "saved"),
        **where,
    }
    ran = run(directory / "home", spec)
    assert ran.status == 0, ran.err
    found: Outcome = json.loads(ran.out.splitlines()[-1])
    assert found, "the client does nothing"
    shown = server.request("GET", f"/v2/images/{image.id}").json()
    made = [
        row
        for each in servers.values()
        for row in each.request("GET", f"/v2/images?name={new}").json()["images"]
    ]
    is_done = {
        "create": [(row["status"], row["size"]) for row in made] == [("active", SIZE)],
        "change": shown.get("a") == "b",
        "tag": "seen" in shown["tags"],
        "delete": server.request("GET", f"/v2/images/{victim.id}").status == 404,
    }
    for operation, done in is_done.items():
        if not done and found.get(operation) == "":
            found[operation] = "the client reports no error, and nothing has changed"
    return found


def failed(outcome: Outcome) -> Outcome:
    return {operation: why for operation, why in outcome.items() if why}


def check_row(client: str, direct: Outcome, redirected: Outcome, carried: Outcome) -> None:
    """Compares a client's row with what was measured, or writes it where
    GLANCE_RESOLVER_WRITE_TABLE is set."""
    assert failed(direct) == {}

    def cell(operation: str) -> str:
        if operation not in direct:
            return NONE
        if not redirected[operation]:
            return SMALL_WRITE if operation in WRITES else YES
        return NO if carried[operation] else CARRIED

    row = {head: cell(operation) for operation, head in OPERATIONS.items()}
    text = DOCUMENT.read_text()
    rows = rows_of(text)
    if os.environ.get("GLANCE_RESOLVER_WRITE_TABLE"):
        DOCUMENT.write_text(with_rows(text, {**rows, client: row}))
        return
    written = {head: rows[client][head] for head in OPERATIONS.values()}
    assert written == row, {"redirected": failed(redirected), "carried": failed(carried)}
    assert failed(carried) == {}
