"""What the tests of the prober share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from resolver.models import format_id
from resolver.resolution import Answer
from tests.support.clouds import Cloud
from tests.support.ids import make_ids
from tests.support.wait import wait_until

ID, OTHER, THIRD, *MORE = [format_id(image_id) for image_id in make_ids(8)]
PROBE_TIMEOUT_SECONDS = 0.3
"""A deadline that a test waits for."""


async def wait_until_idle(cloud: Cloud) -> None:
    """Waits until no probe is in flight."""
    await wait_until(lambda: not cloud.services.prober.in_flight, message="all probes have ended")


async def outcomes(requests: Iterable[asyncio.Task[Answer]]) -> set[object]:
    """The different outcomes of the requests; errors as text."""
    answers = await asyncio.gather(*requests, return_exceptions=True)
    return {answer.outcome if isinstance(answer, Answer) else repr(answer) for answer in answers}


KINDS: dict[str, dict[str, Any]] = {
    "v2": {},
    "v1": {"v1": True, "v2": False},
    "both": {"v1": True},
    "old": {"v1": True, "old": True},
    "prefix": {"prefix": "/image"},
    "v1-prefix": {"v1": True, "v2": False, "prefix": "/image"},
}
