"""Gateways as those of the gateway's own tests, and an authority for certificates."""

from __future__ import annotations

import pytest

from tests.gateway.conftest import start
from tests.gateway.test_front import handed_over
from tests.support.certificates import Authority

__all__ = ["handed_over", "start"]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))
