"""TLS: the certificate that this gateway shows, read again when its files change."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path
from typing import Any

import structlog

from resolver.errors import SettingsError
from resolver.settings import Settings

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a client has for the handshake, at most."""

SHUTDOWN_TIMEOUT = 2.0
"""Seconds that it has to say that it has read the end of a connection."""

CERT, KEY = "RESOLVER_TLS_CERT", "RESOLVER_TLS_KEY"

log = structlog.get_logger()


def tls_options(settings: Settings) -> dict[str, Any]:
    """What `asyncio.loop.create_server` needs for TLS: nothing for plain HTTP.

    Raises:
        SettingsError: the certificate or its key cannot be used.
    """
    if not settings.tls_cert:
        return {}
    certificate = _certificate(Path(settings.tls_cert), Path(settings.tls_key or settings.tls_cert))
    certificate.renew()
    return {
        "ssl": certificate.context,
        "ssl_handshake_timeout": min(HANDSHAKE_TIMEOUT, settings.client_timeout),
        "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT,
    }


class Certificate:
    """A certificate and its key. With each new connection its files are looked at, and read again
    when they have become others; while those cannot be used, the last that could be stays."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises SettingsError when they cannot be used."""
        self._files = cert, key
        self._stamp = self._look()
        self._latest = self.context = load(cert, key)
        self.context.sni_callback = self._on_handshake

    def _look(self) -> object:
        try:
            stats = [file.stat() for file in self._files]
        except OSError:
            return None
        return [(s.st_mtime_ns, s.st_size, s.st_ino, s.st_ctime_ns) for s in stats]

    def renew(self) -> None:
        """Reads the files again where they have changed."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._latest = load(*self._files)
                log.info("the certificate was read again")
            except SettingsError as error:
                log.error("the certificate stays as it was", reason=error.detail)  # noqa: TRY400

    def _on_handshake(self, connection: ssl.SSLObject, _name: str | None, _context: Any) -> None:
        """Called in each handshake, also of a client that names no server."""
        self.renew()
        # A fresh context instead of new files in the old one, which would have lost its key where
        # they do not belong together.
        connection.context = self._latest


@cache
def _certificate(cert: Path, key: Path) -> Certificate:
    """Kept: a worker that is started while the files are broken has what the process that it is
    forked from could use last."""
    return Certificate(cert, key)


def load(cert: Path, key: Path) -> ssl.SSLContext:
    """A server's context: TLS 1.2 or newer, Python's choice of ciphers.

    Raises:
        SettingsError: one line that names the file and what to do.
    """
    for name, file, mark in ((CERT, cert, "CERTIFICATE-----"), (KEY, key, "PRIVATE KEY-----")):
        try:
            text = file.read_bytes()
        except OSError as error:
            raise SettingsError(f"{name}: cannot read {file}: {error.strerror}") from error
        if mark.encode() not in text:
            what = "certificate" if file is cert else "private key"
            raise SettingsError(f"{name}: {file} holds no {what} in PEM form")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except _EncryptedError as error:
        raise SettingsError(
            f"{KEY}: {key} wants a passphrase, which nobody is there to give: keep it without one "
            "(`openssl pkey -in FILE -out FILE`) where nobody else can read it"
        ) from error
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(f"{KEY}: {key} is not the key of {cert} ({CERT})") from error
        raise SettingsError(
            f"{CERT}, {KEY}: {cert} and {key} cannot be used: {error.reason or 'no valid PEM'}"
        ) from error
    return context


class _EncryptedError(Exception):
    pass


def _no_passphrase() -> str:
    raise _EncryptedError  # else OpenSSL would ask for it on the terminal
