"""The index in Redis: who has which image, and which locations there are.

`Index` is the door; nothing outside this package knows a Redis key or a script.
"""

from resolver.index.audit import AUDIT_MAX_ENTRIES, AuditEntry
from resolver.index.cache import ClaimCache
from resolver.index.claims import Census, Claims, LayoutView, Lookup
from resolver.index.codec import decode_owners
from resolver.index.facade import Index, open_index
from resolver.index.leases import Lease, LostLease
from resolver.index.records import Record, Records, Snapshot, SweepFindings, SweepRequest
from resolver.index.scan import ImageRows, walk

__all__ = [
    "AUDIT_MAX_ENTRIES",
    "AuditEntry",
    "Census",
    "ClaimCache",
    "Claims",
    "ImageRows",
    "Index",
    "LayoutView",
    "Lease",
    "Lookup",
    "LostLease",
    "Record",
    "Records",
    "Snapshot",
    "SweepFindings",
    "SweepRequest",
    "decode_owners",
    "open_index",
    "walk",
]
