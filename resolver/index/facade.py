"""Opening the index, in each of the forms that ``RESOLVER_REDIS_URL`` takes."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Connection, ConnectionPool, Redis, Sentinel, SSLConnection
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from resolver.errors import SettingsError
from resolver.index.audit import Audit
from resolver.index.cache import ClaimCache
from resolver.index.claims import Claims
from resolver.index.keys import Keys
from resolver.index.leases import Lease
from resolver.index.observations import Observations
from resolver.index.rebuild import Rebuild
from resolver.index.records import Records
from resolver.index.redis.client import (
    Address,
    EmbeddedClient,
    RedisClient,
    SentinelClient,
    SingleClient,
)
from resolver.index.redis.cluster import ClusterClient
from resolver.index.redis.pipelined_connection import Changed
from resolver.index.redis.redis_errors import DECODE_ERRORS

CONNECT_TIMEOUT = 2.0
"""Seconds to open a connection to Redis."""


class Index:
    """Claims, the registry and leases of one index."""

    def __init__(
        self, client: RedisClient, keys: Keys, bits: int | None, cache: ClaimCache
    ) -> None:
        self.client = client
        self.claims = Claims(client, keys, bits, cache)
        self.records = Records(client, keys)
        self.observations = Observations(client, keys, self.claims)
        self.audit = Audit(client, keys)
        self.rebuild = Rebuild(client, keys, self.claims)
        self._keys = keys

    @property
    def bits(self) -> int:
        """The index has ``1 << bits`` buckets."""
        return self.claims.buckets.bits

    @property
    def embedded(self) -> bool:
        """Whether the index lives in this process and dies with it."""
        return self.client.embedded

    def lease(self, what: str, *, seconds: float) -> Lease:
        """A right to do ``what`` that one process at a time holds."""
        return Lease(self.client, self._keys.lease(what), seconds)

    async def identity(self) -> str:
        """What tells this index from every other, also from itself before it lost its data.

        Raises:
            IndexUnavailable: when Redis does not answer, or has no index.
        """
        await self.claims.layout.refresh()
        return self.claims.layout.identity

    @property
    def identity_seen(self) -> str:
        """Identity of the index that this process saw last; empty before the first lookup."""
        return self.claims.layout.identity

    def oldest_reply_age(self) -> float:
        """Seconds for which the oldest request of a client has waited for a reply from Redis."""
        return self.client.oldest_reply_age()

    def on_invalidation(self, callback: Changed) -> None:
        """Calls ``callback`` with the keys that have changed; with None when any key may have."""
        self.client.on_invalidation(callback)

    def clear_cache(self) -> None:
        """Drops every cached claim, stale ones included."""
        self.claims.cache.clear()

    async def create_if_missing(self) -> None:
        """Makes the index where there is none.

        Raises:
            SettingsError: it was made otherwise than the settings say.
            IndexUnavailable: when Redis does not answer, or takes no writes.
        """
        await self.claims.layout.make()

    async def ping(self) -> None:
        """Raises IndexUnavailable unless Redis answers."""
        await self.client.command("PING")


class QuorumSentinel(Sentinel):
    """Sentinels, of which most are asked: one that was cut off may name the master of old."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """The master by the latest failover that any of them knows of.

        Raises:
            MasterNotFoundError: none answers, or knows one that is up.
        """
        asked: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(one.sentinel_masters()) for one in self.sentinels
        ]
        told = []
        why = ""
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    told.append((await answer).get(service_name))
                except (RedisError, OSError, *DECODE_ERRORS) as error:
                    why = f": {error}"
                if len(told) > len(asked) / 2:
                    break
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        states = [s for s in told if s and self.check_master_state(s, service_name)]
        if not states:
            raise MasterNotFoundError(f"No master found for {service_name!r}{why}")
        state = max(states, key=lambda s: int(s["config-epoch"]))
        return state["ip"], int(state["port"])


COMMON: dict[str, Any] = {
    "socket_connect_timeout": CONNECT_TIMEOUT,
    "socket_timeout": CONNECT_TIMEOUT,
    "retry": Retry(NoBackoff(), 0),
    "protocol": 2,  # what `PipelinedConnection` reads
}
FORM = re.compile(r"(redis|rediss|unix)|(rediss?)\+(sentinel|cluster)")
"""Schemes; with ``rediss`` all is spoken over TLS."""


def _link(url: str) -> RedisClient:
    parts = urlsplit(url)
    form = FORM.fullmatch(parts.scheme)
    if form is None:
        raise _bad(
            url,
            "it must begin with redis://, unix://, redis+sentinel:// or redis+cluster://, with "
            "rediss for TLS, or be memory:",
        )
    plain, scheme, kind = form.groups()
    if plain in ("redis", "rediss") and not re.fullmatch(r"/?\d*", parts.path, re.ASCII):
        raise _bad(url, "what follows the host must be the number of a database")
    login, at, hosts = parts.netloc.rpartition("@")
    # As redis-py reads it, so that each form takes the same options; those of ours come after.
    read: dict[str, Any] = dict(
        parse_url(url if plain else f"{scheme}://{login}{at}one/?{parts.query}")
    )
    tls = read.get("connection_class") is SSLConnection
    if tls:
        read.setdefault("ssl_check_hostname", True)  # not so in every redis-py
    if plain:
        pool: Any = ConnectionPool(**{**COMMON, **read})
        _check(pool.make_connection(), url)
        return SingleClient(Redis.from_pool(pool))
    options = {**COMMON, **{n: v for n, v in read.items() if n not in ("host", "connection_class")}}
    default = 26379 if kind == "sentinel" else 6379
    nodes = [_host_port(host, default) for host in hosts.split(",") if host]
    if not nodes:
        raise _bad(url, "it names no host")
    if kind == "cluster":
        connection = SSLConnection if tls else Connection

        def connect(node: Address) -> Connection:
            return connection(host=node[0], port=node[1], **options)

        _check(connect(nodes[0]), url)
        return ClusterClient(nodes, connect)
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        raise _bad(url, "a Sentinel URL ends in /SERVICE or /SERVICE/DB")
    # Each without redis-py's own retries: a Sentinel that is down costs no more than it must.
    theirs = {**COMMON, "ssl": tls, **{n: v for n, v in read.items() if n.startswith("ssl_")}}
    sentinel: Any = QuorumSentinel(nodes, sentinel_kwargs=theirs)  # type: ignore[no-untyped-call]
    client = sentinel.master_for(service, ssl=tls, **{**options, "db": int(db or 0)})
    _check(client.connection_pool.make_connection(), url)
    return SentinelClient(client, sentinel)


def _check(connection: Any, url: str) -> None:
    """Raises SettingsError unless the files that a connection wants for TLS can be used."""
    if not isinstance(connection, SSLConnection):
        return
    tls = connection.ssl_context
    for name in ("ca_certs", "certfile", "keyfile"):
        if file := getattr(tls, name):
            try:
                text = Path(file).read_bytes()
            except OSError as error:
                raise _bad(url, f"ssl_{name}: cannot read {file}: {error.strerror}") from error
            # Else OpenSSL asks for it on the terminal. redis-py 5 cannot be given one.
            if b"ENCRYPTED" in text and not getattr(tls, "password", None):
                raise _bad(url, f"ssl_{name}: {file} wants a passphrase: keep the key without one")
    try:
        tls.get()
    except ssl.SSLError as error:
        why = error.reason or "no valid PEM"
        raise _bad(url, f"the files for TLS that it names cannot be used: {why}") from error


def _bad(url: str, why: str) -> SettingsError:
    scheme, colon, _ = url.partition(":")
    shown = f" ({scheme[:20]}:…)" if colon else ""  # without one it may all be a password
    return SettingsError(f"RESOLVER_REDIS_URL{shown}: {why}")


def _host_port(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(text)
    return parts.hostname, parts.port or default


def connect(url: str) -> RedisClient:
    """A link to the Redis of a URL; nothing is sent yet.

    Raises:
        SettingsError: for a URL of no known form. The message leaves passwords out.
    """
    if url in ("memory:", "memory://"):
        return EmbeddedClient()
    try:
        return _link(url)
    except TypeError as error:
        raise _bad(url, "it has an option that redis-py does not know for it") from error
    except (ValueError, RedisError) as error:
        # Not the library's words: they quote what may be a part of the password.
        raise _bad(url, "it cannot be read as a URL (is a password percent-encoded?)") from error


@asynccontextmanager
async def open_index(
    url: str,
    *,
    prefix: str = "glr:",
    bits: int | None = None,
    cache: ClaimCache | None = None,
    create: bool = True,
) -> AsyncIterator[Index]:
    """The index of a URL, made if it is new. ``bits`` None: as it is, or the default. ``cache``:
    where claims may be kept in this process; None for nowhere. ``create`` False: nothing is sent.

    Raises:
        SettingsError: bad URL, or an index that was made otherwise.
        IndexUnavailable: Redis did not answer.
    """
    link = connect(url)
    try:
        index = Index(link, Keys(prefix), bits, cache or ClaimCache(0, 0))
        if create:
            await index.create_if_missing()
        yield index
    finally:
        # A server that hangs must not hang our exit.
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await link.close()
        except (RedisError, OSError, TimeoutError):
            pass
