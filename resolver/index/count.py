"""A number of changes, and whether it is known exactly."""

from __future__ import annotations

from typing import Self


class Count(int):
    """How many claims a call made or dropped.

    A batch whose reply is lost with the connection is sent again. If Redis had run it already, the
    second run finds nothing to do. Then the number is the least that it can be.
    """

    is_exact: bool
    """False: there may have been more."""

    def __new__(cls, value: int, *, is_exact: bool = True) -> Self:
        count = super().__new__(cls, value)
        count.is_exact = is_exact
        return count

    def plus(self, other: Count) -> Count:
        """Both together."""
        return Count(self + other, is_exact=self.is_exact and other.is_exact)
