"""Client of glance-resolver: which Glance server has an image, and its bytes from there.

`Client` is for threads, `AsyncClient` for asyncio and trio. Both have the same methods.
"""

from glance_resolver_client.answers import Absent, Answer, Found, Invalid, Owner, Unknown
from glance_resolver_client.async_client import AsyncClient
from glance_resolver_client.downloads import Download, LocationToken
from glance_resolver_client.errors import (
    ClientError,
    DownloadError,
    GatewayError,
    GatewayUnavailableError,
    ImageAbsentError,
    ImageUnknownError,
)
from glance_resolver_client.retries import Retries
from glance_resolver_client.sync_client import Client

__all__ = [
    "Absent",
    "Answer",
    "AsyncClient",
    "Client",
    "ClientError",
    "Download",
    "DownloadError",
    "Found",
    "GatewayError",
    "GatewayUnavailableError",
    "ImageAbsentError",
    "ImageUnknownError",
    "Invalid",
    "LocationToken",
    "Owner",
    "Retries",
    "Unknown",
]
