"""Every Redis key of the resolver. No other module names one, but for the keys of a few moments
on which `resolver.index.preflight` tries commands.

With the default prefix ``glr:``

==============================  ========  =======================================================
key                             type      holds
==============================  ========  =======================================================
``glr:<bits>:<hex>``            hash      one bucket of claims: the id's remaining bytes -> owners.
                                          ``<bits>`` is a capital letter; a small one where an older
                                          version has made the index (`resolver.index.buckets`)
``glr:<bits>:s<hex>``           hash      the same for ids that are not random
``glr:{reg}:meta``              hash      ``format``, ``writers``, ``newest`` (see
                                          `resolver.index.index_format`), ``bits``, ``identity``;
                                          ``number`` (as ``numbers``) and ``location:<name>``
                                          (its number), to notice what Redis loses; ``servers`` and
                                          ``losses`` (see `resolver.index.server_watch`);
                                          ``floor``: since which version ``changes`` is complete;
                                          for a rebuild also
                                          ``wanted`` (bits asked for), ``next`` (bits being
                                          written), ``at`` (bucket copied last), ``old`` (to drop)
``glr:{reg}:locations``         hash      name -> ``<number> <JSON of the location>``
``glr:{reg}:status``            hash      ``<number>:<what>`` -> JSON; check, sweep, poll, feed
                                          (the subscription to notifications)
``glr:{reg}:progress``          hash      number -> JSON of the sweep under way
``glr:{reg}:noted:<number>``    set       what the sweep under way has found: ids claimed and not
                                          listed, and ids listed in upper case
``glr:{reg}:kept:<number>``     set       ids claimed by hand since the sweep under way began
``glr:{reg}:gone:<number>``     zset      ids that left the location -> when; for 600 seconds
``glr:{reg}:released``          hash      number -> claims that probes, polls and notifications have
                                          released since the last complete sweep
``glr:{reg}:wanted``            hash      number -> JSON of a sweep that was requested
``glr:{reg}:audit``             list      JSON of operators' last changes, the newest first
``glr:{reg}:version``           string    version of the registry: the time of its last change in
                                          microseconds, and always more than before. A check or
                                          poll that changes no answer leaves it as it is
``glr:{reg}:numbers``           integer   the last number given to a location
``glr:{reg}:retired``           set       numbers of removed locations, until their claims are gone
``glr:{reg}:removed``           set       names of removed locations: one that is neither here
                                          nor in ``locations`` was lost by Redis
``glr:{reg}:result:<id>``       string    result of one write to the registry, for 60 seconds: the
                                          reply if the same write is sent again
``glr:result:{<bucket>}:<id>``  string    the same for a claim or release by hand, in the slot of
                                          its bucket
``glr:{reg}:changes``           zset      names of locations -> version of the registry after the
                                          last change of each; of the last ten minutes
``glr:{reg}:indexers``          zset      indexers -> until when each is announced
``glr:{reg}:processes``         zset      JSON of processes that use the index -> until when each is
                                          announced
``glr:{reg}:versions``          zset      their versions -> until when each is announced
``glr:{reg}:creating``          string    token of the process that makes the index, for 10 seconds
``glr:lease:<what>``            string    token of the process that holds the lease
``glr:turn:<number>``           string    when a location with a `rate` may be asked next, in
                                          microseconds
==============================  ========  =======================================================

``gone``, results, ``creating``, ``indexers``, ``processes``, ``versions``, leases, turns and the
keys of trials are the only ones with a time to live.

A bucket is chosen by the leading ``bits`` of the UUID, so a listing in UUID order fills bucket
after bucket. Redis stores a hash of at most ``hash-max-listpack-entries`` small fields as one
compact string, which is why an image costs its bytes and little more. ``{reg}`` is a hash tag: on
Redis Cluster the whole registry is in one slot, so that one script can change it, while buckets
spread over all slots.
"""

from __future__ import annotations

from resolver.models import MIN_BITS


class Keys:
    """Names of keys under one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        registry = f"{prefix}{{reg}}:"
        self.meta = registry + "meta"
        self.locations = registry + "locations"
        self.status = registry + "status"
        self.progress = registry + "progress"
        self.sweep_requests = registry + "wanted"
        self.audit = registry + "audit"
        self.version = registry + "version"
        self.numbers = registry + "numbers"
        self.retired = registry + "retired"
        self.removed = registry + "removed"
        self.creating = registry + "creating"
        self.changes = registry + "changes"
        self.indexers = registry + "indexers"
        self.processes = registry + "processes"
        self.versions = registry + "versions"
        self.released = registry + "released"
        self._sweep_findings = registry + "noted:"
        self._pinned_claims = registry + "kept:"
        self._departures = registry + "gone:"
        self._result = registry + "result:"
        self._lease = f"{prefix}lease:"
        self._turn = f"{prefix}turn:"

    def by_type(self) -> dict[str, list[str]]:
        """The keys of the registry by the type of each; those of single locations left out."""
        return {
            "hash": [
                *(self.meta, self.locations, self.status, self.progress),
                *(self.sweep_requests, self.released),
            ],
            "list": [self.audit],
            "set": [self.retired, self.removed],
            "sorted set": [self.changes, self.indexers, self.processes, self.versions],
            "string": [self.version, self.numbers, self.creating],
        }

    def bucket_prefix(self, bits: int, *, spreads: bool = True) -> bytes:
        """What the buckets of an index of ``1 << bits`` begin with. ``<bits>`` is one letter, so
        that with the default prefix a name fits Redis's smallest string. ``spreads``: see
        `resolver.index.buckets.Buckets`."""
        return f"{self.prefix}{chr(ord('A' if spreads else 'a') + bits - MIN_BITS)}:".encode()

    def sweep_findings(self, number: int) -> str:
        return f"{self._sweep_findings}{number}"

    def pinned_claims(self, number: int) -> str:
        return f"{self._pinned_claims}{number}"

    def departures(self, number: int) -> str:
        return f"{self._departures}{number}"

    def result(self, operation: str) -> str:
        return self._result + operation

    def claim_result(self, bucket: bytes, operation: str) -> bytes:
        """``bucket``: the key of a bucket."""
        return b"%bresult:{%b}:%b" % (self.prefix.encode(), bucket, operation.encode())

    def lease(self, what: str) -> str:
        return self._lease + what

    def turn(self, number: int) -> str:
        return f"{self._turn}{number}"
