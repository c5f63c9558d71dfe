"""What an operator may write of a location, checked, with messages that say what to write."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from resolver.errors import InvalidLocation
from resolver.glance.host_policy import Address, HostPolicy, is_loopback, parse_address
from resolver.models import Api, Location, State

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
MAX_TEXT = 255
MAX_URL = 1024
MAX_NUMBER = 1_000_000

_URL = re.compile(r"[A-Za-z0-9._~:/\[\]%!$&'()*+,;=@-]+", re.ASCII)
_HOST = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})?(\.[a-z0-9_]([a-z0-9_-]{0,62})?)*\.?", re.ASCII
)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)


def check_name(name: str) -> str:
    """Raises InvalidLocation unless it is a name that a location may have."""
    if not NAME.fullmatch(name):
        raise InvalidLocation(
            f"{name[:80]!r} is no location name: use a-z, 0-9, '.', '_' and '-', "
            "beginning with a letter or digit, at most 63 characters"
        )
    return name


def check_url(text: Any) -> str:
    """A base URL as it will be kept: no trailing slash, scheme and host in lower case.

    Raises:
        InvalidLocation: it is something else.
    """
    if not isinstance(text, str) or not text:
        raise InvalidLocation(
            "`url` is missing: give the base URL of the Glance server, such as "
            "https://cloud.example/image"
        )
    if len(text) > MAX_URL or not _URL.fullmatch(text):
        what = "a query or fragment" if set(text) & set("?#") else "characters"
        raise InvalidLocation(f"`url` has {what} that a base URL cannot have: {text[:80]!r}")
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise InvalidLocation(f"`url` is no URL ({error}): {text[:80]!r}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidLocation(f"`url` must begin with http:// or https://, not {text[:80]!r}")
    if "@" in parts.netloc:
        raise InvalidLocation("`url` must not hold a user or password: use `auth`")
    if "%" in parts.netloc:  # some clients decode a host, others do not
        raise InvalidLocation(f"`url` has a host that could be read in two ways: {text[:80]!r}")
    if port == 0 or not (_HOST.fullmatch(host) or _is_ipv6(host)):
        raise InvalidLocation(f"`url` has no host and port that can be reached: {text[:80]!r}")
    path = parts.path.rstrip("/")
    if re.search(r"//|/\.\.?(/|$)|%2e|%2f|%5c", path, re.IGNORECASE) or re.search(
        r"%(?![0-9a-fA-F]{2})", text
    ):
        raise InvalidLocation(f"`url` has a path that could be read in two ways: {path[:80]!r}")
    if re.search(r"/v[12](\.\d+)?$", path):
        raise InvalidLocation(
            f"`url` must be the base URL, without the version: {text[: text.rindex('/v')]}"
        )
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{f':{port}' if port is not None else ''}{path}"


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise InvalidLocation(f"`{name}` must be a text of at most {MAX_TEXT} printable characters")
    return value


def _number(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
        raise InvalidLocation(f"`{name}` must be a whole number from 0 to {MAX_NUMBER}")
    return value


def _auth(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) != 1:
        raise InvalidLocation(
            '`auth` says where the token is: {"token_env": "VARIABLE"}, {"token_file": "/path"} or '
            '{"cloud": "name in clouds.yaml"}, never the token itself'
        )
    ((kind, where),) = value.items()
    if kind == "token_env":
        _variable(where, "auth.token_env")
    elif kind == "token_file":
        _path(where, "auth.token_file")
    elif kind == "cloud":
        if not _text(where, "auth.cloud"):
            raise InvalidLocation("`auth.cloud` must be the name of a cloud in clouds.yaml")
    else:
        raise InvalidLocation(
            f"`auth` knows `token_env`, `token_file` and `cloud`, not {str(kind)[:40]!r}"
        )
    return {kind: where}


def _variable(value: Any, name: str) -> None:
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
        raise InvalidLocation(f"`{name}` must be the name of an environment variable")
    if value.upper().startswith("RESOLVER_"):
        raise InvalidLocation(f"`{name}` must not name a setting of the resolver")


def _path(value: Any, name: str) -> None:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise InvalidLocation(f"`{name}` must be an absolute path")
    _text(value, name)


def _notifications(value: Any) -> dict[str, str] | None:
    if value is None:
        return None
    known = {"url_env", "url_file", "exchange", "topic"}
    if (
        not isinstance(value, dict)
        or set(value) - known
        or ("url_env" in value) == ("url_file" in value)
    ):
        raise InvalidLocation(
            '`notifications` says where the broker\'s URL is: {"url_env": "VARIABLE"} or '
            '{"url_file": "/path"}, never the URL itself, and perhaps `exchange` and `topic`'
        )
    if "url_env" in value:
        _variable(value["url_env"], "notifications.url_env")
    else:
        _path(value["url_file"], "notifications.url_file")
    for name in ("exchange", "topic"):
        if name in value and not _text(value[name], f"notifications.{name}"):
            raise InvalidLocation(f"`notifications.{name}` must not be empty: leave it out")
    return dict(value)


def _choice(value: Any, name: str, kind: type[Api] | type[State]) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise InvalidLocation(
            f"`{name}` must be one of {', '.join(kind)}, not {str(value)[:40]!r}"
        ) from None


def _sees_all(value: Any) -> bool | None:
    if not isinstance(value, bool | None):  # 0 is no false: see `LocationView.blind`
        raise InvalidLocation("`sees_all` must be true, false, or null to find out")
    return value


_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "region": lambda value: _text("" if value is None else value, "region"),
    "reason": lambda value: _text("" if value is None else value, "reason"),
    "priority": lambda value: _number(value, "priority"),
    "weight": lambda value: _number(value, "weight"),
    "api": lambda value: _choice(value, "api", Api),
    "state": lambda value: _choice(value, "state", State),
    "sees_all": _sees_all,
    "auth": _auth,
    "notifications": _notifications,
}
"""How each field but `url` is read."""

FIELDS = ("url", *_PARSERS)


def parse_location(name: str, fields: Mapping[str, Any], base: Location | None = None) -> Location:
    """The location that ``fields`` describe: a whole one, or ``base`` with some fields changed.

    Raises:
        InvalidLocation: naming the first field that cannot be.
    """
    check_name(name)
    if "name" in fields and fields["name"] != name:
        raise InvalidLocation(f"`name` in the body is not {name!r}; a location cannot be renamed")
    unknown = [str(f)[:40] for f in fields if f not in FIELDS and f != "name"]
    if unknown:
        raise InvalidLocation(
            f"unknown field {', '.join(unknown)}: a location has {', '.join(FIELDS)}"
        )
    if base is None or "url" in fields:
        url = check_url(fields.get("url"))
        base = replace(base, url=url) if base else Location(name=name, url=url)
    return replace(base, **{f: parse(fields[f]) for f, parse in _PARSERS.items() if f in fields})


def check_https(url: str) -> None:
    """Raises InvalidLocation for http to another machine."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise InvalidLocation("`url` must be https here (RESOLVER_REQUIRE_HTTPS)")


async def check_host(url: str, allowed: Iterable[str]) -> None:
    """Raises InvalidLocation unless RESOLVER_ALLOWED_HOSTS allows the URL's host.

    A name that only a network could allow is looked up, and all its addresses must be allowed.
    They are looked at again with each connection.
    """
    rules = HostPolicy(allowed)
    host = (urlsplit(url).hostname or "").lower()
    if not rules.rules or rules.allows_name(host):
        return
    address = parse_address(host)
    found = [address] if address else await _addresses(host) if rules.networks else []
    if not found or not all(rules.allows(host, one) for one in found):
        raise InvalidLocation(
            f"`url`: host {host} is not allowed here (RESOLVER_ALLOWED_HOSTS: "
            f"{', '.join(rules.rules)})"
        )


async def listens(here: str, host: str) -> bool:
    """Whether a server bound to ``here`` is what connects at ``host``, in any of its spellings."""
    host = host.removesuffix(".")
    try:
        named, ours = await _addresses(host), await _addresses(here)
    except InvalidLocation:
        return False
    if any(address.is_unspecified for address in ours):
        return any(_is_local(address) for address in named)
    return any(
        address in ours or (address.is_unspecified and any(a.is_loopback for a in ours))
        for address in named
    )


def _is_local(address: Address) -> bool:
    """Whether it is this machine's, which only then can be bound to."""
    if address.is_unspecified or address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


async def _addresses(host: str) -> list[Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InvalidLocation(f"`url`: host {host} cannot be looked up") from error
    addresses = [ipaddress.ip_address(info[4][0]) for info in found]
    return [getattr(address, "ipv4_mapped", None) or address for address in addresses]
