"""Locations and audit entries as JSON, for the HTTP API and the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from resolver.index import AuditEntry
from resolver.models import LOCATION_FIELDS, Check, Health, Location, Progress, Sweep
from resolver.registry.location_view import LocationView
from resolver.registry.table import Table


def rfc3339(at: float | None) -> str | None:
    """A time in seconds since the epoch as RFC 3339 text in UTC; None stays None."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def location_counts(table: Table, now: float) -> dict[str, int]:
    """How many locations there are, how many are known to be up or down now, and how many are
    covered."""
    views = table.by_name.values()
    checked = [view.health for view in views if view.health_is_current]
    return {
        "all": len(views),
        "up": checked.count(Health.UP),
        "down": checked.count(Health.DOWN),
        "covered": sum(not view.coverage_problem(now) for view in views),
    }


def fields_of(location: Location) -> dict[str, Any]:
    """The fields that operators may write, by name, as JSON values."""
    values = ((name, getattr(location, name)) for name in LOCATION_FIELDS)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values}


def location_to_json(view: LocationView, progress: Progress | None, now: float) -> dict[str, Any]:
    """A location with its health, coverage and last sweep. ``progress``: of a running sweep."""
    location, serves = view.location, view.serves
    return {
        "name": location.name,
        **fields_of(location),
        "refused": view.refused or None,
        "serves": None
        if serves is None
        else [api for api, served in zip(("v1", "v2"), serves, strict=True) if served],
        "created": rfc3339(location.created),
        "updated": rfc3339(location.updated),
        "health": {
            "state": str(view.health),
            "current": view.health_is_current,
            **_health_checks(view.status.check),
            "versions": list(view.versions),
        },
        "coverage": view.coverage(now),
        "sweep": {
            "running": _running(progress, view.status.sweep),
            **_last_sweep(view.status.sweep),
        },
    }


def _health_checks(check: Check | None) -> dict[str, Any]:
    return {
        "reason": check.reason if check else "not checked yet",
        "at": rfc3339(check.at) if check else None,
        "failures": check.failures if check else 0,
        "history": [
            {"at": rfc3339(change.at), "state": str(change.health), "reason": change.reason}
            for change in (check.changes if check else ())
        ],
    }


def _running(progress: Progress | None, sweep: Sweep) -> dict[str, Any] | None:
    if progress is None:
        return None
    if sweep.failed is not None and sweep.failed >= progress.at:
        return None  # it failed, and will be continued from there
    return {
        "started": rfc3339(progress.started),
        "images": progress.images,
        "front": progress.front or None,
    }


def _last_sweep(sweep: Sweep) -> dict[str, Any]:
    return {
        "started": rfc3339(sweep.started),
        "ended": rfc3339(sweep.ended),
        "images": sweep.images,
        "claimed": sweep.claimed,
        "released": sweep.released,
        "counts_are_exact": sweep.counts_are_exact,
        "skipped": sweep.skipped,
        "skipped_examples": sweep.skipped_examples or None,
        "conflicts": sweep.conflicts,
        "listing_gap": sweep.listing_gap or None,
        "sees_all": sweep.sees_all,
        "sees_all_why": sweep.sees_all_why,
        "error": sweep.error or None,
        "error_code": sweep.error_code or None,
        "failed": rfc3339(sweep.failed),
        "guarded": rfc3339(sweep.guarded),
    }


DEFAULTS = fields_of(Location(name="", url=""))


def audit_row(entry: AuditEntry) -> dict[str, Any]:
    """An entry of the audit log. Of a change it shows only the fields that have another value. The
    stored sides lack fields that are younger than format 1 and have their default."""
    before, after = (
        side and {name: value for name, value in side.items() if name in LOCATION_FIELDS}
        for side in (entry.before, entry.after)
    )
    if before and after:
        before, after = {**DEFAULTS, **before}, {**DEFAULTS, **after}
        changed = [name for name in LOCATION_FIELDS if before[name] != after[name]]
        before, after = ({name: side[name] for name in changed} for side in (before, after))
    return {
        "at": rfc3339(entry.at),
        "by": entry.by,
        "what": entry.what,
        "location": entry.location or None,
        "before": before,
        "after": after,
        "detail": entry.detail or None,
    }
