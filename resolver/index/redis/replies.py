"""Parsing of replies: a reply of another shape than expected is `IndexUnavailable`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from resolver.index.redis.redis_errors import DECODE_ERRORS, unreadable

P = ParamSpec("P")
T = TypeVar("T")


def parses_reply(parse: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function that does nothing but parse what Redis replied.

    The decorated function raises IndexUnavailable where the reply has the wrong shape: something
    other than the resolver has written to Redis, or it is not Redis at all.
    """

    @wraps(parse)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return parse(*args, **kwargs)
        except DECODE_ERRORS as error:
            raise unreadable(error) from error

    return guarded


@parses_reply
def pairs(reply: Any) -> dict[bytes, bytes]:
    """A hash as HGETALL gives it: a flat list on the wire and from scripts, a dict from redis-py.

    Raises:
        IndexUnavailable: the reply is not a hash.
    """
    if isinstance(reply, dict):
        return reply
    return dict(zip(reply[::2], reply[1::2], strict=True))


@parses_reply
def total(replies: Iterable[Any]) -> int:
    """The sum of the integers that several scripts returned.

    Raises:
        IndexUnavailable: one of them is not a number.
    """
    return sum(replies)


@parses_reply
def parse_time(reply: Any) -> float:
    """Unix time, as TIME gives it.

    Raises:
        IndexUnavailable: the reply is no time.
    """
    seconds, microseconds = map(int, reply)
    return seconds + microseconds / 1e6


@parses_reply
def optional_int(reply: Any) -> int | None:
    """A number that is stored as text; None where nothing is stored.

    Raises:
        IndexUnavailable: the text is not a number.
    """
    return int(reply) if reply else None
