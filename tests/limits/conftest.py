"""Gateways as those of the gateway's own tests."""

from __future__ import annotations

from tests.gateway.conftest import gateway, start

__all__ = ["gateway", "start"]
