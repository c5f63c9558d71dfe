"""Until when certificates are valid: of a file of ours, and of a server."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

HANDSHAKE_TIMEOUT_SECONDS = 5.0

EXPIRES_SOON = timedelta(days=14)
"""A certificate that is valid for less than this should be renewed."""


class CertificateError(Exception):
    """The certificate cannot be used, or its date cannot be read. The message says why."""


def expiry_of_file(cert_file: str, key_file: str) -> datetime:
    """Until when the first certificate of a PEM file is valid.

    The standard library has no parser for certificates. It gives the fields of one that a peer
    has shown and that was verified, so this makes a handshake with itself that trusts the file.

    Raises:
        CertificateError: it has expired or is not valid yet, or the file cannot be used.
    """
    try:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(cert_file, key_file or None, _no_passphrase)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        client.load_verify_locations(cert_file)
        return _not_after(_handshake(client, server))
    except (OSError, ValueError) as error:
        raise CertificateError(_reason(error)) from error


def _no_passphrase() -> str:
    raise ValueError("its key has a passphrase")


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, Any]:
    """The fields of the server's certificate, after a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):  # two flights of each end suffice for TLS 1.2 and 1.3
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[0].getpeercert() or {}


async def expiry_of_server(host: str, port: int) -> datetime:
    """Until when the certificate of a server is valid, for a client with Python's trust store.

    Raises:
        CertificateError: the server does not answer, or its certificate is not accepted.
    """
    context = ssl.create_default_context()
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except (OSError, TimeoutError, ValueError) as error:
        raise CertificateError(_reason(error)) from error
    try:
        return _not_after(writer.get_extra_info("peercert"))
    finally:
        writer.transport.abort()


def _not_after(fields: dict[str, Any]) -> datetime:
    text = fields.get("notAfter")
    if not isinstance(text, str):
        raise CertificateError("its date cannot be read")
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return getattr(error, "strerror", None) or str(error) or "no answer in time"
