"""Our client library downloads from real Glance servers, and resumes there."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from glance_resolver_client import AsyncClient, Client, DownloadError, Found, Retries

from tests.gateway.conftest import Start, start
from tests.glance.gateway import Gateway
from tests.glance.pair import Pair
from tests.support.glance import ADMIN_TOKEN
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

__all__ = ["start"]

pytestmark = pytest.mark.glance

SIZE = 2_000_000  # much is left after both breaks, however much one read gives
BREAK_AFTER_BYTES = 150_000


class BreakingProxy(Proxy):
    """Ends two connections after so many bytes of responses. What was passed on arrives."""

    breaks_left = 2
    passed = 0

    def changed(self, data: bytes) -> bytes:
        self.passed += len(data)
        if self.breaks_left and self.passed >= BREAK_AFTER_BYTES:
            self.passed = 0
            self.breaks_left -= 1
            asyncio.get_running_loop().call_soon(self.half_close)
        return data


def test_images_of_real_servers(gateway: Gateway, glance_pair: Pair, tmp_path: Path) -> None:
    """With the token that the servers require, and not without."""
    shared = glance_pair.images["one"]["shared"]
    file = tmp_path / "disk.img"
    with Client(gateway.url, retries=Retries(attempts=0)) as client:
        download = client.download(shared.id, file, location_token=ADMIN_TOKEN)
        assert (download.hash_algo, file.read_bytes()) == ("sha512", shared.data)
        with pytest.raises(DownloadError, match="401"):
            client.download(shared.id, file)
        (answer,) = client.lookup(name=f"image-{shared.id[:8]}", token=ADMIN_TOKEN)
        assert isinstance(answer, Found)
        assert {owner.location for owner in answer.owners} == {"one", "two"}
        hidden = glance_pair.images["two"]["upper-case"]
        client.download(hidden.id, file, location_token=ADMIN_TOKEN)
        assert file.read_bytes() == hidden.data


async def test_a_real_server_resumes(start: Start, open_pair: Pair, tmp_path: Path) -> None:
    server = open_pair.servers["one"]
    data = os.urandom(SIZE // 2).hex().encode()
    image = await asyncio.to_thread(server.create, data=data)
    async with BreakingProxy(server.port) as proxy:
        gateway = await start()
        await gateway.location("one", url=f"http://127.0.0.1:{proxy.port}")
        await gateway.claim("one", image.id)
        file = tmp_path / "disk.img"
        async with AsyncClient(gateway.url) as client:
            await client.download(image.id, file)
        assert await asyncio.to_thread(file.read_bytes) == data

    def resumed() -> bool:
        asked = [line for line in server.accesses() if f"{image.id}/file" in line and "GET" in line]
        statuses = [line.rpartition(" ")[2] for line in asked]
        assert statuses.count("200") <= 1, "it went on where the connection had ended"
        return "206" in statuses

    # The server writes a line after the client has read the body, and may write none for a
    # connection that was broken.
    await wait_until(resumed, message="it asked again")
    await asyncio.to_thread(server.delete, image.id)
