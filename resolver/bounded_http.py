"""Connections of http.client whose answers are bounded in bytes and in time: for commands, since
what listens at the URL of a gateway may be something else, and for logins at Keystones of others.
"""

from __future__ import annotations

import http.client
import io
import math
import socket
import time
from collections.abc import Iterator
from typing import Any

from resolver.errors import ResolverError

MAX_HEAD_BYTES = 1024 * 1024
"""Bytes of an answer's head, with the interim responses (100 Continue) before it."""

MAX_DOCUMENT_BYTES = 32 * 1024 * 1024
"""Bytes of an answer that is decoded as a whole. Ten thousand locations take some 20 MB."""

ANSWER_SECONDS = 120.0
"""How long the head of an answer may take to arrive, and with it a document. Bulk answers and
checks of locations take longest: some seconds."""

READ_BYTES = 64 * 1024
"""Read at a time."""


class BoundExceeded(ResolverError):
    """An answer is longer, or takes longer, than any of a gateway."""


class _BoundedReader(io.RawIOBase):
    """Reads a file of a socket, as far as the bounds allow."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._left: float = MAX_HEAD_BYTES
        self._until = time.monotonic() + ANSWER_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise BoundExceeded("the answer is too long")
        if time.monotonic() > self._until:
            raise BoundExceeded(f"the answer is not complete after {ANSWER_SECONDS:g} s")
        count = self._file.readinto1(buffer)
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

    def begin_document(self) -> None:
        """The head is complete."""
        self._left = MAX_DOCUMENT_BYTES

    def begin_stream(self) -> None:
        """The body is read part by part, and may be endless."""
        self._left = self._until = math.inf


class BoundedResponse(http.client.HTTPResponse):
    """An answer whose body is a document, unless `as_stream` is called."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._reader = _BoundedReader(self.fp)
        self.fp = io.BufferedReader(self._reader)

    def begin(self) -> None:
        super().begin()
        self._reader.begin_document()

    def as_stream(self) -> None:
        """The body is read part by part, and may be endless."""
        self._reader.begin_stream()


class BoundedConnection(http.client.HTTPConnection):
    """Answers with a `BoundedResponse`."""

    response_class = BoundedResponse


class BoundedTlsConnection(http.client.HTTPSConnection):
    """The same over TLS."""

    response_class = BoundedResponse


def read_document(response: Any) -> bytes:
    """The body of a response, read bit by bit: http.client would take memory for whatever length
    the head names.

    Raises:
        BoundExceeded: it is longer, or takes longer, than any of a gateway.
        OSError, HTTPException: the connection broke.
    """
    return b"".join(_parts(response))


def _parts(response: Any) -> Iterator[bytes]:
    while data := response.read(READ_BYTES):
        yield data
