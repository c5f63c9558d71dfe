"""Logs in to the clouds of clouds.yaml with keystoneauth. Every function here blocks.

openstacksdk reads the file as every OpenStack client does, and brings keystoneauth with its plugins
(password, application credential, token, none and others). Both are the optional extra
``glance-resolver[keystone]``; they are imported when the first such credential is used.
"""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass
from typing import Any

import yaml

from resolver import __version__
from resolver.errors import LocationUnavailable

RENEW_BEFORE_SECONDS = 120.0
"""How long before its end a token is renewed; a fifth of its lifetime where that is less."""

UNDATED_LIFETIME_SECONDS = 300.0
"""How long a credential without an end is used before it is read again."""

TIMEOUT_SECONDS = 10.0
"""For one request to Keystone."""

MAX_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class AuthHeaders:
    """The headers that authenticate a request, and what is known of their credential."""

    headers: dict[str, str]
    roles: tuple[str, ...] | None = None
    """Its roles on a project; empty for a token with another scope, None where not known."""
    valid_until: float = 0.0
    """When to get another, on `time.monotonic`."""


def open_cloud(name: str) -> tuple[Any, Any]:
    """The keystoneauth session of a cloud and its plugin, as clouds.yaml describes it now.

    Raises:
        LocationUnavailable: there is no such cloud, or the extra is not installed.
    """
    try:
        from keystoneauth1.session import Session  # noqa: PLC0415 - the optional extra
        from openstack.config import OpenStackConfig  # noqa: PLC0415
    except ImportError as error:
        raise LocationUnavailable(
            'auth {"cloud": …} needs openstacksdk: pip install "glance-resolver[keystone]"',
            code="no-credential",
        ) from error
    # `_unreadable_file` reports the same in one line.
    logging.getLogger("openstack.config").setLevel(logging.ERROR)
    try:
        region = OpenStackConfig(pw_func=None).get_one(cloud=name)
        verify, cert = region.get_requests_verify_args()
        plugin = region.get_auth()
        session = Session(
            auth=plugin,
            verify=verify,
            cert=cert,
            timeout=TIMEOUT_SECONDS,
            user_agent=f"glance-resolver/{__version__}",
        )
    except Exception as error:
        raise LocationUnavailable(
            f"cloud {name!r} of clouds.yaml: {_unreadable_file() or _reason(error)}",
            code="no-credential",
        ) from error
    return session, plugin


def _unreadable_file() -> str:
    """Which configuration file is not YAML, and where; empty if none is.

    openstacksdk only logs that it skips such a file, and then reports that there is no such cloud.
    """
    from openstack.config.loader import CONFIG_FILES  # noqa: PLC0415 - as above

    for path in [os.environ.get("OS_CLIENT_CONFIG_FILE", ""), *CONFIG_FILES]:
        try:
            with open(path, encoding="utf-8") as file:
                yaml.safe_load(file)
        except OSError:
            continue
        except Exception as error:  # PyYAML's own, and those of tags such as !!timestamp
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or "it is no YAML text"
            return _printable(f"{path}{where}: {problem}")[:MAX_REASON_CHARACTERS]
    return ""


def _reason(error: Exception) -> str:
    """Why clouds.yaml or Keystone failed, in one line without passwords.

    Texts of keystoneauth and openstacksdk are meant for users; of other errors, such as a KeyError,
    only the type is shown.
    """
    if type(error).__module__.partition(".")[0] in ("keystoneauth1", "openstack"):
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
    else:
        line = (
            "it cannot be read as one: it must be `clouds:`, under it the cloud's name, and under "
            f"that `auth:` with `auth_url:` and the login ({type(error).__name__})"
        )
    # A URL in it may hold a user and a password.
    return re.sub(r"//[^/@\s]*@", "//***@", _printable(line))[:MAX_REASON_CHARACTERS]


def _printable(text: str) -> str:
    return "".join(filter(str.isprintable, text))


def authenticate(name: str) -> AuthHeaders:
    """Logs in to a cloud.

    Raises:
        LocationUnavailable: Keystone or clouds.yaml gave no credential. It names the cloud and why.
    """
    session, plugin = open_cloud(name)
    try:
        if type(plugin).__module__ == "keystoneauth1.noauth":  # its token is the word "notused"
            return AuthHeaders({}, valid_until=time.monotonic() + UNDATED_LIFETIME_SECONDS)
        headers = plugin.get_headers(session) or {}
        access = plugin.get_access(session) if hasattr(plugin, "get_access") else None
    except Exception as error:
        raise _no_token(name, error) from error
    if access is None:
        return AuthHeaders(headers, valid_until=time.monotonic() + UNDATED_LIFETIME_SECONDS)
    left = access.expires.timestamp() - time.time()
    return AuthHeaders(
        headers,
        roles=tuple(access.role_names) if access.project_scoped else (),
        valid_until=time.monotonic() + left - min(RENEW_BEFORE_SECONDS, left / 5),
    )


def image_endpoints(name: str, interface: str) -> list[tuple[str, str]]:
    """(region, base URL) of each image endpoint in a cloud's catalog, sorted.

    Raises:
        LocationUnavailable: Keystone or clouds.yaml gave no catalog.
    """
    session, plugin = open_cloud(name)
    try:
        access = plugin.get_access(session) if hasattr(plugin, "get_access") else None
    except Exception as error:
        raise _no_token(name, error) from error
    if access is None or not access.has_service_catalog():
        raise LocationUnavailable(
            f"cloud {name!r} of clouds.yaml has no catalog: it needs a user of a Keystone, on a "
            "project",
            code="no-credential",
        )
    by_service = access.service_catalog.get_endpoints(service_type="image", interface=interface)
    return sorted(
        {
            (endpoint.get("region_id") or endpoint.get("region") or "", base_url(endpoint["url"]))
            for endpoints in by_service.values()
            for endpoint in endpoints
        }
    )


def base_url(endpoint_url: str) -> str:
    """An endpoint's URL without the version that some catalogs append."""
    return re.sub(r"/v[12](\.[0-9]+)?$", "", endpoint_url.rstrip("/")).rstrip("/")


def _no_token(name: str, error: Exception) -> LocationUnavailable:
    return LocationUnavailable(
        f"cloud {name!r} of clouds.yaml gives no token: {_reason(error)}", code="no-credential"
    )
