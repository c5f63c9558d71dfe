"""Counts the requests that the front does not answer itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web


@dataclass
class BridgedRequests:
    """How many requests the front has passed to aiohttp."""

    count: int = 0


@pytest.fixture
def bridged(monkeypatch: pytest.MonkeyPatch) -> BridgedRequests:
    requests, make_handler = BridgedRequests(), web.Server.__call__

    def counted(server: web.Server[Any]) -> Any:
        requests.count += 1
        return make_handler(server)

    monkeypatch.setattr(web.Server, "__call__", counted)
    return requests
