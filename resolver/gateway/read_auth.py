"""Who may read: the check of clients' tokens (``RESOLVER_READ_AUTH``) for handlers."""

from __future__ import annotations

from aiohttp import web

from resolver.callers import Caller
from resolver.gateway.app_keys import SERVICES
from resolver.gateway.limits import LIMITS, RequestCharge
from resolver.gateway.negotiation import client_token
from resolver.resolution.prober import ChargeCallback
from resolver.services import Services


async def identify(
    services: Services, token: str, region: str, charge: ChargeCallback
) -> Caller | None:
    """The client that sends this token; None where no token is needed. Arguments and errors are
    those of `CallerTokens.identify`."""
    if services.caller_tokens is None:
        return None
    return await services.caller_tokens.identify(token, region, charge)


async def admit(
    request: web.Request, region: str = "", charge: ChargeCallback | None = None
) -> Caller | None:
    """The same for the client of a request. Every handler for clients begins with it, but for those
    of health, versions and schemas."""
    charge = charge or RequestCharge.for_request(request.app[LIMITS], request)
    return await identify(request.app[SERVICES], client_token(request.headers), region, charge)
