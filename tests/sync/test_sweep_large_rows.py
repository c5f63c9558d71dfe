"""Rows of megabytes, as an ordinary user of a Glance can make them, do not end a sweep."""

from __future__ import annotations

import pytest

from resolver.models import format_id
from tests.support.ids import make_ids
from tests.support.sweeping import Sweeping
from tests.sync.conftest import StartServer

TEXT = "x" * 64_000
LARGE = {f"property{number}": TEXT for number in range(40)}
"""2.5 MB of the 128 properties of 64 KiB that Glance allows: seven rows are longer than a page may
be."""


@pytest.fixture
def index_url() -> str:
    return "memory:"


async def test_pages_are_smaller_where_rows_are_large_and_larger_behind_them(
    sweeping: Sweeping, start_server: StartServer
) -> None:
    server = await start_server()
    server.fill(2000, seed=1)
    for image_id in make_ids(12, seed=2):
        # Neighbours in the middle of the listing.
        server.add(id="80000000" + format_id(image_id)[8:], properties=LARGE)
    everything = set(server.ids())
    location = await sweeping.register(server)
    sweep = await sweeping.sweep(location)
    assert sweep.images == sweep.claimed == len(everything)
    assert await sweeping.claimed(location) == everything
    assert server.requests["GET", "images"] < 60, "most pages are large"
