"""What is told of a Redis that does not answer.

Whoever asks the gateway is told what kind of failure it is. The libraries' own words name hosts,
users and keys, so they are for the log.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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

KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "its certificate cannot be trusted"),
    (ssl.SSLError, "TLS with it fails"),
    (TimeoutError, "no reply in time"),
    (RedisTimeout, "no reply in time"),
    (MasterNotFoundError, "no Sentinel names a master"),
    (AuthenticationError, "it does not accept the user name and password"),
    (BusyLoadingError, "it is loading its data (LOADING)"),
    (OutOfMemoryError, "it is out of memory (OOM)"),
    (ReadOnlyError, "it is a replica (READONLY)"),
    (NoPermissionError, "the login may not do that (NOPERM)"),
    (ConnectionRefusedError, "it refuses connections"),
    (socket.gaierror, "its name cannot be looked up"),
)
"""The first that fits tells most."""

_CODE = re.compile(r"[A-Z]{3,20}(?= |$)")


def unavailable(error: BaseException) -> IndexUnavailable:
    return IndexUnavailable(
        f"Redis did not answer: {_kind(error)}",
        headers={"Retry-After": "2"},
        log_detail=str(error) or type(error).__name__,
    )


def _kind(error: BaseException) -> str:
    one: BaseException | None = error
    while one is not None:
        for kind, words in KINDS:
            if isinstance(one, kind):
                return words
        if isinstance(one, hiredis.ReplyError | ResponseError):
            code = _CODE.match(str(one))
            return f"it refused a command{f' ({code[0]})' if code else ''}"
        one = one.__cause__ or one.__context__
    return "it cannot be reached"


DECODE_ERRORS = (TypeError, ValueError, LookupError, AttributeError)
"""What comes of taking apart a reply that is not what an index's should be."""


def unreadable(error: BaseException) -> IndexUnavailable:
    return IndexUnavailable(
        "Redis answered what cannot be read: is something else writing to it?",
        headers={"Retry-After": "2"},
        log_detail=f"{type(error).__name__}: {error}"[:200],
    )


@asynccontextmanager
async def translate_decode_errors() -> AsyncIterator[None]:
    """What is read in the block, or by the coroutine decorated, is an index's.

    Raises:
        IndexUnavailable: it is not.
    """
    try:
        yield
    except DECODE_ERRORS as error:
        raise unreadable(error) from error
