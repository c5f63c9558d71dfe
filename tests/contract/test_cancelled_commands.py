"""A command that is cancelled ends as cancelled, at whatever moment: a process that stops cancels
its work once, and would wait for a task that goes on."""

from __future__ import annotations

import asyncio

from resolver.index import Index

MOMENTS = 60
"""Turns of the event loop after which commands are cancelled; the longest take less."""


async def test_every_cancellation_reaches_its_task(index: Index) -> None:
    for turns in range(MOMENTS):
        task = asyncio.create_task(index.client.command("SET", "glr:x", turns))
        for _ in range(turns):
            await asyncio.sleep(0)
        was_running = task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() is was_running, f"after {turns} turns"
