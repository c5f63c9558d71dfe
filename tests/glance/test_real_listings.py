"""Sweeps of real Glance servers in states that are no example of order."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from resolver.errors import LocationUnavailable
from resolver.glance import GlanceServer, connect, sees_all
from resolver.index import Index
from tests.glance.install import GlanceHome
from tests.support.glance import GlanceProcess
from tests.support.sweeping import Sweeping

pytestmark = pytest.mark.glance

ANONYMOUS = "\n[DEFAULT]\nallow_anonymous_access = true\n"
ANONYMOUS_POLICY = '"get_images": ""\n"get_image": ""\n'
NOT_IDS = ("17", "7c9e6679742540de944be07fc1f90ae7", "from before UUIDs")
TOKEN = "LISTING_TOKEN"


def copy_image(database: Path, image_id: str, new_id: str) -> None:
    """Another row of the same image, with an id that the API would refuse."""
    with sqlite3.connect(database) as connection:
        connection.row_factory = sqlite3.Row
        (row,) = connection.execute("SELECT * FROM images WHERE id = ?", (image_id,))
        values = {**dict(row), "id": new_id}
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        connection.execute(f"INSERT INTO images ({names}) VALUES ({marks})", [*values.values()])


@pytest.fixture
def anonymous_glance(glance_home: GlanceHome, tmp_path: Path) -> Iterator[GlanceProcess]:
    with GlanceProcess(
        glance_home, tmp_path / "glance", policy=ANONYMOUS_POLICY, options=ANONYMOUS, limit=4
    ) as server:
        yield server


async def test_rows_that_no_api_would_accept_are_skipped(
    index: Index, glance_home: GlanceHome, tmp_path: Path
) -> None:
    with GlanceProcess(glance_home, tmp_path / "glance", auth="none", limit=2) as glance:
        ids = {glance.create_public().id for _ in range(7)}
        for text in NOT_IDS:
            copy_image(tmp_path / "glance" / "glance.sqlite", min(ids), text)
        async with connect(30) as session:
            sweeping = Sweeping(index, session)
            location = await sweeping.register(glance)
            sweep = await sweeping.sweep(location)
            assert (sweep.images, sweep.skipped) == (7, len(NOT_IDS))
            assert await sweeping.claimed(location) == ids


async def test_a_dead_token_that_is_answered_as_a_stranger_proves_nothing(
    index: Index, anonymous_glance: GlanceProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, "alive")
    for owner in ("p", "q"):
        anonymous_glance.create_private(owner)
    for _ in range(5):
        anonymous_glance.create_public()
    async with connect(30) as session:
        sweeping = Sweeping(index, session)
        location = await sweeping.register(
            anonymous_glance, auth={"token_env": TOKEN}, sees_all=True
        )
        assert (await sweeping.sweep(location)).images == 7
        monkeypatch.setenv(TOKEN, "dead")
        server = GlanceServer(session, location)
        listed = await server.request("/v2/images", {"limit": "1"})
        assert listed.status == 200, "it answers strangers"
        with pytest.raises(LocationUnavailable, match="answers strangers"):
            await sees_all(server, await server.versions())
        with pytest.raises(LocationUnavailable):
            await sweeping.sweep(location)
        assert len(await sweeping.claimed(location)) == 7
