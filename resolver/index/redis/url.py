"""``RESOLVER_REDIS_URL``: its forms, and the client for each."""

from __future__ import annotations

import inspect
import re
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from resolver.errors import SettingsError
from resolver.index.redis.client import (
    DEFAULT_TIMEOUTS,
    Address,
    RedisClient,
    RedisTimeouts,
    SingleClient,
)
from resolver.index.redis.cluster import ClusterClient
from resolver.index.redis.embedded import EmbeddedClient, EmbeddedStore
from resolver.index.redis.sentinel import QuorumSentinel, SentinelClient
from resolver.text_files import MAX_PEM_BYTES, read_bytes

SCHEME = re.compile(r"(redis|rediss|unix)|(rediss?)\+(sentinel|cluster)")
"""Schemes but for ``memory:``; ``rediss`` means TLS with every server."""

NO_LIBRARY: dict[str, Any] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection).parameters
    else {"lib_name": None, "lib_version": None}  # in older versions
)
"""Keeps redis-py from naming itself with ``CLIENT SETINFO``: a login with only the rights that the
index needs may not run that, and Redis writes each refusal into its ACL log."""

DEFAULT_PORT, DEFAULT_SENTINEL_PORT = 6379, 26379


def connect(
    url: str, timeouts: RedisTimeouts = DEFAULT_TIMEOUTS, store: EmbeddedStore | None = None
) -> RedisClient:
    """A client for the Redis of a URL. Nothing is sent yet. ``store``: see `EmbeddedClient`.

    Raises:
        SettingsError: the URL cannot be used. The message shows no password.
    """
    if url in ("memory:", "memory://"):
        return EmbeddedClient(timeouts, store)
    try:
        return _client(url, timeouts)
    except TypeError as error:
        raise _bad_url(url, "it has an option that redis-py does not know for it") from error
    except (ValueError, RedisError) as error:
        # Not the message of the library: it quotes what may be a part of the password.
        raise _bad_url(
            url, "it cannot be read as a URL (is a password percent-encoded?)"
        ) from error


def _client(url: str, timeouts: RedisTimeouts) -> RedisClient:
    """Raises ValueError, TypeError or RedisError where redis-py cannot use the URL."""
    scheme = urlsplit(url).scheme
    form = SCHEME.fullmatch(scheme)
    if form is None:
        raise _bad_url(
            url,
            "it must begin with redis://, unix://, redis+sentinel:// or redis+cluster://, with "
            "rediss for TLS, or be memory:",
        )
    if form[3] == "cluster":
        return _cluster_client(url, timeouts)
    if form[3] == "sentinel":
        return _sentinel_client(url, timeouts)
    return _single_client(url, timeouts)


def _common_options(timeouts: RedisTimeouts) -> dict[str, Any]:
    """Options for every connection of redis-py."""
    return {
        "socket_connect_timeout": timeouts.connect,
        "socket_timeout": timeouts.connect,
        "retry": Retry(NoBackoff(), 0),
        **NO_LIBRARY,
        "protocol": 2,  # what `PipelinedConnection` reads until tracking begins
    }


def _parsed(url: str) -> dict[str, Any]:
    """The options in a URL that redis-py knows, as redis-py reads them."""
    options: dict[str, Any] = dict(parse_url(url))
    if options.get("connection_class") is SSLConnection:
        options.setdefault("ssl_check_hostname", True)  # some versions of redis-py do not check
    return options


def _single_client(url: str, timeouts: RedisTimeouts) -> SingleClient:
    parts = urlsplit(url)
    if parts.scheme != "unix" and not re.fullmatch(r"/?\d*", parts.path, re.ASCII):
        raise _bad_url(url, "what follows the host must be the number of a database")
    pool: Any = ConnectionPool(**{**_common_options(timeouts), **_parsed(url)})
    _check_tls_files(pool.make_connection(), url)
    return SingleClient(Redis.from_pool(pool), timeouts)


def _cluster_client(url: str, timeouts: RedisTimeouts) -> ClusterClient:
    nodes, options, tls = _several_servers(url, DEFAULT_PORT, timeouts)
    connection = SSLConnection if tls else Connection

    def connect_to(node: Address) -> Connection:
        return connection(host=node[0], port=node[1], **options)

    _check_tls_files(connect_to(nodes[0]), url)
    return ClusterClient(nodes, connect_to, timeouts, options.get("username") or "default")


def _sentinel_client(url: str, timeouts: RedisTimeouts) -> SentinelClient:
    nodes, options, tls = _several_servers(url, DEFAULT_SENTINEL_PORT, timeouts)
    service, _, database = urlsplit(url).path.strip("/").partition("/")
    if not service:
        raise _bad_url(url, "a Sentinel URL ends in /SERVICE or /SERVICE/DB")
    # Sentinels have no databases and a login of their own. They share the TLS options.
    of_sentinels = {
        name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")
    }
    of_sentinels |= {n: value for n, value in options.items() if n.startswith("ssl_")}
    sentinel: Any = QuorumSentinel(  # type: ignore[no-untyped-call]
        nodes, sentinel_kwargs={**_common_options(timeouts), "ssl": tls, **of_sentinels}
    )
    redis = sentinel.master_for(service, ssl=tls, **{**options, "db": int(database or 0)})
    _check_tls_files(redis.connection_pool.make_connection(), url)
    return SentinelClient(redis, sentinel, service, timeouts)


def _several_servers(
    url: str, default_port: int, timeouts: RedisTimeouts
) -> tuple[list[Address], dict[str, Any], bool]:
    """Addresses, options of their connections, and whether they speak TLS."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    # redis-py reads a URL of one server, so that each form accepts the same options.
    parsed = _parsed(f"{parts.scheme.partition('+')[0]}://{login}{at}host/?{parts.query}")
    tls = parsed.pop("connection_class", None) is SSLConnection
    parsed.pop("host", None)
    nodes = [_address(host, default_port) for host in hosts.split(",") if host]
    if not nodes:
        raise _bad_url(url, "it names no host")
    return nodes, {**_common_options(timeouts), **parsed}, tls


def _address(text: str, default_port: int) -> Address:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(text)
    return parts.hostname, parts.port or default_port


def _check_tls_files(connection: Any, url: str) -> None:
    """Raises SettingsError where a file that the connection needs for TLS cannot be used."""
    if not isinstance(connection, SSLConnection):
        return
    tls = connection.ssl_context
    for name in ("ca_certs", "certfile", "keyfile"):
        if file := getattr(tls, name):
            try:
                text = read_bytes(Path(file), MAX_PEM_BYTES)
            except OSError as error:
                why = f"ssl_{name}: cannot read {file}: {error.strerror}"
                raise _bad_url(url, why) from error
            # OpenSSL would ask for the passphrase on the terminal; redis-py 5 accepts none.
            if b"ENCRYPTED" in text and not getattr(tls, "password", None):
                raise _bad_url(
                    url, f"ssl_{name}: {file} needs a passphrase: keep the key without one"
                )
    try:
        tls.get()
    except ssl.SSLError as error:
        why = error.reason or "no valid PEM"
        raise _bad_url(url, f"the files for TLS that it names cannot be used: {why}") from error


def _bad_url(url: str, why: str) -> SettingsError:
    scheme, colon, _ = url.partition(":")
    shown = f" ({scheme[:20]}:…)" if colon else ""  # without a colon it may all be a password
    return SettingsError(f"RESOLVER_REDIS_URL{shown}: {why}")
