"""Which handler answers a call."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from aiohttp import web


class Route:
    """A path and the handlers of its methods, in the order that `Allow` has them.

    ``kind`` names it in `StandIn.requests`. Handlers get the `Call` and the groups of ``path``.
    """

    def __init__(
        self, kind: str, path: str, **methods: Callable[..., Awaitable[web.Response]]
    ) -> None:
        self.kind, self.pattern, self.methods = kind, re.compile(path), methods
