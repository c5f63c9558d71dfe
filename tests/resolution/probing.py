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
SOON = 0.3
"""Seconds of a deadline that a test waits out."""


async def idle(cloud: Cloud) -> None:
    """Until no probe is in flight."""
    await wait_until(lambda: not cloud.services.prober.in_flight, message="all probes end")


async def outcomes(asking: Iterable[asyncio.Task[Answer]]) -> set[object]:
    """The outcomes of many, or the errors in place of those."""
    answers = await asyncio.gather(*asking, return_exceptions=True)
    return {a.outcome if isinstance(a, Answer) else repr(a) for a in answers}


KINDS: dict[str, dict[str, Any]] = {
    "v2": {},
    "v1": {"v1": True, "v2": False},
    "both": {"v1": True},
    "old": {"v1": True, "old": True},
    "prefix": {"prefix": "/image"},
    "v1-prefix": {"v1": True, "v2": False, "prefix": "/image"},
}
