"""HTTP methods by what they may do."""

from __future__ import annotations

from collections.abc import Sequence

from resolver.errors import MethodNotAllowed

READ_METHODS = ("GET", "HEAD")
"""Methods that change nothing (RFC 9110, 9.2.1), of those that a client may send here."""

WRITE_METHODS = ("PUT", "POST", "PATCH", "DELETE")
"""All others that a path of Glance may have."""


def check_method(method: str, writes: Sequence[str], allowed: Sequence[str]) -> None:
    """Checks that a Glance has a method at a path, so that no client is advised to send it there.

    Args:
        writes: what the path may have besides `READ_METHODS`.
        allowed: what this gateway takes there.

    Raises:
        MethodNotAllowed: no Glance has it. The text is Glance's.
    """
    if method not in writes:
        raise MethodNotAllowed(
            f"The method {method} is not allowed for this resource.",
            headers={"Allow": ", ".join(allowed)},
        )
