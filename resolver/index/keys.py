"""Every Redis key of the resolver. No other module names one.

With the default prefix ``glr:``

==============================  ========  =======================================================
key                             type      holds
==============================  ========  =======================================================
``glr:<bits>:<hex>``            hash      one bucket of claims: the id's remaining bytes -> owners
``glr:{reg}:meta``              hash      ``format``, ``bits``, ``identity``; while it is rebuilt
                                          ``wanted``, ``next``, how far ``at``, then ``old``
``glr:{reg}:locations``         hash      name -> ``<number> <JSON of the location>``
``glr:{reg}:status``            hash      ``<number>:<what>`` -> JSON; check, sweep, poll, feed
``glr:{reg}:progress``          hash      number -> JSON of the sweep under way
``glr:{reg}:noted:<number>``    set       ids that the sweep under way found claimed and not
                                          listed, or listed in upper case
``glr:{reg}:kept:<number>``     set       ids claimed by hand since the sweep under way began
``glr:{reg}:gone:<number>``     zset      ids that were lately seen to have left -> when
``glr:{reg}:wanted``            hash      number -> JSON of a sweep that was asked for
``glr:{reg}:audit``             list      JSON of operators' last changes, the newest first
``glr:{reg}:version``           integer   grows with each change of locations or status, but for a
                                          look that told nothing new
``glr:{reg}:numbers``           integer   the last number given to a location
``glr:{reg}:retired``           set       numbers of removed locations, until their claims are gone
``glr:lease:<what>``            string    who does one piece of background work; these and
                                          ``gone`` are the only keys with a time to live
==============================  ========  =======================================================

A bucket is chosen by the leading ``bits`` of the UUID, so a listing in UUID order fills bucket
after bucket. Redis keeps a hash of at most ``hash-max-listpack-entries`` small fields as one
compact string, which is why an image costs its bytes and little more. ``{reg}`` is a hash tag: on
Redis Cluster the registry lies in one slot, so a script can change it whole, while buckets spread.
"""

from __future__ import annotations

from resolver.models import MIN_BITS


class Keys:
    """Names of keys under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        registry = f"{prefix}{{reg}}:"
        self.meta = registry + "meta"
        self.locations = registry + "locations"
        self.status = registry + "status"
        self.progress = registry + "progress"
        self.wanted = registry + "wanted"
        self.audit = registry + "audit"
        self.version = registry + "version"
        self.numbers = registry + "numbers"
        self.retired = registry + "retired"
        self.removed = registry + "removed"
        self._noted = registry + "noted:"
        self._kept = registry + "kept:"
        self._gone = registry + "gone:"
        self._lease = f"{prefix}lease:"

    def bucket_prefix(self, bits: int) -> bytes:
        """What the buckets of an index of ``1 << bits`` begin with; ``<bits>`` is one letter, so
        that a name of the default prefix fits Redis's smallest string."""
        return f"{self._prefix}{chr(ord('a') + bits - MIN_BITS)}:".encode()

    def noted(self, number: int) -> str:
        return f"{self._noted}{number}"

    def kept(self, number: int) -> str:
        return f"{self._kept}{number}"

    def gone(self, number: int) -> str:
        return f"{self._gone}{number}"

    def lease(self, what: str) -> str:
        return self._lease + what
