"""What handlers find in the app and on a request, typed."""

from __future__ import annotations

from aiohttp import web

from resolver.admin_tokens import Role
from resolver.gateway.access_log import AccessLog
from resolver.gateway.browser_guard import BrowserGuard
from resolver.gateway.metrics.process_metrics import Metrics
from resolver.gateway.net.in_flight import InFlight
from resolver.gateway.tokens import Tokens
from resolver.services import Services

SERVICES = web.AppKey("services", Services)
METRICS = web.AppKey("metrics", Metrics)
IN_FLIGHT = web.AppKey("in_flight", InFlight)
ACCESS_LOG = web.AppKey("access_log", AccessLog)
TOKENS = web.AppKey("tokens", Tokens)
BROWSER_GUARD = web.AppKey("browser_guard", BrowserGuard)

HOST = web.RequestKey("host", str)
"""Key on a request: the host that it is for, with its port; empty where the client named none."""

REQUEST_ID = web.RequestKey("request_id", str)
"""Key on a request: its ``req-<uuid>``."""

ADMIN = web.RequestKey("admin", str)
"""Key on a request to an admin path: the name of its token."""

ROLE = web.RequestKey("role", Role)
"""Key on a request to an admin path: what its token may do."""

OUTCOME = web.RequestKey("outcome", object)
"""Key on a request: the answer it got, for the log line."""

SOURCE = web.RequestKey("source", str)
"""Key on a request: where the answer about its image came from, for the metrics."""
