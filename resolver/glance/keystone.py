"""Credentials from clouds.yaml: tokens that keystoneauth fetches, off the event loop.

openstacksdk reads the file as every OpenStack client does, and brings keystoneauth with its plugins
(password, application credential, token, none and others). Both are the optional extra
``glance-resolver[keystone]`` and are imported when the first such credential is used.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import yaml

from resolver import __version__
from resolver.errors import LocationUnavailable

RENEW = 120.0
"""Seconds before its end in which a token is renewed; a fifth of its life where that is less."""

UNDATED = 300.0
"""Seconds after which a credential without an end is read anew."""

PAUSE = 2.0
"""Seconds in which a cloud that gave no token, or one that was not accepted, is not asked again."""

TIMEOUT = 10.0
"""Seconds for one request to Keystone."""

THREADS = 4
"""Logins at once. Threads of their own, since names are looked up in the event loop's."""


@dataclass(frozen=True, slots=True)
class AuthHeaders:
    """What to send to be let in, and what is known of whom it lets in."""

    headers: dict[str, str]
    roles: tuple[str, ...] | None = None
    """Roles on a project; none for another scope; None where it is not told."""
    until: float = 0.0
    """When to get another; seconds of the monotonic clock."""


def open_cloud(name: str) -> tuple[Any, Any]:
    """(keystoneauth session, its plugin) of a cloud, as clouds.yaml has it now. Blocks.

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
    logging.getLogger("openstack.config").setLevel(logging.ERROR)  # `_skipped` says it in a line
    try:
        region = OpenStackConfig(pw_func=None).get_one(cloud=name)
        verify, cert = region.get_requests_verify_args()
        plugin = region.get_auth()
        return Session(
            auth=plugin,
            verify=verify,
            cert=cert,
            timeout=TIMEOUT,
            user_agent=f"glance-resolver/{__version__}",
        ), plugin
    except Exception as error:
        raise LocationUnavailable(
            f"cloud {name!r} of clouds.yaml: {_skipped() or _why(error)}", code="no-credential"
        ) from error


def _skipped() -> str:
    """What is wrong with a file that openstacksdk has passed over because it is no YAML, in a line;
    it says so in its log only, and then that there is no such cloud."""
    from openstack.config.loader import CONFIG_FILES  # noqa: PLC0415 - as above

    for path in [os.environ.get("OS_CLIENT_CONFIG_FILE", ""), *CONFIG_FILES]:
        try:
            with open(path, encoding="utf-8") as file:
                yaml.safe_load(file)
        except OSError:
            continue
        except (
            Exception
        ) as error:  # PyYAML's own, and whatever a tag such as !!timestamp trips over
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            line = f"{path}{where}: {getattr(error, 'problem', None) or 'it is no YAML text'}"
            return "".join(filter(str.isprintable, line))[:300]
    return ""


def _why(error: Exception) -> str:
    """What is wrong, in a line: what a library says on purpose, without what a URL in it may hold
    of a login; or that the file is not laid out as one must be."""
    if type(error).__module__.partition(".")[0] in ("keystoneauth1", "openstack"):
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
    else:
        line = (
            "it cannot be read as one: it must be `clouds:`, under it the cloud's name, and under "
            f"that `auth:` with `auth_url:` and the login ({type(error).__name__})"
        )
    line = "".join(filter(str.isprintable, line))
    return re.sub(r"//[^/@\s]*@", "//***@", line)[:300]


def authenticate(name: str) -> AuthHeaders:
    """A new login of a cloud. Blocks.

    Raises:
        LocationUnavailable: Keystone, or clouds.yaml, gave none. It names the cloud and why.
    """
    session, plugin = open_cloud(name)
    try:
        if type(plugin).__module__ == "keystoneauth1.noauth":  # its token is the word "notused"
            return AuthHeaders({}, until=time.monotonic() + UNDATED)
        headers = plugin.get_headers(session) or {}
        access = plugin.get_access(session) if hasattr(plugin, "get_access") else None
    except Exception as error:
        raise _no_token(name, error) from error
    if access is None:
        return AuthHeaders(headers, until=time.monotonic() + UNDATED)
    left = access.expires.timestamp() - time.time()
    return AuthHeaders(
        headers,
        roles=tuple(access.role_names) if access.project_scoped else (),
        until=time.monotonic() + left - min(RENEW, left / 5),
    )


def image_endpoints(name: str, interface: str) -> list[tuple[str, str]]:
    """(region, base URL) of each image endpoint in a cloud's catalog. Blocks.

    Raises:
        LocationUnavailable: Keystone, or clouds.yaml, gave no catalog.
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
    found = access.service_catalog.get_endpoints(service_type="image", interface=interface)
    return sorted(
        {
            (one.get("region_id") or one.get("region") or "", _base(one["url"]))
            for endpoints in found.values()
            for one in endpoints
        }
    )


def _base(url: str) -> str:
    """An endpoint's URL without the version that some catalogs have in it."""
    return re.sub(r"/v[12](\.[0-9]+)?$", "", url.rstrip("/")).rstrip("/")


def _no_token(name: str, error: Exception) -> LocationUnavailable:
    return LocationUnavailable(
        f"cloud {name!r} of clouds.yaml gives no token: {_why(error)}", code="no-credential"
    )


@dataclass(slots=True)
class _Cloud:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    login: AuthHeaders | None = None
    fault: LocationUnavailable | None = None
    """Why the last try gave none."""
    tried: float = 0.0
    refused: float = 0.0
    """When one that had just been fetched was last found not to be accepted."""


class CloudCredentials:
    """The logins of a process, one for each cloud, shared by all who ask locations."""

    def __init__(self) -> None:
        self._clouds: dict[str, _Cloud] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="keystone")

    async def login(self, name: str) -> AuthHeaders:
        """A login that is good for a while.

        Raises:
            LocationUnavailable: there is none to be had.
        """
        cloud = self._clouds.setdefault(name, _Cloud())
        async with cloud.lock:
            now = time.monotonic()
            if cloud.login is not None and now < cloud.login.until:
                return cloud.login
            if cloud.fault is not None and now < cloud.tried + PAUSE:
                raise cloud.fault
            cloud.tried = now
            try:
                loop = asyncio.get_running_loop()
                cloud.login = await loop.run_in_executor(self._threads, authenticate, name)
                cloud.fault = None
            except LocationUnavailable as error:
                cloud.login, cloud.fault = None, error
                raise
            return cloud.login

    def refused(self, name: str, login: AuthHeaders) -> bool:
        """A server did not accept this login: whether another may do better.

        Not if a server said so of another just now: then the cloud is not one that it trusts.
        """
        cloud = self._clouds.setdefault(name, _Cloud())
        if cloud.login is not login:
            return True  # somebody has fetched another meanwhile
        now = time.monotonic()
        if cloud.refused and now < cloud.refused + PAUSE:
            return False
        cloud.refused = now
        cloud.login = None
        return True
