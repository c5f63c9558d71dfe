"""The index in Redis: who has which image, and which locations there are.

`Index` is the door; nothing outside this package knows a Redis key or a script.
"""

from resolver.index.audit import Entry
from resolver.index.cache import ClaimCache
from resolver.index.claims import Census, Claims, Lookup
from resolver.index.codec import Buckets
from resolver.index.facade import Index, open_index
from resolver.index.leases import Lease, LostLease
from resolver.index.records import Record, Records, Snapshot, Wanted

__all__ = [
    "Buckets",
    "Census",
    "ClaimCache",
    "Claims",
    "Entry",
    "Index",
    "Lease",
    "Lookup",
    "LostLease",
    "Record",
    "Records",
    "Snapshot",
    "Wanted",
    "open_index",
]
