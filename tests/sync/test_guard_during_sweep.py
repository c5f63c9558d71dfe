"""A shrink guard that is tripped while a sweep is under way."""

from __future__ import annotations

import asyncio

import pytest

from resolver.errors import ShrinkGuardTripped
from resolver.models import parse_id
from resolver.services import open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from resolver.sync import WorkKey, WorkKind
from tests.support.clouds import Hold
from tests.support.faults import Switch
from tests.support.wait import wait_until


async def test_a_sweep_that_may_have_listed_what_is_gone_is_followed_by_another() -> None:
    """It resets the guard, and keeps the claims whose release was refused meanwhile."""
    switch = Switch()
    settings = Settings(redis_url="memory:", sweep_interval=3600, poll_interval=3600)
    async with StandIn(middlewares=[switch.middleware]) as server, open_services(settings) as all_:
        records, observations = all_.index.records, all_.index.observations
        ids = [server.add().id for _ in range(2)]
        location, _ = await all_.registry.put("one", {"url": server.url, "sees_all": True})
        sweep = WorkKey(WorkKind.SWEEP, location.number)

        async def do_sweep() -> None:
            await all_.tables.current()
            await all_.indexer.do_now(sweep)

        await do_sweep()
        switch.fault = hold = Hold(lambda request: "marker" in request.query, responses=True)
        await all_.registry.sweep("one")
        sweeping = asyncio.create_task(do_sweep())
        await wait_until(lambda: hold.waiting > 0)
        await observations.record_absent(location.number, [parse_id(ids[0])])
        with pytest.raises(ShrinkGuardTripped):  # never all of several
            await observations.record_absent(location.number, [parse_id(ids[1])])
        for text in ids:
            server.delete(text)
        hold.open.set()
        await sweeping
        assert (await records.sweep(location.number)).guarded is None
        assert location.number in await records.requested_sweeps()
        await do_sweep()
        status = await records.sweep(location.number)
        assert status.error_code == "shrink-guard", "an operator decides about the last image"
        assert await records.requested_sweeps() == {}
