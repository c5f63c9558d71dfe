"""The kinds of Redis that a test can run on."""

from __future__ import annotations

import pytest

on_every_backend = pytest.mark.parametrize(
    "index_url",
    [
        "memory:",
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("cluster", marks=pytest.mark.redis),
    ],
    indirect=True,
)
"""Runs a test on Redis Cluster too, where `index_url` alone means the embedded index and one
server."""
