"""Counts the requests that the front does not answer itself."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web


class BridgedRequests:
    """How many requests the front has passed to aiohttp."""

    def __init__(self) -> None:
        self.servers: set[web.Server[Any]] = set()

    @property
    def count(self) -> int:
        return sum(server.requests_count for server in self.servers)


@pytest.fixture
def bridged(monkeypatch: pytest.MonkeyPatch) -> BridgedRequests:
    requests, make_handler = BridgedRequests(), web.Server.__call__

    def seen(server: web.Server[Any]) -> Any:
        requests.servers.add(server)
        return make_handler(server)

    monkeypatch.setattr(web.Server, "__call__", seen)
    return requests
