"""The schemas that glanceclient and openstacksdk request."""

from __future__ import annotations

from typing import Any

from resolver.standin.image import Image
from resolver.standin.record import READ_ONLY, record

_PLAIN = {"task", "tasks", "member", "members", "metadefs/namespace", "metadefs/resource_type"}


def schema(name: str, *, old: bool) -> dict[str, Any] | None:
    """The schema of that name; None if there is none."""
    if name == "image":
        return _image(old)
    if name == "images":
        items = {"type": "array", "items": _image(old)}
        text = {"type": "string"}
        properties = {"images": items, "first": text, "next": text, "schema": text}
        return {"name": name, "properties": properties}
    # Clients fetch it at their start and do not use it for what the stand-in serves.
    return {"name": name.rpartition("/")[2], "properties": {}} if name in _PLAIN else None


def _image(old: bool) -> dict[str, Any]:
    """Names, types and read-only marks, from which glanceclient makes its options."""
    types = {bool: "boolean", int: ["null", "integer"], list: "array"}
    properties: dict[str, dict[str, Any]] = {
        name: {"type": types.get(type(value), ["null", "string"])}
        for name, value in record(Image(), old=old).items()
    }
    for name in READ_ONLY & set(properties) - {"id"}:
        properties[name]["readOnly"] = True
    properties["tags"]["items"] = {"type": "string", "maxLength": 255}
    extra = {"type": "string"}
    return {"name": "image", "properties": properties, "additionalProperties": extra}
