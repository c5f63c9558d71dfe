"""Services with locations that the test adds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.clouds import Cloud, clouds


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    async with clouds() as cloud:
        yield cloud
