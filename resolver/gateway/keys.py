"""What handlers find in the app and on a request, typed."""

from __future__ import annotations

from aiohttp import web

from resolver.gateway.metrics import Metrics
from resolver.gateway.traffic import Traffic
from resolver.services import Services

SERVICES = web.AppKey("services", Services)
METRICS = web.AppKey("metrics", Metrics)
TRAFFIC = web.AppKey("traffic", Traffic)

REQUEST_ID = web.RequestKey("request_id", str)
"""Key on a request: its ``req-<uuid>``."""

OUTCOME = web.RequestKey("outcome", object)
"""Key on a request: the answer it got, for the log line."""
