"""Gateways of the gateway's tests, and their metrics."""

from __future__ import annotations

from tests.gateway.conftest import Gateway, gateway, start

__all__ = ["gateway", "metric", "start"]


async def metric(gateway: Gateway, name: str) -> float:
    """The value of the metric with this name and labels; 0 where there is none."""
    response, _ = await gateway.get("/metrics")
    for row in (await response.text()).splitlines():
        if row.startswith(f"{name} "):
            return float(row.rpartition(" ")[2])
    return 0.0
