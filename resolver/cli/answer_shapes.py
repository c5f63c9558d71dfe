"""What commands expect in the answers of a gateway: of each answer what they read, and no more.

A shape is a type; `ANY`; a function that says whether a value fits; a list with the shape of each
item; or a dict with the shape of each member that must be there (one whose name ends in ``?`` may
be missing). Other members may be there, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from resolver.models import MAX_BITS, Outcome

Shape = type | list[Any] | Mapping[str, Any] | Callable[[Any], bool]

ANY = object


def misfit(value: Any, shape: Shape, name: str = "it") -> str:
    """Which part of a value does not fit, for an error; empty if all does. ``name``: its own."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{name} is not a list"
        parts = ((item, shape[0], f"an item of {name}") for item in value)
    elif isinstance(shape, Mapping):
        if not isinstance(value, dict):
            return f"{name} is not an object"
        members = [(key.rstrip("?"), key.endswith("?"), inner) for key, inner in shape.items()]
        for key, is_optional, _ in members:
            if key not in value and not is_optional:
                return f"{name} has no member {key!r}"
        parts = ((value[key], inner, key) for key, _, inner in members if key in value)
    else:
        fits = isinstance(value, shape) if isinstance(shape, type) else shape(value)
        return "" if fits else f"{name} has another form"
    return next((found for part in parts if (found := misfit(*part))), "")


def maybe(shape: Shape) -> Callable[[Any], bool]:
    """The shape, or null."""
    return lambda value: value is None or not misfit(value, shape)


def by_name(shape: Shape) -> Callable[[Any], bool]:
    """An object whose members all have the shape."""
    return lambda value: (
        isinstance(value, dict) and not any(misfit(item, shape) for item in value.values())
    )


def is_count(value: Any) -> bool:
    """A number of things."""
    return type(value) is int and 0 <= value < 1 << 63


def is_time(value: Any) -> bool:
    """A time of the API with its offset (RFC 3339), or null."""
    try:
        return value is None or datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def is_front(value: Any) -> bool:
    """The last id that a sweep has read, or null."""
    try:
        return value is None or (isinstance(value, str) and int(value[:8] or "0", 16) >= 0)
    except ValueError:
        return False


def is_outcome(value: Any) -> bool:
    return isinstance(value, str) and value in set(Outcome)


def _is_bits(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_BITS


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _present(*names: str) -> dict[str, Any]:
    """Members that must be there, each with any value."""
    return dict.fromkeys(names, ANY)


STATUS: Shape = {
    "version": str,
    "role": str,
    "locations": dict.fromkeys(("all", "up", "down", "covered"), is_count),
    "problems": [
        {"code": str, "since": is_time, "text": str, "action": str, "location": maybe(str)}
    ],
}

_RUNNING = maybe({"started": ANY, "images": is_count, "front": is_front})

LOCATIONS: Shape = {
    "locations": [
        {
            "name": str,
            **_present("region", "state", "url", "reason", "priority", "weight", "auth"),
            "health": {"state": ANY},
            "coverage": _present("covered", "why"),
            "sweep": {"ended": is_time, **_present("images", "error", "error_code")},
        }
    ]
}
"""For a list of them."""

SWEEPING_LOCATIONS: Shape = {
    "locations": [
        {
            **_present("name", "state"),
            "health": {"state": ANY},
            "coverage": {"covered": ANY},
            "sweep": {"ended": is_time, "images": ANY, "running": _RUNNING},
        }
    ]
}
"""For the progress of their sweeps."""

NAMED_LOCATIONS: Shape = {
    "locations": [{"name": str, "url": str, "region": str, "auth?": maybe({})}]
}

LOCATION: Shape = {
    **_present("name", "url", "public_url", "region", "domain", "api", "state", "reason"),
    **_present("priority", "weight", "rate", "vouches", "auth", "notifications"),
    "networks": [str],
    "serves": maybe([str]),
    "health": {
        **_present("state", "reason", "current", "at"),
        "history": [_present("at", "state", "reason")],
    },
    "coverage": _present("covered", "why", "poll", "events", "credential"),
    "sweep": {
        **_present("skipped", "skipped_examples", "error"),
        "images": is_count,
        "ended": is_time,
        "running": _RUNNING,
    },
}

WRITTEN_LOCATION: Shape = _present("name", "url", "auth")

LOCATION_TO_REMOVE: Shape = {"url": ANY, "sweep": {"images": is_count}}

LOCATION_SWEEP: Shape = {
    "sweep": {
        **_present("failed", "error", "ended", "claimed", "released"),
        "images": is_count,
        "running": _RUNNING,
    }
}

DIAGNOSIS: Shape = {"ok": bool, "steps": [{"step": str, **_present("ok", "said", "fix")}]}

CHANGES: Shape = {
    "changes": [
        {
            "at": str,
            **_present("by", "what", "location"),
            "before": maybe({}),
            "after": maybe({}),
        }
    ]
}

MEMBERS: Shape = {
    "members": [{"since": is_time, **_present("host", "pid", "role", "version", "id")}]
}

REBUILD: dict[str, Any] = {"rebuild": maybe({"bits": _is_bits, "done": _is_share})}

TOTALS: Shape = {
    **REBUILD,
    "at": is_time,
    **dict.fromkeys(("images", "claims", "conflicts"), is_count),
    "bytes": maybe(is_count),
    "buckets": {"used": is_count, "all": is_count, "fullest": ANY},
    "spread": bool,
    "covered": bool,
    "why": ANY,
    "locations": by_name(
        {"claims": is_count, "listed": is_count, **_present("covered", "coverage")}
    ),
}

RESOLUTIONS: Shape = [
    {
        "id": str,
        "outcome": is_outcome,
        "owners": [_present("location", "url", "uri")],
        "missing": [str],
    }
]

EXPLANATION: Shape = {
    "id": str,
    "outcome": is_outcome,
    **_present("source", "detail"),
    "locations": [{"reasons": [str], **_present("location", "rank", "verdict")}],
}

IMPORT_RESULT: Shape = {
    "registered": [str],
    "updated": [str],
    "different": [str],
    "without_auth?": [str],
    "new": maybe(is_count),
    "images": is_count,
    "claims": is_count,
    "locations": ANY,
}

CONFLICT: Shape = {"id": str, "owners": [_present("location", "content")]}

MISSING_IMAGE: Shape = {"source": ANY, "id": str}
"""With a source it is also `IMPORTABLE`, and without one `NOT_IMPORTABLE`."""


_QUOTED_WORD = r"""(?:[A-Za-z0-9_@%+=:,./-]+|'(?:[^']|'"'"')*')"""
"""A word as `shlex.quote` writes it."""

_COMMAND = re.compile(rf"OS_REGION_NAME={_QUOTED_WORD} ({_QUOTED_WORD}(?: {_QUOTED_WORD})*)")


def import_command(*program: str, redirection: str = "") -> Callable[[Any], bool]:
    """A command for a shell that runs this program for a region, and nothing else: what it prints
    is a script for people's shells. ``redirection``: what may stand behind it."""
    begin = f"{' '.join(program)} "

    def fits(value: Any) -> bool:
        command = _COMMAND.fullmatch(str(value).removesuffix(redirection))
        return command is not None and command[1].startswith(begin)

    return fits


IMPORTABLE: Shape = {
    "create": import_command("openstack", "image", "create", redirection=" </dev/tty"),
    "command": import_command("openstack", "image", "import"),
    "glance_command": import_command("glance", "image-import"),
}
NOT_IMPORTABLE: Shape = {"reason": str}
