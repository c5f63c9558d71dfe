"""Location tables without a registry."""

from __future__ import annotations

from typing import Any

from resolver.index import Record, Snapshot
from resolver.models import Check, Health, Location, Status, Sweep
from resolver.registry import FreshnessPolicy, LocationView, Table

FRESH_FOR = 600.0


def make_view(
    name: str,
    *,
    number: int = 1,
    health: Health | None = Health.UP,
    versions: tuple[str, ...] = (),
    sweep: Sweep | None = None,
    **fields: Any,
) -> LocationView:
    """A location `http://<name>.example`. ``health`` None: no health check yet."""
    location = Location(name=name, number=number, url=f"http://{name}.example", **fields)
    check = None if health is None else Check(at=0, health=health, versions=versions)
    return LocationView(
        location, Status(check=check, sweep=sweep or Sweep()), FreshnessPolicy(FRESH_FOR)
    )


def make_table(*views: LocationView) -> Table:
    records = {p.name: Record(p.location, p.status) for p in views}
    return Table(Snapshot(1, records), FreshnessPolicy(FRESH_FOR))
