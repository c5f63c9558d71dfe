"""Where a request's body ends, for bodies that another protocol reads.

The front hands aiohttp one request at a time. What comes behind its body is the next request.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from resolver.gateway.net.request_head import Fields, MalformedError

MAX_CHUNK_HEAD_BYTES = 8190
"""A chunk's size with its extensions."""

MIN_CHUNK_BYTES = 16
"""What the chunks of a body must have on average, but for its first ones. A chunk costs as much
time as a kilobyte. Clients that send each id as a chunk have larger ones."""

FREE_CHUNKS = 1000

LAST_CHUNK = b"0\r\n\r\n"

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t\x20!#-\[\]-~\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_CHUNK_HEAD = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:;%b(?:=(?:%b|%b))?)*\r\n" % (_TOKEN, _TOKEN, _QUOTED)
)
"""A chunk's size with its extensions (RFC 9112, 7.1.1), without the white space around them that
only old senders write."""


class BodyFraming(ABC):
    """Finds the end of one body as it arrives."""

    complete = False

    @abstractmethod
    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """The body's part of the data as it is passed on, and the rest of the data.

        Raises:
            MalformedError: the body cannot be read.
        """


class SizedBody(BodyFraming):
    """A body of a known length; 0 for none."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.complete = size == 0

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        taken = min(self._left, len(data))
        self._left -= taken
        self.complete = self._left == 0
        return data[:taken], data[taken:]


class ChunkedBody(BodyFraming):
    """A body in chunks (RFC 9112, 7.1). What arrives at once is passed on as one chunk, without
    extensions, so that no reader behind can read it otherwise. Trailers are refused."""

    def __init__(self) -> None:
        self._left = 0
        """Bytes of the chunk that have not arrived."""
        self._line = b""
        """The part of a line that has arrived."""
        self._expects_head = True
        """Whether the next line is a chunk's head. Else it is empty: the end of a chunk."""
        self._is_last = False
        """Whether the chunk of size 0 has arrived."""
        self._data = bytearray()
        """What has arrived since the last call of `take`."""
        self._chunks = 0
        self._announced = 0
        """The size of all chunks so far."""

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        at = 0
        while at < len(data) and not self.complete:
            if self._left:
                part = data[at : at + self._left]
                self._data += part
                self._left -= len(part)
                at += len(part)
            else:
                at = self._take_line(data, at)
        plain, self._data = bytes(self._data), bytearray()
        if plain:
            plain = b"%x\r\n%b\r\n" % (len(plain), plain)
        return (plain + LAST_CHUNK if self.complete else plain), data[at:]

    def _take_line(self, data: bytes, at: int) -> int:
        """Takes a line, or the part of it that has arrived. Returns where it ends."""
        end = data.find(b"\n", at) + 1 or len(data)
        line = self._line + data[at:end]
        if self._expects_head:
            self._take_head(line)
        elif line == b"\r\n":
            self._line, self._expects_head, self.complete = b"", True, self._is_last
        elif line == b"\r":
            self._line = line
        elif self._is_last:
            raise MalformedError(400, "the body cannot be read: it has trailers")
        else:
            raise _broken_chunks_error()
        return end

    def _take_head(self, line: bytes) -> None:
        if len(line) > MAX_CHUNK_HEAD_BYTES:
            raise MalformedError(400, "the body cannot be read: a chunk's head is too long")
        if not line.endswith(b"\n"):
            self._line = line
            return
        match = _CHUNK_HEAD.fullmatch(line)
        if match is None:
            raise _broken_chunks_error()
        self._line, self._expects_head = b"", False
        self._left = int(match[1], 16)
        if self._left:
            self._count(self._left)
        else:
            self._is_last = True

    def _count(self, size: int) -> None:
        self._chunks += 1
        self._announced += size
        if (self._chunks - FREE_CHUNKS) * MIN_CHUNK_BYTES > self._announced:
            raise MalformedError(
                400,
                f"the body has too many small chunks: beyond {FREE_CHUNKS}, they must have "
                f"{MIN_CHUNK_BYTES} bytes each on average",
            )


def _broken_chunks_error() -> MalformedError:
    return MalformedError(400, "the body cannot be read: its chunks are broken")


def framing_of(fields: Fields) -> BodyFraming:
    """The framing of the body that follows these header fields."""
    return ChunkedBody() if fields.chunked else SizedBody(fields.content_length)
