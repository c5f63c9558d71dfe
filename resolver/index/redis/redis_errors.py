"""Turns failures of Redis into `IndexUnavailable`.

A client of the gateway learns which kind of failure it is. The messages of the libraries name
hosts, users and keys, so they go to the log only.
"""

from __future__ import annotations

import re
import socket
import ssl

import hiredis
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeout

from resolver.errors import IndexUnavailable


class SentinelLoginError(MasterNotFoundError):
    """No Sentinel answers, and at least one does not accept our login."""


FAILURES: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "its certificate cannot be trusted"),
    (ssl.SSLError, "TLS with it fails"),
    (TimeoutError, "no reply in time"),
    (RedisTimeout, "no reply in time"),
    (
        SentinelLoginError,
        "the Sentinels do not accept the login (sentinel_username and sentinel_password)",
    ),
    (MasterNotFoundError, "no Sentinel names a master"),
    (AuthenticationError, "it does not accept the user name and password"),
    (BusyLoadingError, "it is loading its data (LOADING)"),
    (OutOfMemoryError, "it is out of memory (OOM)"),
    (ReadOnlyError, "it is a replica (READONLY)"),
    (NoPermissionError, "the login may not do that (NOPERM)"),
    (ConnectionRefusedError, "it refuses connections"),
    (socket.gaierror, "its name cannot be looked up"),
)
"""Descriptions by exception type; the first type that fits is used."""

DECODE_ERRORS = (TypeError, ValueError, LookupError, AttributeError, RecursionError)
"""What Python raises when a reply does not have the expected shape.

Catch them only around the lines that parse a reply. Around more than that, a bug of our own code
would be reported as a fault of Redis.
"""

_ERROR_CODE = re.compile(r"[A-Z]{3,20}(?= |$)")


def unavailable(error: BaseException) -> IndexUnavailable:
    """The error to raise where Redis failed with ``error``."""
    return IndexUnavailable(
        f"Redis did not answer: {_describe(error)}",
        headers={"Retry-After": "2"},
        log_detail=str(error) or type(error).__name__,
    )


def _describe(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        for kind, description in FAILURES:
            if isinstance(cause, kind):
                return description
        if isinstance(cause, hiredis.ReplyError | ResponseError):
            code = _ERROR_CODE.match(str(cause))
            if code and code[0] == "WRONGTYPE":
                return "a key has another type: is something else writing to it?"
            return f"it refused a command{f' ({code[0]})' if code else ''}"
        cause = cause.__cause__ or cause.__context__
    return "it cannot be reached"


def unreadable(error: BaseException) -> IndexUnavailable:
    """The error to raise where parsing a reply failed with ``error``, one of `DECODE_ERRORS`."""
    return IndexUnavailable(
        "Redis answered what cannot be read: is something else writing to it?",
        headers={"Retry-After": "2"},
        log_detail=f"{type(error).__name__}: {error}"[:200],
    )
