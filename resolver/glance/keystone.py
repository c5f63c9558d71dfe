"""Logs in to the clouds of clouds.yaml with keystoneauth. Every function here blocks."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from resolver import __version__
from resolver.errors import LocationUnavailable
from resolver.glance.cloud_config import CloudRef, cloud_error, read_cloud, reason_of, tls_context

RENEW_BEFORE_SECONDS = 120.0
"""How long before its end a token is renewed; a fifth of its lifetime where that is less."""

UNDATED_LIFETIME_SECONDS = 300.0
"""How long a credential without an end is used before it is read again."""

TIMEOUT_SECONDS = 10.0
"""For one request to Keystone."""


@dataclass(frozen=True, slots=True)
class AuthHeaders:
    """The headers that authenticate a request, and what is known of their credential."""

    headers: dict[str, str]
    roles: tuple[str, ...] | None = None
    """Its roles on a project; empty for a token with another scope, None where not known."""
    valid_until: float = 0.0
    """When to get another, on `time.monotonic`."""
    hosts: frozenset[str] | None = None
    """The hosts that it is for: those of the cloud's endpoints and of its Keystone. None: any."""
    auth_url: str = ""
    """The URL of the cloud's Keystone; empty where it has none."""


def open_cloud(cloud: CloudRef) -> tuple[Any, Any, Any]:
    """The keystoneauth session of a cloud, its plugin, and its configuration as clouds.yaml has it
    now.

    Raises:
        LocationUnavailable: there is no such cloud, or the extra is not installed.
    """
    config = read_cloud(cloud)
    from keystoneauth1.session import Session  # noqa: PLC0415 - the optional extra

    from resolver.glance.keystone_http import bound  # noqa: PLC0415 - as above

    tls_context(cloud, config)  # says which file cannot be read; requests does not
    try:
        verify, cert = config.get_requests_verify_args()
        plugin = config.get_auth()
        session = Session(
            auth=plugin,
            verify=verify,
            cert=cert,
            timeout=TIMEOUT_SECONDS,
            user_agent=f"glance-resolver/{__version__}",
        )
        bound(session)
    except Exception as error:
        raise cloud_error(cloud, f": {reason_of(error)}") from error
    return session, plugin, config


def authenticate(cloud: CloudRef) -> AuthHeaders:
    """Logs in to a cloud.

    Raises:
        LocationUnavailable: Keystone or clouds.yaml gave no credential. It names the cloud and why.
    """
    session, plugin, config = open_cloud(cloud)
    try:
        if type(plugin).__module__ == "keystoneauth1.noauth":  # its token is the word "notused"
            return AuthHeaders({}, valid_until=time.monotonic() + UNDATED_LIFETIME_SECONDS)
        headers = plugin.get_headers(session) or {}
        access = plugin.get_access(session) if hasattr(plugin, "get_access") else None
        hosts = _hosts_of(plugin, config, access)
        auth_url = str(getattr(plugin, "auth_url", None) or "")
    except Exception as error:
        raise _no_token(cloud, error) from error
    if access is None:
        valid_until = time.monotonic() + UNDATED_LIFETIME_SECONDS
        return AuthHeaders(headers, valid_until=valid_until, hosts=hosts, auth_url=auth_url)
    left = access.expires.timestamp() - time.time()
    return AuthHeaders(
        headers,
        roles=tuple(access.role_names) if access.project_scoped else (),
        valid_until=time.monotonic() + left - min(RENEW_BEFORE_SECONDS, left / 5),
        hosts=hosts,
        auth_url=auth_url,
    )


def _hosts_of(plugin: Any, config: Any, access: Any) -> frozenset[str]:
    """The hosts of a cloud: of its Keystone, of the endpoints in its catalog, and of those that
    clouds.yaml names."""
    urls = [
        getattr(plugin, "auth_url", None),
        getattr(plugin, "endpoint", None),
        config.get_endpoint("image"),
    ]
    if access is not None and access.has_service_catalog():
        for endpoints in access.service_catalog.get_endpoints_data().values():
            urls += [endpoint.url for endpoint in endpoints]
    return frozenset(host.lower() for url in urls if url and (host := urlsplit(url).hostname))


def image_endpoints(cloud: CloudRef, interface: str) -> list[tuple[str, str]]:
    """(region, base URL) of each image endpoint in a cloud's catalog, sorted.

    Raises:
        LocationUnavailable: Keystone or clouds.yaml gave no catalog.
    """
    session, plugin, _ = open_cloud(cloud)
    try:
        access = plugin.get_access(session) if hasattr(plugin, "get_access") else None
    except Exception as error:
        raise _no_token(cloud, error) from error
    if access is None or not access.has_service_catalog():
        raise cloud_error(cloud, " has no catalog: it needs a user of a Keystone, on a project")
    by_service = access.service_catalog.get_endpoints(service_type="image", interface=interface)
    return sorted(
        {
            (endpoint.get("region_id") or endpoint.get("region") or "", base_url(endpoint["url"]))
            for endpoints in by_service.values()
            for endpoint in endpoints
        }
    )


def base_url(endpoint_url: str) -> str:
    """An endpoint's URL without the version that many catalogs append, and without the project that
    some append to that: ``https://one.example/v2/AUTH_77aa``."""
    path = endpoint_url.rstrip("/")
    return re.sub(r"/v[12](\.[0-9]+)?(/[^/]+)?$", "", path, flags=re.IGNORECASE).rstrip("/")


def _no_token(cloud: CloudRef, error: Exception) -> LocationUnavailable:
    return cloud_error(cloud, f" gives no token: {reason_of(error)}")
