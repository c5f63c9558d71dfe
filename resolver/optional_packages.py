"""Keeps libraries from importing what they would only use if we asked them to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_package(name: str) -> Iterator[None]:
    """Within it, an import of this package fails as if it were not installed, unless it has been
    imported before. For libraries that import another one wherever they find it.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # as documented: the import fails
    try:
        yield
    finally:
        del sys.modules[name]
