"""The index in Redis: which location has which image, and which locations there are.

`Index` is its public face. Nothing outside this package knows a Redis key, a bucket or a script.
"""

from resolver.index.audit import AUDIT_MAX_ENTRIES, Audit, AuditEntry
from resolver.index.cache import ClaimCache
from resolver.index.census import Census
from resolver.index.claim_counts import MAX_COUNT_AGE_SECONDS, LocationSpans
from resolver.index.claims import Claims, Lookup, StoredClaim
from resolver.index.codec import UNREADABLE, lookup_owners, summarize
from resolver.index.count import Count
from resolver.index.facade import Index, open_index
from resolver.index.leases import Lease, LostLease
from resolver.index.members import Membership
from resolver.index.observations import MIN_GUARDED_LOSS
from resolver.index.preflight import REACHABLE, Finding
from resolver.index.processes import ProcessInfo
from resolver.index.rate_turns import Turns
from resolver.index.records import Records
from resolver.index.redis.client import DEFAULT_TIMEOUTS, RedisTimeouts
from resolver.index.redis.embedded import EmbeddedStore
from resolver.index.registry_snapshot import Record, Snapshot
from resolver.index.scan import ImageRows, walk, walk_key
from resolver.index.sweep_records import SweepFindings, SweepRequest
from resolver.index.unordered_claims import MAX_MEMORY_BYTES, UnorderedClaims

__all__ = [
    "AUDIT_MAX_ENTRIES",
    "DEFAULT_TIMEOUTS",
    "MAX_COUNT_AGE_SECONDS",
    "MAX_MEMORY_BYTES",
    "MIN_GUARDED_LOSS",
    "REACHABLE",
    "UNREADABLE",
    "Audit",
    "AuditEntry",
    "Census",
    "ClaimCache",
    "Claims",
    "Count",
    "EmbeddedStore",
    "Finding",
    "ImageRows",
    "Index",
    "Lease",
    "LocationSpans",
    "Lookup",
    "LostLease",
    "Membership",
    "ProcessInfo",
    "Record",
    "Records",
    "RedisTimeouts",
    "Snapshot",
    "StoredClaim",
    "SweepFindings",
    "SweepRequest",
    "Turns",
    "UnorderedClaims",
    "lookup_owners",
    "open_index",
    "summarize",
    "walk",
    "walk_key",
]
