"""Sweeps of real Glance servers in states that are no example of order."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from resolver.errors import LocationUnavailable
from resolver.glance import GlanceServer, ScopeCache, connect, sees_all
from resolver.index import Index
from resolver.models import Progress
from resolver.registry.validation import parse_location
from resolver.sync.sweep import Sweeper
from tests.glance.install import GlanceHome
from tests.support.balancers import LimitingNginx
from tests.support.glance import GlanceProcess
from tests.support.sweeping import Sweeping

# How indexes store what a sweep finds, tests/sync and tests/contract show on each backend.
pytestmark = [
    pytest.mark.glance,
    pytest.mark.parametrize("index_url", ["memory:"], indirect=True),
]

ANONYMOUS = "\n[DEFAULT]\nallow_anonymous_access = true\n"
ANONYMOUS_POLICY = '"get_images": ""\n"get_image": ""\n'
NOT_IDS = ("17", "7c9e6679742540de944be07fc1f90ae7", "from before UUIDs")
TOKEN = "GLANCE_LISTING_TOKEN"
IMAGES = 10


@contextmanager
def copies(database: Path, image_id: str, new_ids: Sequence[str]) -> Iterator[None]:
    """Other rows of the same image, with ids that the API would refuse."""
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        (row,) = connection.execute("SELECT * FROM images WHERE id = ?", (image_id,))
        values = dict(row)
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        copied = [[*(values | {"id": new_id}).values()] for new_id in new_ids]
        with connection:
            connection.executemany(f"INSERT INTO images ({names}) VALUES ({marks})", copied)
        yield
        with connection:
            connection.executemany("DELETE FROM images WHERE id = ?", [(i,) for i in new_ids])


@pytest.fixture(scope="module")
def open_glance(
    glance_home: GlanceHome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GlanceProcess]:
    """A server that requires no token, with `IMAGES` images, two a page."""
    directory = tmp_path_factory.mktemp("listings")
    with GlanceProcess(glance_home, directory, auth="none", limit=2) as server:
        for _ in range(IMAGES):
            server.create_public()
        yield server


@pytest.fixture
def anonymous_glance(glance_home: GlanceHome, tmp_path: Path) -> Iterator[GlanceProcess]:
    with GlanceProcess(
        glance_home, tmp_path / "glance", policy=ANONYMOUS_POLICY, options=ANONYMOUS, limit=4
    ) as server:
        yield server


async def test_rows_with_invalid_ids_are_skipped(index: Index, open_glance: GlanceProcess) -> None:
    ids = open_glance.ids()
    database = open_glance.directory / "glance.sqlite"
    async with connect(30) as session:
        with copies(database, min(ids), NOT_IDS):
            sweeping = Sweeping(index, session)
            location = await sweeping.register(open_glance)
            sweep = await sweeping.sweep(location)
        assert (sweep.images, sweep.skipped) == (IMAGES, len(NOT_IDS))
        assert await sweeping.claimed(location) == ids


async def test_an_expired_token_that_is_answered_anonymously_proves_nothing(
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
        assert listed.status == 200, "it answers anonymous clients"
        with pytest.raises(LocationUnavailable, match="answers anonymous clients"):
            await sees_all(server, await server.versions())
        with pytest.raises(LocationUnavailable):
            await sweeping.sweep(location)
        assert len(await sweeping.claimed(location)) == 7


@pytest.mark.parametrize(("rate", "refused"), [(0.0, True), (1.5, False)])
async def test_a_listing_behind_a_limit_is_read_to_its_end(
    index: Index, open_glance: GlanceProcess, rate: float, refused: bool
) -> None:
    """nginx sends no ``Retry-After``. With a `rate` below its limit it never refuses."""
    with LimitingNginx(open_glance.port) as front:
        async with connect(30) as session:
            location = parse_location("one", {"url": f"http://127.0.0.1:{front.port}"})
            location = await index.records.put(replace(location, rate=rate), None)
            server = GlanceServer(session, location, max_wait=60)
            sweeper = Sweeper(index, server, await server.versions(), ScopeCache(), guard=0.2)

            async def report(_: Progress) -> None:
                """Nobody watches it."""

            sweep = await sweeper.run(report)
        assert sweep.images == IMAGES
        answered = front.passed_on()
        refusals = [line for line in front.access_log() if line.startswith("- GET")]
        assert bool(refusals) is refused
        pages = [line for line in answered if "marker" not in line and "limit=1000" in line]
        assert len(pages) == 2, "each pass began once"
