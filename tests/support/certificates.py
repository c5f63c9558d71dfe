"""Certificates for tests, by an authority of their own."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Files:
    """A certificate with its chain, and its key, as PEM files."""

    cert: Path
    key: Path

    @property
    def environ(self) -> dict[str, str]:
        """Settings that make a gateway use them, as environment variables."""
        return {"RESOLVER_TLS_CERT": str(self.cert), "RESOLVER_TLS_KEY": str(self.key)}


class Authority:
    """A certificate authority; ``file`` has its own certificate."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self._count = 0
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, *names: str, not_after: datetime | None = None) -> Files:
        """A certificate for names and addresses, by default those of this host."""
        names = names or ("127.0.0.1", "localhost")
        issued = self._ca.issue_cert(*names, not_after=not_after)
        self._count += 1
        cert, key = (self._folder / f"{self._count}.{kind}.pem" for kind in ("cert", "key"))
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return Files(cert, key)

    def client(self) -> ssl.SSLContext:
        """A client's context that trusts this authority and no other."""
        return ssl.create_default_context(cafile=str(self.file))
