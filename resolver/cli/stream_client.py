"""Requests to a gateway whose bodies are too large to hold in memory."""

from __future__ import annotations

import http.client
import select
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPMessage
from typing import Any
from urllib.parse import urlsplit

from resolver.bounded_http import (
    BoundedConnection,
    BoundedResponse,
    BoundedTlsConnection,
    BoundExceeded,
    read_document,
)
from resolver.cli.answer_shapes import ANY, Shape
from resolver.cli.gateway_client import (
    REQUEST_TIMEOUT_SECONDS,
    GatewayAddress,
    GatewayError,
    checked,
    decode_answer,
    error_from,
    no_gateway_error,
    redirect_error,
    unreachable_error,
)

CHUNK_BYTES = 128 * 1024
"""Read and written at a time."""

MAX_LINE_BYTES = 1024 * 1024
"""Longest line of a stream. One has some kilobytes; with thousands of owners, some hundred."""


class StreamRequest:
    """One request with a streamed body, in either direction."""

    def __init__(self, url: str, token: str | None) -> None:
        """Raises click.UsageError as `GatewayAddress`."""
        address = GatewayAddress(url, token)
        self._has_token = address.has_token
        parts = urlsplit(address.url)
        connection_class = BoundedTlsConnection if parts.scheme == "https" else BoundedConnection
        self._url, self._path = address.url, parts.path
        host = parts.netloc.rpartition("@")[2]
        self._connection = connection_class(host, timeout=REQUEST_TIMEOUT_SECONDS)
        self._headers = address.headers

    def get(
        self,
        path: str,
        *,
        complete: bool = False,
        headers: Mapping[str, str] | None = None,
        on_headers: Callable[[HTTPMessage], None] | None = None,
        content_type: str = "text/plain",
    ) -> Iterator[bytes]:
        """Yields the answer as it arrives.

        A connection that breaks ends it without an error: the caller must check that what arrived
        is complete. With ``complete``, it is an error. ``headers`` are sent besides the usual ones.
        ``on_headers`` is called before the first part. ``content_type``: that of the stream.

        Raises:
            GatewayError: the gateway refused, with its own text, did not answer, or answered
                something else.
        """
        with ExitStack() as stack:
            connection = stack.enter_context(closing(self._connection))
            with self._translate_errors():
                sent = {**self._headers, **(headers or {})}
                connection.request("GET", self._path + path, headers=sent)
                response = stack.enter_context(connection.getresponse())
                if response.status != 200:
                    self._decode(response)
            if response.headers.get_content_type() != content_type:
                raise no_gateway_error(self._url, f"it sent no {content_type}")
            assert isinstance(response, BoundedResponse)
            response.as_stream()
            if on_headers is not None:
                on_headers(response.headers)
            broken = False
            try:
                while data := response.read(CHUNK_BYTES):
                    yield data
            except http.client.IncompleteRead as error:
                broken = True
                yield error.partial
            except (OSError, http.client.HTTPException):
                broken = True
            if broken and complete:
                raise GatewayError("the answer is incomplete: the connection broke; try again")

    def lines(
        self,
        path: str,
        shape: Shape,
        *,
        headers: Mapping[str, str] | None = None,
        on_headers: Callable[[HTTPMessage], None] | None = None,
    ) -> Iterator[Any]:
        """The decoded lines of an answer of JSON lines. ``shape``: what each must have. The other
        arguments are those of `get`.

        Raises:
            GatewayError: as for `get`; also for a line that is cut or is something else.
        """
        rest = b""
        for data in self.get(
            path,
            complete=True,
            headers=headers,
            on_headers=on_headers,
            content_type="application/x-ndjson",
        ):
            *lines, rest = (rest + data).split(b"\n")
            if max(map(len, (rest, *lines))) > MAX_LINE_BYTES:
                raise no_gateway_error(self._url, "a line is too long")
            for line in lines:
                yield checked(self._url, decode_answer(line), shape)
        if rest:
            raise no_gateway_error(self._url, "its last line is cut")

    def post(self, path: str, body: Iterable[bytes], shape: Shape = ANY) -> Any:
        """Sends a body chunk by chunk and returns the decoded answer, which may come before the
        body's end. ``shape``: what it must have.

        Raises:
            GatewayError: as for `get`.
        """
        with closing(self._connection) as connection, self._translate_errors():
            connection.putrequest("POST", self._path + path)
            headers = {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"}
            for name, value in {**headers, **self._headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            try:
                for data in body:
                    if self._has_answered():
                        break
                    connection.send(b"%x\r\n%b\r\n" % (len(data), data))
                else:
                    connection.send(b"0\r\n\r\n")
            except (BrokenPipeError, ConnectionResetError):
                pass  # the answer, which gives the reason, may have arrived
            with connection.getresponse() as response:
                return checked(self._url, self._decode(response), shape)

    def _has_answered(self) -> bool:
        """Whether an answer is there while the body is being sent: a refusal. Not known with TLS,
        where the server may send messages of the protocol itself."""
        if isinstance(self._connection, http.client.HTTPSConnection):
            return False
        return bool(select.select([self._connection.sock], [], [], 0)[0])

    def _decode(self, response: http.client.HTTPResponse) -> Any:
        if 300 <= response.status < 400:
            raise redirect_error(self._url, response.status, response.getheader("Location"))
        document = decode_answer(read_document(response))
        if response.status == 200:
            return document
        raise error_from(response.status, document, has_token=self._has_token)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except BoundExceeded as error:
            raise no_gateway_error(self._url, error.detail) from error
        except (OSError, http.client.HTTPException) as error:
            raise unreachable_error(self._url, error or type(error).__name__) from error
