"""Gateways as those of the gateway's own tests."""

from tests.gateway.conftest import start

__all__ = ["start"]
