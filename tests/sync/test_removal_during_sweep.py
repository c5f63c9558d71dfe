"""A location that is removed while the same process sweeps it."""

from __future__ import annotations

import asyncio

from resolver.services import open_services
from resolver.settings import Settings
from resolver.standin import StandIn
from resolver.sync import WorkKey, WorkKind
from tests.support.faults import Gate, Switch, on_pages
from tests.support.indexing import claims_by_number
from tests.support.wait import wait_until

COLLECT = WorkKey(WorkKind.COLLECT)


async def test_claims_are_collected_after_the_sweep_that_still_makes_them() -> None:
    """Their number would be forgotten, and claims that the sweep makes later would stay forever."""
    switch, gate = Switch(), Gate()
    switch.fault = on_pages(gate, later=True)  # when some images have been claimed
    settings = Settings(redis_url="memory:", sweep_interval=3600, poll_interval=3600)
    async with (
        StandIn(middlewares=[switch.middleware], page_cap=10) as server,
        open_services(settings) as services,
    ):
        server.fill(50, seed=1)
        indexer, records = services.indexer, services.index.records
        location, _ = await services.registry.put("one", {"url": server.url})
        await services.tables.current()
        sweep = WorkKey(WorkKind.SWEEP, location.number)
        sweeping = asyncio.create_task(indexer.do_now(sweep))
        await wait_until(lambda: gate.waiting, message="the sweep is half way")
        await services.registry.remove("one")
        await indexer.do_now(COLLECT)
        assert await records.retired() == [location.number], "its sweep is under way"
        gate.open.set()
        await sweeping
        await indexer.do_now(COLLECT)
        assert await records.retired() == []
        assert await claims_by_number(services.index) == {}
