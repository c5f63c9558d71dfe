"""The one place that uses a private name of redis-py."""

from __future__ import annotations

import asyncio
from typing import Any


def transport_of(connection: Any) -> asyncio.Transport:
    """The transport of an open connection of redis-py, to be given another protocol.

    redis-py opens connections (TLS, login, database, Sentinel) and has no public way to hand over
    what it opened. ``_writer`` has been its `asyncio.StreamWriter` in every version from 5.2 to
    8.1; ``tests/index/test_redis_py_private_names.py`` fails when it no longer is.
    """
    transport: asyncio.Transport = connection._writer.transport
    return transport
