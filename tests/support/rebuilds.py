"""Rebuilds of an index."""

from __future__ import annotations

import asyncio


async def no_report() -> None:
    """A rebuild's report that goes nowhere. Other tasks run meanwhile."""
    await asyncio.sleep(0)
