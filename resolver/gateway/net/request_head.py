"""Reading the head of an HTTP/1.1 request, strictly.

Whatever has two possible readings (RFC 9112, 11.2) is refused: line feeds without a carriage
return, folded fields, spaces before a colon, two lengths, a length with a transfer coding. So
aiohttp's parser, which reads those requests again that the front does not answer, never sees
anything that it could read in another way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from resolver.gateway.request_host import InvalidTargetError, parse_destination

MAX_TARGET_BYTES = 8190
"""A request's target, as in Apache httpd and aiohttp."""

MAX_FIELD_BYTES = 16_384
"""A header field's value, as in Glance (``max_header_line``), for the tokens that it accepts."""

MAX_FIELDS = 128

MAX_FIELDS_BYTES = 32_768
"""All header fields, as in nginx."""

MAX_HEAD_BYTES = MAX_TARGET_BYTES + MAX_FIELDS_BYTES + 32

MAX_UNREAD_BYTES = 1024
"""So much of a head may arrive before it is looked at, unless a line ends in it."""

METHODS = frozenset(
    b"GET HEAD POST PUT PATCH DELETE OPTIONS TRACE PURGE QUERY COPY LOCK MKCOL MOVE PROPFIND "
    b"PROPPATCH SEARCH UNLOCK BIND REBIND UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE NOTIFY "
    b"SUBSCRIBE UNSUBSCRIBE MKCALENDAR LINK UNLINK".split()
)
"""Methods that aiohttp's parser knows, without CONNECT: no tunnel ends here."""

END = b"\r\n\r\n"

_LINE = re.compile(rb"([A-Z]{1,16}) ([!-~]+) HTTP/1\.([01])\r\n")
_PARTIAL_LINE = re.compile(
    rb"[A-Z]{0,16}(?: [!-~]*(?: (?:H(?:T(?:T(?:P(?:/[0-9.]*)?)?)?)?)?\r?)?)?"
)
_FIELDS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n")

SINGLE_FIELDS = frozenset(
    {
        *("host", "content-length", "transfer-encoding", "content-type", "content-range"),
        *("content-location", "etag", "max-forwards", "server", "user-agent"),
    }
)
"""Fields that must not appear twice (RFC 9110, 5.3), because software differs in which of two it
believes. aiohttp refuses two of these as well, but with an error in the log."""


class MalformedError(Exception):
    """What was received is not a request, or is too large. The connection must close."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Fields:
    """The header fields of a request. Names are compared in lower case."""

    __slots__ = ("_values", "chunked", "close", "content_length", "keep_alive")

    def __init__(self, values: dict[str, list[str]]) -> None:
        self._values = values
        tokens = {t.strip().lower() for v in values.get("connection", ()) for t in v.split(",")}
        self.close = "close" in tokens
        self.keep_alive = "keep-alive" in tokens
        self.chunked = "transfer-encoding" in values
        length = self.get("content-length", "")
        self.content_length = int(length) if length else 0

    def get(self, name: str, default: str = "", /) -> str:
        values = self._values.get(name.lower())
        return values[0] if values else default

    def getall(self, name: str, default: Sequence[str] = (), /) -> Sequence[str]:
        return self._values.get(name.lower(), default)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def replace_host(self, host: str) -> None:
        """Makes the host of the target that of the field, too: that is the one that counts."""
        self._values["host"] = [host]

    def lines(self) -> list[str]:
        """The fields in their plainest form."""
        return [f"{name}: {value}" for name, values in self._values.items() for value in values]

    @property
    def has_body(self) -> bool:
        return self.chunked or self.content_length > 0


class RequestHead(NamedTuple):
    """A request without its body."""

    method: str
    target: str
    """The path and query. Where a client sent a whole URL, its host is in the field ``Host``."""
    minor: int
    """1 for HTTP/1.1, 0 for HTTP/1.0."""
    fields: Fields
    size: int
    """Bytes of the head, with the empty line."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def encode(self) -> bytes:
        """The head in its plainest form, for another parser: it cannot read it in another way."""
        line = f"{self.method} {self.target} HTTP/1.{self.minor}"
        return "\r\n".join([line, *self.fields.lines(), "", ""]).encode("latin-1")

    @property
    def keeps_connection(self) -> bool:
        """Whether the client wants to send another request on the connection (RFC 9112, 9.3)."""
        return not self.fields.close if self.minor else self.fields.keep_alive


def parse_head(data: bytes, checked: int = 0) -> RequestHead | None:
    """The head of the request that ``data`` begins with; None while it is incomplete.

    ``checked``: bytes of which it is known that they may begin a head, and hold no whole one. They
    are not read again, because a client may send a head byte by byte.

    Raises:
        MalformedError: it is not a request, or is too large.
    """
    end = data.find(END, max(0, checked - len(END) + 1))
    if end < 0:
        _check_partial(data, checked)
        return None
    line = _match_line(data)
    if len(line[2]) > MAX_TARGET_BYTES:
        raise _target_error()
    size = end + len(END)
    # The CRLF of the last line is the first half of `END`.
    fields = parse_fields(data[line.end() : size])
    minor = int(line[3])
    if fields.chunked and not minor:
        raise MalformedError(400, "HTTP/1.0 has no transfer codings")
    sent_host = fields.get("host") if "host" in fields else None
    try:
        host, target = parse_destination(line[2].decode(), sent_host, needs_host=minor > 0)
    except InvalidTargetError as error:
        raise MalformedError(400, str(error)) from error
    if host != (sent_host or ""):
        fields.replace_host(host)
    return RequestHead(line[1].decode(), target, minor, fields, size)


def parse_fields(block: bytes) -> Fields:
    """The header fields of a block that ends in an empty line.

    Raises:
        MalformedError: they are not header fields, too many, too long, or ambiguous.
    """
    _check_fields_size(len(block) - 2)
    if _FIELDS.fullmatch(block) is None:
        raise MalformedError(400, "the header fields are malformed")
    values: dict[str, list[str]] = {}
    lines = block.decode("latin-1").split("\r\n")[:-2]
    if len(lines) > MAX_FIELDS:
        raise _fields_error()
    for text in lines:
        name, _, value = text.partition(":")
        value = value.strip(" \t")
        if len(value) > MAX_FIELD_BYTES:
            raise MalformedError(431, f"a header field has more than {MAX_FIELD_BYTES} bytes")
        name = name.lower()
        if name in values and name in SINGLE_FIELDS:
            raise MalformedError(400, f"there are two {name} fields")
        values.setdefault(name, []).append(value)
    _check_framing(values)
    return Fields(values)


def _check_framing(values: dict[str, list[str]]) -> None:
    """Raises MalformedError where the end of the body could be read in two ways."""
    length = values.get("content-length")
    if length is not None and not (length[0].isascii() and length[0].isdigit()):
        raise MalformedError(400, "Content-Length is not a number")
    if length is not None and len(length[0]) > 18:
        raise MalformedError(400, "Content-Length is too large")
    coding = values.get("transfer-encoding")
    if coding is not None and (length is not None or coding[0].lower() != "chunked"):
        raise MalformedError(400, "Transfer-Encoding must be `chunked`, without a Content-Length")


def _check_partial(data: bytes, checked: int) -> None:
    """Raises MalformedError where no more data can make a request of this."""
    line_end = data.find(b"\n")
    if line_end < 0:
        if len(data) > MAX_TARGET_BYTES + 32:
            raise _target_error()
        if _PARTIAL_LINE.fullmatch(data) is None:
            raise _line_error(data)
        return
    _check_fields(data, _match_line(data).end(), checked)


def _check_fields(data: bytes | bytearray, start: int, checked: int) -> None:
    """The same for the fields, which begin at ``start``."""
    _check_fields_size(len(data) - start)
    # Either end may be half of a CRLF.
    first = checked - (data[checked - 1 : checked] == b"\r")
    _check_line_ends(data[first:].removesuffix(b"\r"))


def _check_line_ends(data: bytes | bytearray) -> None:
    """Searches for one byte at a time are several times as fast as to count or to split."""
    at = 0
    for _ in range(MAX_FIELDS + 1):
        end = data.find(b"\n", at)
        carriage_return = data.find(b"\r", at)
        if end < 0 and carriage_return < 0:
            return
        if end < 1 or carriage_return != end - 1:
            raise MalformedError(400, "lines must end in CRLF")
        at = end + 1
    raise _fields_error()


def may_wait(data: bytes, unread: int) -> bool:
    """Whether a further part of a head can be looked at together with what follows it: thousands of
    clients may send a byte each. ``unread``: bytes that have not been looked at already."""
    return unread + len(data) < MAX_UNREAD_BYTES and b"\n" not in data


def is_incomplete_head(data: bytearray, checked: int) -> bool:
    """Whether a head is still incomplete whose line is known. Only what is new is read, and nothing
    is copied: thousands of clients may send a byte each to heads of 32 kB.

    Raises:
        MalformedError: no more data can make a request of this.
    """
    line_end = data.find(b"\n", 0, checked)
    if line_end < 0 or data.find(END, max(0, checked - len(END) + 1)) >= 0:
        return False
    _check_fields(data, line_end + 1, checked)
    return True


def _match_line(data: bytes) -> re.Match[bytes]:
    """The request line that ``data`` begins with. Raises MalformedError if it does not."""
    line = _LINE.match(data)
    if line is None or line[1] not in METHODS:
        raise _line_error(data)
    return line


def _line_error(data: bytes) -> MalformedError:
    line = data[:MAX_HEAD_BYTES].partition(b"\n")[0]
    if len(line) > MAX_TARGET_BYTES + 32:
        return _target_error()
    return MalformedError(400, "the request line is malformed")


def _target_error() -> MalformedError:
    return MalformedError(414, f"the request's target has more than {MAX_TARGET_BYTES} bytes")


def _fields_error() -> MalformedError:
    return MalformedError(431, f"there are more than {MAX_FIELDS} header fields")


def _check_fields_size(size: int) -> None:
    if size > MAX_FIELDS_BYTES:
        raise MalformedError(431, f"the header fields have more than {MAX_FIELDS_BYTES} bytes")
