"""The v2 record of an image: encoding and decoding."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from resolver.standin.answers import fail, forbid
from resolver.standin.call import Call
from resolver.standin.image import Image

READ_ONLY = {"id", "status", "checksum", "size", "virtual_size", "created_at", "updated_at"} | {
    *("self", "file", "schema", "direct_url", "stores", "os_hash_algo", "os_hash_value")
}
_FIXED = {"min_disk", "min_ram", "protected"}  # the stand-in has only their defaults
SETTABLE = _FIXED | {
    *("name", "visibility", "os_hidden", "owner", "tags", "disk_format", "container_format")
}


def record(image: Image, *, old: bool) -> dict[str, Any]:
    """The record that Glance 33 shows of an image; with `old`, that of Glance 15."""
    sha = image.sha512
    link = f"/v2/images/{image.id}"
    modern = {
        "os_hidden": image.hidden,
        "os_hash_algo": sha and "sha512",
        "os_hash_value": sha,
        **({"stores": "fs"} if image.checksum else {}),
    }
    return {
        **image.properties,
        **{name: getattr(image, name) for name in ("name", "disk_format", "container_format")},
        **{name: getattr(image, name) for name in ("visibility", "size", "status", "checksum")},
        **{"virtual_size": None if old else image.size or None},
        **{"protected": False, "min_ram": 0, "min_disk": 0, "owner": image.owner},
        **({} if old else modern),
        **{"id": image.id, "tags": list(image.tags)},
        **{"created_at": format_time(image.created), "updated_at": format_time(image.updated)},
        **{"self": link, "file": f"{link}/file", "schema": "/v2/schemas/image"},
    }


def format_time(seconds: float) -> str:
    """A time as v2 shows it: without the fraction, which filters do compare with."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_fields(body: Mapping[str, Any], known: dict[str, str], call: Call) -> dict[str, Any]:
    """The image fields of a record. Other names are added to the properties in ``known``."""
    found: dict[str, Any] = {}
    for name, value in body.items():
        if name in READ_ONLY:
            fail(403, f"Attribute '{name}' is read-only.")
        if name in _FIXED:
            continue
        if name in SETTABLE:
            key = "hidden" if name == "os_hidden" else name
            found[key] = tuple(value) if name == "tags" else value
        else:
            known[name] = str(value)
    visibility = found.get("visibility", "shared")
    if visibility not in {"public", "private", "shared", "community"}:
        fail(400, f"Provided object does not match schema 'image': '{visibility}'")
    if visibility == "public" and not call.caller.admin:
        forbid("publicize_image")
    return {**found, "properties": known}
