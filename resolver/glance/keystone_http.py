"""How a login reaches a Keystone, and no other server; its answers are bounded in bytes and time.

A location's cloud is run by others. requests reads whatever a server sends, into memory and for as
long as it comes. Needs the optional extra; `resolver.glance.keystone` imports it when it is used.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3
from keystoneauth1.exceptions import ClientException
from keystoneauth1.session import Session, TCPKeepAliveAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from resolver.bounded_http import BoundedResponse


class _Connection(HTTPConnection):
    response_class = BoundedResponse


class _TlsConnection(HTTPSConnection):
    response_class = BoundedResponse


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


MAX_LOGIN_BYTES = 1024 * 1024
"""Of an answer to a login. A catalog has some 250 bytes for each endpoint. keystoneauth decodes it
as a whole, which holds up all threads for up to 30 ms."""

POOLS = {"http": _Pool, "https": _TlsPool}


class _Adapter(TCPKeepAliveAdapter):
    """Bounds answers, also those through a proxy (but one of SOCKS)."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        if type(manager) is urllib3.ProxyManager:
            manager.pool_classes_by_scheme = POOLS
        return manager


def bound(session: Session) -> None:
    """Bounds what a session of keystoneauth reads, and where it sends a login."""
    requests = session.session
    for scheme in list(requests.adapters):
        requests.mount(scheme, _Adapter())
    requests.headers["Accept-Encoding"] = "identity"
    requests.hooks["response"].append(_check)
    # requests would add a password of ~/.netrc, which is nobody's that clouds.yaml names.
    requests.auth = _add_nothing


def _add_nothing(request: Any) -> Any:
    """An authentication of requests that leaves a request as it is."""
    return request


def _check(response: Any, **_: Any) -> None:
    """A hook of requests. The body is not read but here. Redirects at the same server, and from
    http to https there, are followed: keystoneauth sends the login again.

    Raises:
        ClientException: an answer redirects to another server, is compressed, or is too long.
    """
    why = ""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        why = "it compresses its answer, which was not asked for"
    elif 300 <= response.status_code < 400 and (target := response.headers.get("Location")):
        asked, named = urlsplit(response.url), urlsplit(urljoin(response.url, target))
        is_upgrade = (asked.scheme, named.scheme) == ("http", "https")
        if named[:2] != asked[:2] and not (is_upgrade and named.hostname == asked.hostname):
            why = (
                "it redirects to another server, which does not get the login: give that server's "
                "URL in `auth_url` of clouds.yaml, if it is the right one"
            )
    elif len(response.content) > MAX_LOGIN_BYTES:
        why = f"its answer is longer than {MAX_LOGIN_BYTES // 1024 // 1024} MiB"
    if why:
        response.close()
        raise ClientException(why)
