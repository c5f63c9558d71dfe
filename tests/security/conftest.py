"""The fixtures of the gateway tests, and a certificate authority."""

from __future__ import annotations

import pytest

from tests.gateway.bridged_requests import bridged
from tests.gateway.conftest import start
from tests.support.certificates import Authority

__all__ = ["bridged", "start"]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))
