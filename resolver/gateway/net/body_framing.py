"""Where a request's body ends, for bodies that another protocol reads.

The front hands exactly one request to aiohttp. What comes behind its body is the next request.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from resolver.gateway.net.request_head import Fields, MalformedError

MAX_CHUNK_HEAD_BYTES = 1024
"""A chunk's size with its extensions."""

MAX_TRAILER_BYTES = 8192

_CHUNK_HEAD = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n")


class BodyFraming(ABC):
    """Finds the end of one body as it arrives."""

    complete = False

    @abstractmethod
    def take(self, data: bytes) -> int:
        """How many of these bytes belong to the body.

        Raises:
            MalformedError: they cannot be read.
        """


class SizedBody(BodyFraming):
    """A body of a known length; 0 for none."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.complete = size == 0

    def take(self, data: bytes) -> int:
        taken = min(self._left, len(data))
        self._left -= taken
        self.complete = self._left == 0
        return taken


class ChunkedBody(BodyFraming):
    """A body in chunks (RFC 9112, 7.1)."""

    def __init__(self) -> None:
        self._left = 0
        """Bytes of the chunk that have not come, with its CRLF."""
        self._line = b""
        """The part of a line that has come."""
        self._in_trailers = False
        self._trailer_bytes = 0

    def take(self, data: bytes) -> int:
        at = 0
        while at < len(data) and not self.complete:
            at = self._take_data(data, at) if self._left else self._take_line(data, at)
        return at

    def _take_data(self, data: bytes, at: int) -> int:
        taken = min(self._left, len(data) - at)
        # The last two bytes of a chunk are its CRLF.
        for offset in range(max(0, self._left - 2), self._left):
            if offset < taken and data[at + offset] != b"\r\n"[2 - (self._left - offset)]:
                raise MalformedError(400, "the body cannot be read: its chunks are broken")
        self._left -= taken
        return at + taken

    def _take_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at)
        stop = len(data) if end < 0 else end + 1
        self._line += data[at:stop]
        if len(self._line) > MAX_CHUNK_HEAD_BYTES + self._in_trailers * MAX_TRAILER_BYTES:
            raise MalformedError(400, "the body cannot be read: a chunk's head is too long")
        if end < 0:
            return stop
        line, self._line = self._line, b""
        if self._in_trailers:
            self._end_trailer(line)
        else:
            self._begin_chunk(line)
        return stop

    def _begin_chunk(self, line: bytes) -> None:
        match = _CHUNK_HEAD.fullmatch(line)
        if match is None:
            raise MalformedError(400, "the body cannot be read: its chunks are broken")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._in_trailers = True

    def _end_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        if line == b"\r\n":
            self.complete = True
        elif _TRAILER.fullmatch(line) is None or self._trailer_bytes > MAX_TRAILER_BYTES:
            raise MalformedError(400, "the body cannot be read: its trailers are broken")


def framing_of(fields: Fields) -> BodyFraming:
    """The framing of the body that follows these header fields."""
    return ChunkedBody() if fields.chunked else SizedBody(fields.content_length)
