"""How operator commands call a running gateway."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.client import BadStatusLine, HTTPException, HTTPMessage, RemoteDisconnected
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import click

from resolver import __version__
from resolver.admin_tokens import is_token_text
from resolver.bounded_http import (
    BoundedConnection,
    BoundedTlsConnection,
    BoundExceeded,
    read_document,
)
from resolver.cli.answer_shapes import ANY, Shape, misfit
from resolver.cli.printable import printable, printable_json
from resolver.errors import ResolverError
from resolver.text_files import read_bytes

DEFAULT_URL = "http://127.0.0.1:9393"
REQUEST_TIMEOUT_SECONDS = 30.0
"""How long the gateway may stay silent during one request."""

MAX_TOKEN_FILE_BYTES = 16_384
VERSION_TIMEOUT_SECONDS, MAX_VERSION_CHARACTERS = 5.0, 40

MAX_PAGES, MAX_PAGES_BYTES = 1000, 256 * 1024 * 1024
"""Of a listing, and the bytes of all its pages."""

_NEXT_LINK = re.compile(r'<(/[!-;=?-~]*)>; rel="next"', re.ASCII)
"""A path of the same gateway."""

F = TypeVar("F", bound=Any)


class GatewayError(ResolverError):
    """The gateway refused the request, or did not answer."""


def error_from(status: int, document: Any, *, has_token: bool = False) -> GatewayError:
    """The error for an answer: the detail of its problem document, or else its status.
    ``has_token``: whether an admin token was sent."""
    members = document if isinstance(document, dict) else {}
    detail, code = members.get("detail"), members.get("code")
    if code == "token-required":
        detail = f"{detail} Give --auth-token or OS_TOKEN."
    elif code == "listing-incomplete":  # the option that sends this
        detail = str(detail).replace("`X-Resolver-Partial: allow`", "--partial")
    elif status == 401 and code != "token-refused" and has_token:
        detail = (
            "the gateway does not know this admin token: it is not in RESOLVER_ADMIN_TOKENS there. "
            "Of a line `NAME=TOKEN` or `NAME:ROLE=TOKEN` give only TOKEN"
        )
    elif status == 401 and code != "token-refused":
        detail = (
            "the gateway needs one of its RESOLVER_ADMIN_TOKENS: give --token, RESOLVER_TOKEN or "
            "RESOLVER_TOKEN_FILE"
        )
    text = str(detail) if detail else f"the gateway answered {status}"
    return GatewayError(text, code=code if isinstance(code, str) else None)


class GatewayAddress:
    """Where a gateway is, and the token for it."""

    def __init__(self, url: str, token: str | None) -> None:
        """Raises click.UsageError if the URL is malformed, if no header can have the token, or if
        it would be sent where others can read it."""
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not url.isascii() or not url.isprintable() or " " in url:
            raise click.UsageError(f"--gateway {url!r} must be an http or https URL (RESOLVER_URL)")
        if token and not is_token_text(token):  # the error of http.client would show it
            raise click.UsageError(
                "the token has characters that no token has: a line break at its end?"
            )
        self.url = url.rstrip("/")
        self.is_loopback = is_loopback(parts.hostname or "")
        allowed = os.environ.get("RESOLVER_ALLOW_HTTP", "").lower() in ("1", "true", "yes", "on")
        if token and parts.scheme == "http" and not (self.is_loopback or allowed):
            raise click.UsageError(
                f"the token would go over http to {parts.hostname}, where others can read it: give "
                "an https URL, or set RESOLVER_ALLOW_HTTP=true"
            )
        self.has_token = bool(token)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this one. (That of `resolver.glance` is slow to import.)"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A gateway never redirects operators, and the token is for the gateway only. A process of this
    host does not either: what another server says is not its health."""

    def http_error_302(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
    ) -> None:
        """Leaves the answer as it is, and its target unread."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Http(urllib.request.HTTPHandler):
    """Bounds answers."""

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(BoundedConnection, req)


class _Https(urllib.request.HTTPSHandler):
    """Bounds answers."""

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(BoundedTlsConnection, req)


class _Answer(NamedTuple):
    document: Any
    """Decoded; None for an empty one."""
    headers: Mapping[str, str]
    size: int
    """Bytes of its body."""


class Gateway:
    """A running gateway, called over HTTP."""

    def __init__(
        self, url: str, token: str | None, timeout: float = REQUEST_TIMEOUT_SECONDS
    ) -> None:
        """Raises click.UsageError as `GatewayAddress`."""
        self._address = GatewayAddress(url, token)
        self._timeout = timeout
        handlers: list[urllib.request.BaseHandler] = [NoRedirects(), _Http(), _Https()]
        if self._address.is_loopback:  # a proxy has another loopback
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        shape: Shape = ANY,
    ) -> Any:
        """Sends a request. Returns the decoded JSON answer, or None for an empty one. ``shape``:
        what it must have; see `resolver.cli.answer_shapes`.

        Raises:
            GatewayError: the gateway refused, with its own text, did not answer, or answered
                something else.
        """
        return self._send(method, path, body, headers or {}, shape).document

    def change(self, method: str, path: str) -> None:
        """Sends a request without a body whose answer has none either.

        Raises:
            GatewayError: as for `call`.
        """
        if self._send(method, path, None, {}, ANY).size:
            raise no_gateway_error(self._address.url, "it sent something where nothing is due")

    def pages(
        self,
        path: str,
        *,
        headers: Mapping[str, str],
        shape: Shape = ANY,
        on_headers: Callable[[Mapping[str, str]], None],
    ) -> Iterator[Any]:
        """The decoded answers to a GET and to those of its ``next`` links (RFC 8288).
        ``on_headers`` is called with the header of each.

        Raises:
            GatewayError: as for `call`.
        """
        next_path: str | None = path
        pages = size = 0
        while next_path is not None:
            if pages == MAX_PAGES or size > MAX_PAGES_BYTES:
                raise no_gateway_error(self._address.url, "its listing does not end")
            answer = self._send("GET", next_path, None, headers, shape)
            on_headers(answer.headers)
            yield answer.document
            pages, size = pages + 1, size + answer.size
            link = _NEXT_LINK.fullmatch(answer.headers.get("Link", ""))
            next_path = link[1] if link else None

    def _send(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], shape: Shape
    ) -> _Answer:
        url = self._address.url
        headers = {"Accept": "application/json", **self._address.headers, **headers}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url + path, data=data, headers=headers, method=method)
        try:
            try:
                with self._opener.open(request, timeout=self._timeout) as response:
                    content, fields = read_document(response), response.headers
            except urllib.error.HTTPError as error:
                with error:
                    if 300 <= error.code < 400:
                        target = error.headers.get("Location")
                        raise redirect_error(url, error.code, target) from error
                    document = decode_answer(read_document(error))
                has_token = self._address.has_token
                raise error_from(error.code, document, has_token=has_token) from error
        except BoundExceeded as error:
            raise no_gateway_error(url, error.detail) from error
        except (OSError, ValueError, HTTPException) as error:
            raise unreachable_error(url, getattr(error, "reason", None) or error) from error
        return _Answer(checked(url, decode_answer(content), shape), fields, len(content))


def checked(url: str, document: Any, shape: Shape) -> Any:
    """The document, if it has the shape.

    Raises:
        GatewayError: it has another one.
    """
    if document is None and shape is not ANY:
        raise no_gateway_error(url, "it is not JSON")
    if why := misfit(document, shape):
        version = _version_at(url)
        if version and version != __version__:
            raise GatewayError(
                f"the gateway at {url} has version {version} and this command {__version__}, which "
                f"does not understand its answer: {why}. Use the command of that version, or give "
                "both the same"
            )
        raise no_gateway_error(url, why)
    return document


def _version_at(url: str) -> str:
    """The version of the gateway at a URL, as it says itself; empty if it says none."""
    try:
        answer = Gateway(url, None, timeout=VERSION_TIMEOUT_SECONDS).call("GET", "/status")
    except GatewayError:
        return ""
    version = answer.get("version") if isinstance(answer, dict) else None
    return printable(version)[:MAX_VERSION_CHARACTERS] if isinstance(version, str) else ""


def no_gateway_error(url: str, why: str) -> GatewayError:
    """The error for an answer that no gateway gives."""
    return GatewayError(
        f"the gateway at {url} did not answer as one: {why} (is something else there, or another "
        "version? give --gateway or RESOLVER_URL)"
    )


def unreachable_error(url: str, reason: object) -> GatewayError:
    """The error for a gateway that does not answer."""
    hint = "is it running? give --gateway or RESOLVER_URL"
    if isinstance(reason, ssl.SSLCertVerificationError):
        hint = "SSL_CERT_FILE names the file of your own authority"
    elif isinstance(reason, ssl.SSLError):
        hint = "does it speak http, not https?"
    elif isinstance(reason, RemoteDisconnected | BadStatusLine) and url.startswith("http:"):
        hint = "does it speak https, not http?"
    return GatewayError(f"cannot reach the gateway at {url}: {reason} ({hint})")


def redirect_error(url: str, status: int, target: str | None) -> GatewayError:
    """The error for a redirect, which is not followed: the token is for ``url`` only."""
    named = printable(target or "no other URL")[:200]
    return GatewayError(
        f"{url} answered {status} and names {named}: this is not a gateway, or it has moved; give "
        "the URL of the gateway itself (--gateway or RESOLVER_URL)"
    )


def segment(text: str) -> str:
    """Text as one segment of a URL path. It may contain bytes that are not UTF-8."""
    return quote(text, safe="", errors="surrogateescape")


def decode_answer(body: bytes) -> Any:
    """The JSON value of an answer, with printable texts; None for another body or none."""
    try:
        return printable_json(json.loads(body)) if body else None
    except (ValueError, RecursionError):
        return None


def read_token(given: str | None) -> str | None:
    """The token of ``--token`` or RESOLVER_TOKEN, else that in RESOLVER_TOKEN_FILE.

    Raises:
        click.UsageError: the file cannot be read, or is empty.
    """
    file = os.environ.get("RESOLVER_TOKEN_FILE")
    if given or not file:
        return given
    try:
        # It may be a pipe: RESOLVER_TOKEN_FILE=<(pass show resolver).
        content = read_bytes(Path(file), MAX_TOKEN_FILE_BYTES, may_be_pipe=True)
        token = content.decode("ascii").strip()
    except OSError as error:
        raise click.UsageError(f"RESOLVER_TOKEN_FILE {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"RESOLVER_TOKEN_FILE {file}: it is not ASCII text") from error
    if not is_token_text(token):
        raise click.UsageError(f"RESOLVER_TOKEN_FILE {file}: must have one line, the token")
    return token


def gateway_options(command: F) -> F:
    """Adds ``--gateway`` and ``--token``, which the command gets as ``url`` and ``token``."""
    command = click.option(
        "--token",
        envvar="RESOLVER_TOKEN",
        callback=lambda _ctx, _param, value: read_token(value),
        help="Admin token.  [env: RESOLVER_TOKEN; RESOLVER_TOKEN_FILE names a file with it]",
    )(command)
    return click.option(
        "--gateway",
        "url",
        metavar="URL",
        envvar="RESOLVER_URL",
        default=DEFAULT_URL,
        show_default=True,
        help="URL of the gateway.  [env: RESOLVER_URL]",
    )(command)
