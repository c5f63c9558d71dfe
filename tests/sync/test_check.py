"""What a look at a location's versions tells."""

from __future__ import annotations

from resolver.glance import Server, connect
from resolver.models import Check, Health, Location
from resolver.standin import StandIn
from resolver.sync.check import DOWN_AFTER, look


async def test_a_server_that_answers_is_up(server: StandIn) -> None:
    async with connect(5) as session:
        check = await look(Server(session, Location(name="one", url=server.url)), None)
    assert (check.health, check.failures, check.reason) == (Health.UP, 0, "")
    assert "v2.15" in check.versions


async def test_it_is_down_after_some_failures_and_what_it_served_stays(server: StandIn) -> None:
    async with connect(5) as session:
        one = Server(session, Location(name="one", url=server.url))
        check = await look(one, None)
        versions = check.versions
        await server.stop()
        for failures in range(1, DOWN_AFTER + 2):
            check = await look(one, check)
            expected = Health.UP if failures < DOWN_AFTER else Health.DOWN
            assert (check.health, check.failures) == (expected, failures)
            assert check.versions == versions
            assert "cannot connect" in check.reason
        await server.start(port=server.port)
        check = await look(one, check)
        assert (check.health, check.failures, check.reason) == (Health.UP, 0, "")


async def test_one_that_never_answered_is_unknown_then_down(server: StandIn) -> None:
    await server.stop()
    check: Check | None = None
    seen = []
    async with connect(5) as session:
        one = Server(session, Location(name="one", url=server.url))
        for _ in range(DOWN_AFTER):
            check = await look(one, check)
            seen.append(check.health)
    assert seen == [Health.UNKNOWN] * (DOWN_AFTER - 1) + [Health.DOWN]
