"""What a gateway logs where its own credentials cannot be read for checks of clients' tokens."""

from __future__ import annotations

import contextlib

import aiohttp
from structlog.testing import capture_logs

from resolver.errors import LocationUnavailable
from resolver.glance import CloudCredentials
from resolver.glance.token_checks import TokenChecks
from resolver.models import Location
from resolver.settings import Settings
from tests.support.process import free_port


async def test_each_location_has_its_own_line() -> None:
    credentials = CloudCredentials.of(Settings())
    keystone = f"http://127.0.0.1:{free_port()}/v3"
    try:
        async with aiohttp.ClientSession() as session:
            checks = TokenChecks(session, credentials)
            with capture_logs() as lines:
                for name in ("one", "two", "one"):
                    auth = {"token_env": "GLANCE_TOKEN_THAT_IS_NOT_SET"}
                    location = Location(name=name, url="http://x.example", auth=auth)
                    with contextlib.suppress(LocationUnavailable):
                        await checks.seconds_left(keystone, location, "a-token")
    finally:
        credentials.close()
    assert [(line["event"], line["location"]) for line in lines] == [
        ("no credential to check tokens", "one"),
        ("no credential to check tokens", "two"),
    ]
