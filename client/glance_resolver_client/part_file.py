"""The bytes of a download, until they are complete and verified."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Self

from glance_resolver_client.exchange import ExchangeError
from glance_resolver_client.image_record import ImageRecord


class PartFile:
    """A file next to the destination. As a context, it is removed at the end unless it was kept."""

    def __init__(self, destination: Path, record: ImageRecord) -> None:
        """Raises OSError."""
        self._destination = destination
        self._path = destination.with_name(f".{destination.name[:200]}.{secrets.token_hex(4)}.part")
        self._record = record
        self._hash = record.verifiable_hash()
        self._file = self._path.open("xb")
        self.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Drops all bytes."""
        self.size = 0
        self._file.seek(0)
        self._file.truncate()
        algorithm = self._hash[0] if self._hash else "md5"
        self._hasher = hashlib.new(algorithm, usedforsecurity=False)

    def write(self, part: bytes) -> None:
        """Appends.

        Raises:
            ExchangeError: there are more bytes than the image has.
            OSError: the disk does not take them.
        """
        if self._record.size is not None and self.size + len(part) > self._record.size:
            raise ExchangeError(f"it sends more bytes than the image's {self._record.size}")
        self._file.write(part)
        self._hasher.update(part)
        self.size += len(part)

    @property
    def has_known_size(self) -> bool:
        """Whether the record has the image's size."""
        return self._record.size is not None

    @property
    def is_complete(self) -> bool:
        """Whether it is known that no bytes are missing."""
        return self.size == self._record.size

    @property
    def is_right(self) -> bool:
        """Whether the bytes have the hash of the record; True where it has none."""
        return self._hash is None or self._hasher.hexdigest() == self._hash[1]

    def keep(self) -> None:
        """Gives it the name of the destination. Raises OSError."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.replace(self._destination)
