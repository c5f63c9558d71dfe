"""Opening Redis, in each of the forms that ``RESOLVER_REDIS_URL`` takes, and talking to it.

`Index` is the composition of everything that lies in Redis. `Link` is how its parts talk: commands
and scripts in pipelines, every failure of Redis or the network as one `IndexUnavailable`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from resolver.errors import IndexUnavailable, SettingsError
from resolver.index.claims import Claims
from resolver.index.codec import Buckets
from resolver.index.keys import Keys
from resolver.index.leases import Lease
from resolver.index.records import Records
from resolver.index.scripts import Script

FORMAT = 1
"""Of keys and values; an index of another format is refused at start."""

DEFAULT_BITS = 16
"""65,536 buckets: compact up to some 25 million images."""

MEMORY_BITS = 8
"""The embedded index gains nothing from many buckets."""

CONNECT_TIMEOUT = 2.0
"""Seconds to open a connection to Redis."""

SOCKET_TIMEOUT = 5.0
"""Seconds for one reply of Redis. Requests wait less: see ``RESOLVER_INDEX_TIMEOUT``."""

POOL_SIZE = 32
"""Connections to Redis per process. A call that finds none free waits its turn."""

Call = tuple[Script, Sequence[bytes | str], Sequence[bytes | str | int]]
"""One run of a script: it, its keys, its arguments."""


def unavailable(error: BaseException) -> IndexUnavailable:
    why = str(error) or type(error).__name__
    return IndexUnavailable(f"Redis did not answer: {why}", headers={"Retry-After": "2"})


class Link:
    """A Redis client with the two things that the index does: pipelines and scripts."""

    def __init__(self, client: Any, *, embedded: bool = False) -> None:
        self.client = client
        self.embedded = embedded

    async def pipeline(
        self, commands: Iterable[tuple[Any, ...]], *, raise_on_error: bool = True
    ) -> list[Any]:
        """The replies to several commands, sent together, without MULTI.

        Raises:
            IndexUnavailable: when Redis fails or refuses a command.
        """
        is_cluster = isinstance(self.client, RedisCluster)
        pipe = self.client.pipeline() if is_cluster else self.client.pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        try:
            replies: list[Any] = await pipe.execute(raise_on_error=raise_on_error)
        except (RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error
        return replies

    async def command(self, *command: Any) -> Any:
        """The reply to one command.

        Raises:
            IndexUnavailable: when Redis fails or refuses it.
        """
        try:
            return await self.client.execute_command(*command)
        except (RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error

    async def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """The results of several scripts, sent together; each is atomic by itself.

        Raises:
            IndexUnavailable: when Redis fails or a script does.
        """
        commands = [
            ("EVALSHA", script.sha, len(keys), *keys, *args) for script, keys, args in calls
        ]
        replies = await self.pipeline(commands, raise_on_error=False)
        missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:  # a new, restarted or flushed server: EVAL also teaches it the script
            again = [("EVAL", calls[i][0].text, *commands[i][2:]) for i in missing]
            for i, reply in zip(
                missing, await self.pipeline(again, raise_on_error=False), strict=True
            ):
                replies[i] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise unavailable(reply) from reply
        return replies

    async def run(
        self, script: Script, keys: Sequence[bytes | str], args: Sequence[bytes | str | int] = ()
    ) -> Any:
        """The result of one script."""
        return (await self.run_all([(script, keys, args)]))[0]


class Index:
    """Claims, the registry and leases of one index."""

    def __init__(self, link: Link, keys: Keys, bits: int) -> None:
        self.link = link
        self.bits = bits
        self.claims = Claims(link, keys, Buckets(keys.bucket_prefix, bits))
        self.records = Records(link, keys)
        self._keys = keys

    @property
    def embedded(self) -> bool:
        """Whether the index lives in this process and dies with it."""
        return self.link.embedded

    def lease(self, what: str, *, seconds: float) -> Lease:
        """A right to do ``what`` that one process at a time holds."""
        return Lease(self.link, self._keys.lease(what), seconds)

    async def ping(self) -> None:
        """Raises IndexUnavailable unless Redis answers."""
        await self.link.command("PING")


def _client(url: str) -> Any:
    common: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": SOCKET_TIMEOUT,
        "retry": Retry(NoBackoff(), 1),
    }
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss", "unix"):
        pool = BlockingConnectionPool.from_url(
            url, max_connections=POOL_SIZE, timeout=SOCKET_TIMEOUT, **common
        )
        return Redis.from_pool(pool)
    if parts.scheme in ("redis+sentinel", "redis+cluster"):
        user, _, hosts = parts.netloc.rpartition("@")
        login: dict[str, Any] = {}
        if user:
            name, _, password = user.partition(":")
            login = {"username": unquote(name) or None, "password": unquote(password) or None}
        default = 26379 if parts.scheme == "redis+sentinel" else 6379
        nodes = [_host_port(host, default) for host in hosts.split(",") if host]
        if not nodes:
            raise ValueError("it names no host")
        if parts.scheme == "redis+cluster":
            return RedisCluster(
                startup_nodes=[ClusterNode(host, port) for host, port in nodes], **common, **login
            )
        service, _, db = parts.path.strip("/").partition("/")
        if not service:
            raise ValueError("a Sentinel URL ends in /SERVICE or /SERVICE/DB")
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
            nodes, sentinel_kwargs={"socket_timeout": CONNECT_TIMEOUT}
        )
        return sentinel.master_for(service, db=int(db or 0), **common, **login)
    raise ValueError(
        "it must begin with redis://, rediss://, unix://, redis+sentinel://, redis+cluster:// "
        "or be memory:"
    )


def _host_port(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} is no host")
    return parts.hostname, parts.port or default


def connect(url: str) -> Link:
    """A link to the Redis of a URL; nothing is sent yet.

    Raises:
        SettingsError: for a URL of no known form. The message leaves passwords out.
    """
    if url in ("memory:", "memory://"):
        from fakeredis import FakeAsyncRedis, FakeServer  # noqa: PLC0415 - only this form needs it

        return Link(FakeAsyncRedis(server=FakeServer()), embedded=True)
    try:
        return Link(_client(url))
    except (ValueError, RedisError) as error:
        scheme, _, rest = url.partition(":")
        password = rest.rpartition("@")[0].partition(":")[2]
        why = str(error)
        # An unescaped / or : in a password makes the parser quote a piece of it as host or port.
        if any(piece and piece in why for piece in re.split(r"[:/?#@]", password)):
            why = "it cannot be read; percent-encode what is special in its password"
        raise SettingsError(f"RESOLVER_REDIS_URL ({scheme}:…): {why}") from error


@asynccontextmanager
async def open_index(
    url: str, *, prefix: str = "glr:", bits: int | None = None
) -> AsyncIterator[Index]:
    """The index of a URL, made if it is new. ``bits`` None: as it is, or the default.

    Raises:
        SettingsError: bad URL, or an index that was made otherwise.
        IndexUnavailable: Redis did not answer.
    """
    link = connect(url)
    try:
        keys = Keys(prefix)
        wanted = bits or (MEMORY_BITS if link.embedded else DEFAULT_BITS)
        yield Index(link, keys, await _agree(link, keys, wanted, explicit=bits is not None))
    finally:
        # A server that hangs must not hang our exit.
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await link.client.aclose()
        except (RedisError, OSError, TimeoutError):
            pass


async def _agree(link: Link, keys: Keys, bits: int, *, explicit: bool) -> int:
    """The bits of the index there is, after writing ours where there was none."""
    await link.pipeline(
        [("HSETNX", keys.meta, "format", FORMAT), ("HSETNX", keys.meta, "bits", bits)]
    )
    form, there = await link.command("HMGET", keys.meta, "format", "bits")
    if int(form) != FORMAT:
        raise SettingsError(
            f"the index in Redis has format {int(form)} and this version reads {FORMAT}: "
            "run the version that made it, or give another RESOLVER_PREFIX"
        )
    if explicit and int(there) != bits:
        raise SettingsError(
            f"the index in Redis was made with RESOLVER_INDEX_BITS={int(there)}, not {bits}: "
            "leave the setting out, or give another RESOLVER_PREFIX for a new index"
        )
    return int(there)
