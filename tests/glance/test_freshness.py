"""A change at a real Glance shows in the gateway's answers, in each way that it can arrive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.glance.freshness import WAYS, cloud, gateway_by, measure
from tests.glance.install import GlanceHome
from tests.support.glance import GlanceProcess
from tests.support.rabbit import RabbitServer

pytestmark = [pytest.mark.glance, pytest.mark.rabbit]

COUNT = 10


@pytest.fixture(scope="module")
def server(
    glance_home: GlanceHome, tmp_path_factory: pytest.TempPathFactory, rabbit_server: RabbitServer
) -> Iterator[GlanceProcess]:
    with cloud(glance_home, tmp_path_factory.mktemp("fresh"), rabbit_server) as server:
        yield server


@pytest.mark.parametrize("way", WAYS)
def test_created_images_are_found_and_deleted_ones_are_absent(
    way: str, server: GlanceProcess, rabbit_server: RabbitServer, tmp_path: Path
) -> None:
    with gateway_by(way, server, tmp_path, rabbit_server) as gateway:
        seen = measure(way, gateway, server, COUNT, pace=0.05)
    assert len(seen.created) == COUNT
    assert len(seen.deleted) == (0 if way == "poll" else COUNT)
