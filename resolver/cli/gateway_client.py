"""How operator commands call a running gateway."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import click

from resolver.errors import ResolverError

DEFAULT_URL = "http://127.0.0.1:9393"
REQUEST_TIMEOUT_SECONDS = 30.0
"""How long the gateway may stay silent during one request."""

F = TypeVar("F", bound=Any)


class GatewayError(ResolverError):
    """The gateway refused the request, or did not answer."""


def error_from(status: int, document: Any) -> GatewayError:
    """The error for an answer: the detail of its problem document, or else its status."""
    detail = document.get("detail") if isinstance(document, dict) else None
    if status == 401:
        detail = (
            "the gateway needs one of its RESOLVER_ADMIN_TOKENS: give --token or RESOLVER_TOKEN"
        )
    return GatewayError(detail or f"the gateway answered {status}")


class Gateway:
    """A running gateway, called over HTTP."""

    def __init__(
        self, url: str, token: str | None, timeout: float = REQUEST_TIMEOUT_SECONDS
    ) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not url.isascii() or not url.isprintable() or " " in url:
            raise click.UsageError(f"--url {url!r} must be an http or https URL (RESOLVER_URL)")
        self._url = url.rstrip("/")
        self._token = token
        self._timeout = timeout

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Sends a request. Returns the decoded JSON answer, or None for an empty one.

        Raises:
            GatewayError: the gateway refused, with its own text, or did not answer.
        """
        headers = {"Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(
            self._url + path, data=data, headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                return _decode(response.read())
        except urllib.error.HTTPError as error:
            raise error_from(error.code, _decode(error.read())) from error
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise GatewayError(
                f"cannot reach the gateway at {self._url}: {reason} (is it running? give --url or "
                "RESOLVER_URL)"
            ) from error


def segment(text: str) -> str:
    """Text as one segment of a URL path. It may contain bytes that are not UTF-8."""
    return quote(text, safe="", errors="surrogateescape")


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return None


def gateway_options(command: F) -> F:
    """Adds ``--url`` and ``--token``, which the command gets as ``url`` and ``token``."""
    command = click.option(
        "--token", envvar="RESOLVER_TOKEN", help="Admin token.  [env: RESOLVER_TOKEN]"
    )(command)
    return click.option(
        "--url",
        envvar="RESOLVER_URL",
        default=DEFAULT_URL,
        show_default=True,
        help="URL of the gateway.  [env: RESOLVER_URL]",
    )(command)
