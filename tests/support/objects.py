"""Objects of this process that no interface leads to."""

from __future__ import annotations

import gc
from typing import TypeVar

T = TypeVar("T")


def all_instances(kind: type[T]) -> list[T]:
    """Every object of a class that the garbage collector knows."""
    return [item for item in gc.get_objects() if isinstance(item, kind)]
