"""``glance-resolver healthcheck``: for the HEALTHCHECK of a container and for scripts."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import click

from resolver.cli.gateway_client import GatewayError, NoRedirects
from resolver.cli.runtime_file import loopback_url, read_url

if TYPE_CHECKING:
    from resolver.settings import Settings

TIMEOUT_SECONDS = 3.0
"""How long the gateway may take. Docker's own timeout in the Dockerfile is longer."""


@click.command()
@click.option("--host", help="Address that the gateway listens on, if not that of the settings.")
@click.option("--port", type=int, help="Its port, if not that of the settings.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=TIMEOUT_SECONDS,
    show_default=True,
    help="Seconds that it may take.",
)
def healthcheck(host: str | None, port: int | None, timeout: float) -> None:
    """Ask the gateway on this host whether it is alive.

    Asks /healthcheck at the address that the settings describe, as `serve` reads them. Exits 0
    if the gateway answers 200, and 1 if not. With TLS the certificate is not verified.
    """
    from resolver.settings import load_settings  # noqa: PLC0415

    url = f"{local_url(load_settings(), host, port)}/healthcheck"
    try:
        with open_local(url, timeout) as response:
            status = response.status
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise GatewayError(f"{url} does not answer: {reason}") from error
    if status != 200:
        raise GatewayError(f"{url} answered {status}")
    click.echo(f"{url} answered 200")


def open_local(url: str, timeout: float) -> Any:
    """The response to a GET of a process of this host.

    Raises:
        OSError, ValueError, HTTPException: there is none, or it is an error.
    """
    # No proxy of the environment: it has another loopback.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=_unverified()),
        NoRedirects(),
    )
    return opener.open(url, timeout=timeout)


def local_url(settings: Settings, host: str | None = None, port: int | None = None) -> str:
    """The URL of the gateway of this host: from ``host`` and ``port`` if they are given, else as a
    `serve` with options wrote it, else from the settings."""
    if host is None and port is None and (url := read_url(settings.port)):
        return url
    return loopback_url(host or settings.host, port or settings.port, tls=bool(settings.tls_cert))


def _unverified() -> ssl.SSLContext:
    """A client's context that accepts any certificate: its names are those that clients use, which
    loopback is not."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
