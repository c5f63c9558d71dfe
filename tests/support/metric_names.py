"""The metrics that a process exposes, and those that an expression names."""

from __future__ import annotations

import re

from resolver.gateway.app import make_app
from resolver.gateway.app_keys import METRICS
from resolver.services import Services, open_services
from resolver.settings import load_settings


async def metrics_text(services: Services) -> str:
    """What `/metrics` of a process answers, without a request."""
    return (await make_app(services)[METRICS].render()).decode()


async def metric_types() -> dict[str, str]:
    """Each metric that a process exposes, with its type."""
    async with open_services(load_settings({"redis_url": "memory:"})) as services:
        text = await metrics_text(services)
    found = dict(re.findall(r"^# TYPE (\w+) (\w+)", text, re.MULTILINE))
    return {name: kind for name, kind in found.items() if not name.endswith("_created")}


def named_metrics(text: str) -> set[str]:
    """The metrics that PromQL in ``text`` names; histograms without the suffix of their series."""
    names = set(re.findall(r"\b(?:glance_resolver|process)_\w+", text))
    return {re.sub(r"(_seconds)_(bucket|count|sum)$", r"\1", name) for name in names}
