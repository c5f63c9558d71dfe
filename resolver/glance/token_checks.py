"""Asking a Keystone whether it accepts a client's token (``GET /v3/auth/tokens``)."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import defaultdict
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from resolver.errors import LocationUnavailable
from resolver.fault_log import FaultLog
from resolver.glance.cloud_config import CloudRef, cloud_of
from resolver.glance.cloud_credentials import CloudCredentials
from resolver.glance.glance_server import read_body
from resolver.glance.keystone import AuthHeaders
from resolver.glance.proxies import proxy_for
from resolver.keystone_urls import identity_url
from resolver.models import Location

MAX_TOKEN_BODY_BYTES = 128 * 1024
"""What Keystone says of a token, without its catalog: some kilobytes. Whatever is in this many is
decoded in less than 5 ms."""


class _OwnCredential(NamedTuple):
    """What this gateway itself has for a Keystone."""

    token: str
    """Empty where it has none."""
    url: str
    """The Keystone that the token comes from; empty where that is not known."""
    cloud: CloudRef | None
    sent: AuthHeaders | None
    tls: ssl.SSLContext | bool


NO_CREDENTIAL = _OwnCredential("", "", None, None, True)


class TokenChecks:
    """Checks clients' tokens. It remembers nothing."""

    def __init__(self, session: aiohttp.ClientSession, cloud_credentials: CloudCredentials) -> None:
        """``session``: it may connect to a Keystone, which need not be a host that locations may
        have. Requests end with its timeout."""
        self._session = session
        self._cloud_credentials = cloud_credentials
        self._credential_faults: defaultdict[str, FaultLog] = defaultdict(
            lambda: FaultLog(
                __name__, "no credential to check tokens", "credential to check tokens again"
            )
        )
        """By location."""

    async def seconds_left(self, url: str, location: Location | None, token: str) -> float | None:
        """How long a Keystone will accept a token; None where it does not accept it now.

        The gateway's own credential for a location asks. Where there is none, or Keystone does not
        let it ask, the token itself does: by Keystone's default policy each may ask about itself.

        Args:
            url: of the Keystone's v3 API; empty: that of the location's cloud.
            location: one whose credential that Keystone gave, if there is one.

        Raises:
            LocationUnavailable: Keystone gave no clear answer.
        """
        own = NO_CREDENTIAL if location is None else await self._own_credential(location, url)
        url = url or own.url
        if not url:
            raise LocationUnavailable("its Keystone is not known: set RESOLVER_DOMAINS")
        for asking in dict.fromkeys((own.token, token)):
            if not asking:
                continue
            status, document = await self._ask(url, asking, token, own.tls)
            if status == 200:
                return _seconds_left(document)
            if not _is_error(document):
                raise LocationUnavailable(f"Keystone answered {status}")
            if status == 404 or (status == 401 and asking is token):
                return None
            if status not in (401, 403):
                raise LocationUnavailable(f"Keystone answered {status}")
            if own.cloud is not None and own.sent is not None and status == 401:
                self._cloud_credentials.invalidate_if_new(own.cloud, own.sent)
        raise LocationUnavailable("Keystone lets neither the gateway nor the token itself ask")

    async def _own_credential(self, location: Location, url: str) -> _OwnCredential:
        """The gateway's own credential for a location, as far as it may be sent to Keystone."""
        cloud, faults = cloud_of(location), self._credential_faults[location.name]
        try:
            if cloud is None:
                # Without a cloud only the settings name the Keystone.
                token = url and self._cloud_credentials.secrets.read_token(location.auth)
                faults.record_success(location=location.name)
                return NO_CREDENTIAL._replace(token=token or "")
            tls = await self._cloud_credentials.tls(cloud) or True
            sent = await self._cloud_credentials.auth_headers(cloud)
        except LocationUnavailable as error:
            faults.record_failure(str(error), location=location.name)
            return NO_CREDENTIAL
        faults.record_success(location=location.name)
        own = _OwnCredential("", _identity_url(sent.auth_url), cloud, sent, tls)
        try:
            host = urlsplit(url or own.url).hostname or ""
            self._cloud_credentials.check_host(cloud, sent, host)
        except LocationUnavailable:
            return own  # the settings name another host, which does not get the credential
        return own._replace(token=sent.headers.get("X-Auth-Token", ""))

    async def _ask(
        self, url: str, asking: str, token: str, tls: ssl.SSLContext | bool
    ) -> tuple[int, Any]:
        """The status and the JSON of Keystone's answer about a token; None for another body.

        Raises:
            LocationUnavailable: there was no whole answer.
        """
        target = f"{url}/auth/tokens?nocatalog"
        try:
            async with self._session.get(
                target,
                headers={"X-Auth-Token": asking, "X-Subject-Token": token},
                allow_redirects=False,
                proxy=proxy_for(target),
                ssl=tls,
            ) as response:
                body = await read_body(response, MAX_TOKEN_BODY_BYTES)
                return response.status, _document(body)
        except (TimeoutError, asyncio.IncompleteReadError) as error:
            raise LocationUnavailable("Keystone did not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # The texts of these may quote what was sent.
            raise LocationUnavailable(f"Keystone gave no answer ({type(error).__name__})") from None


def _identity_url(url: str) -> str:
    try:
        return identity_url(url)
    except ValueError:
        return ""


def _document(body: bytes | bytearray) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _is_error(document: Any) -> bool:
    """Whether this is an error of Keystone's own, and not of a proxy before it."""
    return isinstance(document, dict) and isinstance(document.get("error"), dict)


def _seconds_left(document: Any) -> float | None:
    """How long a token is valid by what Keystone says of it; None where it has ended.

    Raises:
        LocationUnavailable: it says no such thing.
    """
    described = document.get("token") if isinstance(document, dict) else None
    expires_at = described.get("expires_at") if isinstance(described, dict) else None
    try:
        # ISO 8601 in UTC: "2026-11-27T02:00:00.000000Z".
        left = datetime.fromisoformat(str(expires_at)).timestamp() - time.time()
    except (ValueError, OverflowError):
        raise LocationUnavailable("Keystone does not say when the token ends") from None
    return left if left > 0 else None
