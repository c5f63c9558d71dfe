"""Where a call goes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from aiohttp import web


class Route:
    """A kind of path and the handler of each method, in the order that `Allow` names them.

    Handlers take the `Call` and the groups of the path.
    """

    def __init__(
        self, kind: str, path: str, **methods: Callable[..., Awaitable[web.Response]]
    ) -> None:
        self.kind, self.pattern, self.methods = kind, re.compile(path), methods
