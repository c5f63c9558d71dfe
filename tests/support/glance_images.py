"""Images written straight into a real Glance's database: many, of any age and status."""

from __future__ import annotations

import random
import sqlite3
import uuid
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

COLUMNS = {
    "size": 1,
    "status": "active",
    "deleted": 0,
    "disk_format": "raw",
    "container_format": "bare",
    "checksum": None,
    "owner": "admin",
    "min_disk": 0,
    "min_ram": 0,
    "protected": 0,
    "visibility": "public",
    "os_hidden": 0,
    "os_hash_algo": None,
    "os_hash_value": None,
}
"""Of the table ``images``, with what they are unless given; besides id, name and times."""


def insert_images(directory: Path, images: Iterable[Mapping[str, Any]]) -> None:
    """Adds images to the Glance in a directory. Each has an ``id``, a ``name``, ``created`` and
    ``updated`` in seconds since 1970, and some of `COLUMNS`; ``tags``, ``properties`` and
    ``members`` (their status by project)."""
    with closing(sqlite3.connect(directory / "glance.sqlite", timeout=30)) as database, database:
        for image in images:
            _insert(database, image)


def _insert(database: sqlite3.Connection, image: Mapping[str, Any]) -> None:
    times = {"created_at": _time(image["created"]), "updated_at": _time(image["updated"])}
    row = {name: image.get(name, default) for name, default in COLUMNS.items()}
    _add(database, "images", {"id": image["id"], "name": image["name"], **row, **times})
    part = {"image_id": image["id"], "deleted": 0, **times}
    for tag in image.get("tags", ()):
        _add(database, "image_tags", {**part, "value": tag})
    for name, value in image.get("properties", {}).items():
        _add(database, "image_properties", {**part, "name": name, "value": value})
    for member, status in image.get("members", {}).items():
        row = {**part, "member": member, "status": status, "can_share": 0}
        _add(database, "image_members", row)


def _add(database: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", [*row.values()])


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def random_image(rng: random.Random, *, began: float = 1_700_000_000.0) -> dict[str, Any]:
    """An image of any kind, of a few names, formats and times, so that many sort equally."""
    created = began + rng.randrange(60) + rng.random()
    status = rng.choice(["active", "active", "active", "queued", "saving", "deactivated", "killed"])
    visibility = rng.choice(["public", "private", "shared", "community"])
    has_data = status in ("active", "deactivated")
    return {
        "id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "name": rng.choice(["debian", "Ubuntu 24.04", "größe", "a,b", "", None]),
        "created": created,
        "updated": created + rng.choice([0, rng.randrange(1000)]),
        "status": status,
        "size": rng.choice([0, 5, 5_000_000_000]) if has_data else None,
        "checksum": rng.choice(["d41d8cd98f00b204e9800998ecf8427e", None]),
        "os_hash_algo": "sha512",
        "os_hash_value": rng.choice(["ab" * 64, "cd" * 64]),
        "disk_format": rng.choice(["raw", "qcow2", "iso"]),
        "container_format": rng.choice(["bare", "ovf"]),
        "visibility": visibility,
        "os_hidden": int(rng.random() < 0.1),
        "protected": int(rng.random() < 0.2),
        "owner": rng.choice(["admin", "demo", "other"]),
        "min_ram": rng.choice([0, 512]),
        "tags": rng.sample(["amphora", "x86", "64 bit"], rng.randrange(3)),
        "properties": rng.choice([{}, {"os_distro": "debian"}, {"os_distro": "b", "é": "ü 🐧"}]),
        "members": {"demo": rng.choice(["accepted", "pending", "rejected"])}
        if visibility == "shared"
        else {},
    }
