"""HTTP methods by what they may do."""

from __future__ import annotations

READ_METHODS = ("GET", "HEAD")
"""Methods that change nothing (RFC 9110, 9.2.1), of those that a client may send here."""
