"""A master behind Sentinels fails or hands over: an open index finds the new one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from resolver.errors import IndexUnavailable
from resolver.index import Index, open_index
from resolver.models import Location, Owner
from tests.conftest import started
from tests.distributed.conftest import PASSWORD
from tests.distributed.test_failover import IDS, WITHIN, lookup, recovers
from tests.support.sentinel import SERVICE, Sentinels
from tests.support.wait import wait_until

pytestmark = pytest.mark.redis


async def settled(index: Index, sentinels: Sentinels) -> None:
    await index.records.put(Location(name="one", url="http://one.example"), None)
    assert await index.claims.claim(9, IDS) == len(IDS)
    await wait_until(sentinels.is_replicated, message="the replica has everything")


@pytest.mark.parametrize("how", ["killed", "hangs"])
async def test_a_failed_master_is_replaced(sentinels: Sentinels, how: str) -> None:
    async with open_index(sentinels.url, bits=8) as index:
        await settled(index, sentinels)
        master = sentinels.master()
        if how == "killed":
            master.kill()
        else:
            master.pause()
        with pytest.raises(IndexUnavailable):
            await index.claims.claim(1, IDS)
        took = await recovers(lambda: index.claims.claim(1, IDS))
        print(f"sentinel, {how}: claims after {took:.2f} s")
        both = [{Owner(1), Owner(9)}] * len(IDS)
        assert [set(o) for o in (await index.claims.lookup(IDS)).owners] == both
        assert list((await index.records.load()).records) == ["one"]
        assert sentinels.master() is sentinels.other(master)
        if how == "killed":
            master.start()
        else:
            master.resume()
        await asyncio.to_thread(sentinels.wait)
        assert [set(o) for o in (await index.claims.lookup(IDS)).owners] == both
        assert await index.claims.release(1, IDS) == len(IDS)


async def test_a_planned_failover_loses_no_replicated_claim(sentinels: Sentinels) -> None:
    async with open_index(sentinels.url, bits=8) as index:
        await settled(index, sentinels)
        both = {Owner(1), Owner(9)}
        for _ in range(2):  # there and back
            master = sentinels.master()
            await asyncio.to_thread(sentinels.failover)

            def handed_over(old: int = master.port) -> bool:
                return old not in sentinels.named()

            await wait_until(handed_over, timeout=WITHIN)
            begun = time.monotonic()
            async with open_index(sentinels.master().url) as new:

                async def goes_there() -> bool:
                    # Until it has to follow, the old master accepts claims, which are lost.
                    await index.claims.claim(1, IDS)
                    found = await asyncio.gather(new.claims.lookup(IDS), index.claims.lookup(IDS))
                    return all(set(o) == both for lookup in found for o in lookup.owners)

                await recovers(lambda: index.claims.claim(1, IDS))
                await wait_until(goes_there, timeout=WITHIN)
            print(f"sentinel, handed over: claims go there after {time.monotonic() - begun:.2f} s")
            await asyncio.to_thread(sentinels.wait)
            assert [set(o) for o in (await index.claims.lookup(IDS)).owners] == [both] * len(IDS)
            assert await index.claims.release(1, IDS) == len(IDS)
            await lookup(index)


async def test_an_index_opens_while_some_sentinels_are_down(sentinels: Sentinels) -> None:
    """One that answers is enough to read, most are needed to write, and those that are down cost no
    time."""
    async with open_index(sentinels.url, bits=8) as index:
        await settled(index, sentinels)
        await lookup(index)
        for sentinel in sentinels.sentinels[:2]:
            sentinel.kill()
        begun = time.monotonic()
        async with open_index(sentinels.url) as other:
            await lookup(other)
        assert time.monotonic() - begun < 2
        await wait_until(lambda: refuses_claims(index), message="another may be the master")
        sentinels.sentinels[0].start()
        await recovers(lambda: index.claims.release(1, IDS))
        for sentinel in sentinels.sentinels[:2]:
            sentinel.kill()
        sentinels.sentinels[2].kill()
        await lookup(index)  # only new connections need a Sentinel
        with pytest.raises(IndexUnavailable):
            async with open_index(sentinels.url):
                pytest.fail("it opened")


async def refuses_claims(index: Index) -> bool:
    try:
        await index.claims.claim(1, IDS)
    except IndexUnavailable as error:
        return "Most Sentinels" in error.detail
    return False


@pytest.fixture(scope="module")
def unchanged_sentinels() -> Iterator[Sentinels]:
    """For tests that only connect."""
    with closing(started(Sentinels(password=PASSWORD))) as sentinels:
        yield sentinels


@pytest.mark.parametrize("password", ["", "wrong"])
async def test_a_wrong_password_is_an_error(unchanged_sentinels: Sentinels, password: str) -> None:
    with pytest.raises(IndexUnavailable) as caught:
        async with open_index(unchanged_sentinels.url_with(password)):
            pytest.fail("it opened")
    assert "wrong" not in caught.value.detail.replace("wrong password", "")


async def test_a_service_unknown_to_the_sentinels_is_an_error(
    unchanged_sentinels: Sentinels,
) -> None:
    with pytest.raises(IndexUnavailable, match="No master found for 'other'"):
        async with open_index(unchanged_sentinels.url.replace(f"/{SERVICE}", "/other")):
            pytest.fail("it opened")


async def test_a_replica_is_not_used_as_master(sentinels: Sentinels) -> None:
    """An outdated Sentinel may name one; it would answer reads with old data."""
    async with open_index(sentinels.url, bits=8):
        pass
    master = sentinels.master()
    replica = sentinels.other(master)
    for sentinel in sentinels.sentinels:
        sentinel.kill()
    lone = sentinels.sentinels[0]
    file = lone.directory / f"sentinel-{lone.port}.conf"
    file.unlink()
    lone.start()
    lone.ask("SENTINEL MONITOR", SERVICE, "127.0.0.1", replica.port, 2)
    with pytest.raises(IndexUnavailable, match="replica"):
        async with open_index(sentinels.url):
            pytest.fail("it opened")


async def test_sentinels_may_have_their_own_credentials() -> None:
    with closing(
        started(Sentinels(password="of/servers", sentinel_password="of sentinels"))
    ) as both:
        for query in ("", "?sentinel_password=wrong"):
            with pytest.raises(IndexUnavailable, match="the Sentinels do not accept the login"):
                async with open_index(both.url + query):
                    pass
        for login in ("", "sentinel_username=default&"):
            url = f"{both.url}?{login}sentinel_password=of%20sentinels"
            async with open_index(url, bits=8) as index:
                await index.claims.claim(9, IDS)
                assert (await index.claims.lookup(IDS)).owners == [(Owner(9),)] * len(IDS)
