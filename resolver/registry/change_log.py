"""Log lines about changes of locations: Redis may lose the audit log, or get an old one back."""

from __future__ import annotations

import time

import structlog

from resolver.index import AuditEntry, Record
from resolver.models import Location
from resolver.registry.presentation import audit_row, fields_of

log = structlog.get_logger("audit")


def log_change(by: str, name: str, before: Record | None, after: Location | None) -> None:
    """Logs what an operator has changed, with the values before and after. No field of a location
    has a secret: ``auth`` and ``notifications`` say where one is.

    ``by``: the name of the operator's token. Without one nothing is logged: a process has
    registered what its file or its options have. ``before``, ``after``: None where there was no
    location before, or there is none now.
    """
    if not by:
        return
    what = "changed" if before and after else "added" if after else "removed"
    old = fields_of(before.location) if before else None
    new = fields_of(after) if after else None
    row = audit_row(AuditEntry(time.time(), by, what, name, before=old, after=new))
    log.info(f"location {what}", admin=by, location=name, before=row["before"], after=row["after"])
