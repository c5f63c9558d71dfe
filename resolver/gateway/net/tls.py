"""TLS: the gateway's certificate, read again when its files change."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import structlog

from resolver.certificate_dates import EXPIRES_SOON, CertificateError, expiry_of_file
from resolver.errors import SettingsError
from resolver.problems import Problem
from resolver.settings import Settings
from resolver.text_files import MAX_PEM_BYTES, file_stamp, read_bytes

HANDSHAKE_SECONDS = 10.0
"""How long a client may take for the handshake, at most."""

TLS_SHUTDOWN_SECONDS = 2.0
"""How long a client may take to acknowledge the end of a connection."""

CERT, KEY = "RESOLVER_TLS_CERT", "RESOLVER_TLS_KEY"

RENEW = "Put a new one into the files that RESOLVER_TLS_CERT and RESOLVER_TLS_KEY name."

log = structlog.get_logger()


def tls_options(settings: Settings) -> dict[str, Any]:
    """The TLS arguments of `asyncio.loop.connect_accepted_socket`; none for plain HTTP.

    Raises:
        SettingsError: the certificate or its key cannot be used.
    """
    certificate = _certificate_of(settings)
    if certificate is None:
        return {}
    certificate.renew()
    return {
        "ssl": certificate.context,
        "ssl_handshake_timeout": min(HANDSHAKE_SECONDS, settings.client_timeout),
        "ssl_shutdown_timeout": TLS_SHUTDOWN_SECONDS,
    }


def certificate_problems(settings: Settings) -> Iterator[Problem]:
    """The problems of the gateway's certificate: a `ProblemSource` but for the argument."""
    if (certificate := _certificate_of(settings)) is not None:
        yield from certificate.problems()


def _certificate_of(settings: Settings) -> Certificate | None:
    if not settings.tls_cert:
        return None
    return _certificate(Path(settings.tls_cert), Path(settings.tls_key or settings.tls_cert))


class Certificate:
    """A certificate and its key. The files are checked with each new connection, and read again
    when they have changed. While new files cannot be used, the last usable ones stay in force."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises SettingsError when the files cannot be used."""
        self._files = cert, key
        self._stamp = self._file_stamp()
        self._latest = self.context = load(cert, key)
        self._expiry = _expiry(cert, key)
        self._is_refused = False
        """Whether the current files cannot be used."""
        self.context.sni_callback = self._on_handshake

    def _file_stamp(self) -> object:
        try:
            return [file_stamp(file) for file in self._files]
        except OSError:
            return None

    def renew(self) -> None:
        """Reads the files again where they have changed."""
        stamp = self._file_stamp()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._latest = load(*self._files)
                self._expiry = _expiry(*self._files)
                self._is_refused = False
                log.info("certificate reloaded")
            except SettingsError as error:
                self._is_refused = True
                log.error("certificate not reloaded: the last one stays", reason=error.detail)  # noqa: TRY400

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the files, or with the certificate's date."""
        if self._is_refused:
            text = "The gateway's certificate or key has been replaced by one that cannot be used; "
            yield Problem(
                code="certificate",
                text=f"{text}the last one stays.",
                action="The log says why. A restart would fail.",
            )
        elif self._expiry is None:
            yield Problem(
                code="certificate",
                text="The gateway's certificate is not valid now.",
                action=RENEW,
            )
        elif self._expiry - datetime.now(UTC) < EXPIRES_SOON:
            yield Problem(
                code="certificate",
                text=f"The gateway's certificate is valid until {self._expiry:%Y-%m-%d}.",
                action=RENEW,
            )

    def _on_handshake(self, connection: ssl.SSLObject, _name: str | None, _context: Any) -> None:
        """Called in each handshake, also when the client names no server."""
        self.renew()
        # A new context, because loading files that do not belong together into the old one would
        # leave it without a key.
        connection.context = self._latest


def _expiry(cert: Path, key: Path) -> datetime | None:
    """Until when a certificate is valid; None if it is not now."""
    try:
        return expiry_of_file(str(cert), str(key))
    except CertificateError:
        return None


@cache
def _certificate(cert: Path, key: Path) -> Certificate:
    """Cached: a worker that is forked while the files are broken has the certificate that its
    parent process loaded."""
    return Certificate(cert, key)


def load(cert: Path, key: Path) -> ssl.SSLContext:
    """A server's context: TLS 1.2 or newer, Python's choice of ciphers.

    Raises:
        SettingsError: one line that names the file and what to do.
    """
    for name, file, mark in ((CERT, cert, "CERTIFICATE-----"), (KEY, key, "PRIVATE KEY-----")):
        try:
            text = read_bytes(file, MAX_PEM_BYTES)
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
            f"{KEY}: {key} needs a passphrase, which nobody can enter here: store the key "
            "without one (`openssl pkey -in FILE -out FILE`), readable by this service only"
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
