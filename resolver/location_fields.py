"""What an operator may write into one field of a location.

A field is declared once, in `resolver.models.Location`: its type and default as in any dataclass,
and a `FieldSpec` made by `spec` with everything else that the program needs to know about it.
Validation, the JSON of the HTTP API, the stored form and the export follow from that declaration.
``tests/registry/test_fields.py`` lists the documents and examples that must follow by hand.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from resolver.errors import InvalidLocation

MAX_TEXT_LENGTH = 255
MAX_URL_LENGTH = 1024
MAX_NUMBER = 1_000_000
MAX_NETWORKS = 1000
MAPPED_PREFIX_BITS = 96
"""``::ffff:`` before an IPv4 address."""

_URL = re.compile(r"[A-Za-z0-9._~:/\[\]%!$&'()*+,;=@-]+", re.ASCII)
_HOST = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})?(\.[a-z0-9_]([a-z0-9_-]{0,62})?)*\.?", re.ASCII
)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Parser = Callable[[Any, str], Any]
"""Checks the JSON value of a field, given the field's name, and returns what is stored.

Raises:
    InvalidLocation: the value cannot be used. The message says what to write instead.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSpec:
    """How operators write one field of a location."""

    parse: Parser
    description: str
    """One sentence for operators."""
    example: Any
    """A JSON value other than the default; the tests send it through every form of the field."""
    options: tuple[str, ...]
    """Options of ``glance-resolver locations add`` and ``set`` that set the field."""
    changes_contents: bool = False
    """Whether another value means that earlier sweeps may have seen other images: the location is
    then swept again."""


METADATA_KEY = "location_field"


def spec(
    parse: Parser,
    description: str,
    *,
    example: Any,
    options: tuple[str, ...],
    changes_contents: bool = False,
) -> Mapping[str, FieldSpec]:
    """The ``metadata`` of a dataclass field that operators may write."""
    return {
        METADATA_KEY: FieldSpec(
            parse=parse,
            description=description,
            example=example,
            options=options,
            changes_contents=changes_contents,
        )
    }


def is_location_name(text: str) -> bool:
    """Whether a location may have this name."""
    return _NAME.fullmatch(text) is not None


@lru_cache(maxsize=16_384)
def is_base_url(url: str) -> bool:
    """Whether this is a base URL in its stored form, as `parse_base_url` returns it."""
    try:
        return parse_base_url(url) == url
    except InvalidLocation:
        return False


def parse_base_url(value: Any, name: str = "url") -> str:
    """A base URL in its stored form: no trailing slash, scheme and host in lower case.

    A URL that two parsers could read differently is refused, since the gateway, the clients and the
    servers in between must all see the same host in it.
    """
    if not isinstance(value, str) or not value:
        raise InvalidLocation(
            f"`{name}` is missing: give the base URL of the Glance server, such as "
            "https://cloud.example/image"
        )
    if len(value) > MAX_URL_LENGTH or not _URL.fullmatch(value):
        what = "a query or fragment" if set(value) & set("?#") else "characters"
        raise InvalidLocation(f"`{name}` has {what} that a base URL cannot have: {value[:80]!r}")
    try:
        parts = urlsplit(value)
        port = parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise InvalidLocation(f"`{name}` is not a URL ({error}): {value[:80]!r}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidLocation(f"`{name}` must begin with http:// or https://, not {value[:80]!r}")
    if "@" in parts.netloc:
        raise InvalidLocation(f"`{name}` must not contain a user or password: use `auth`")
    if "%" in parts.netloc:  # some clients decode a host, others do not
        raise InvalidLocation(f"`{name}` has a host that could be read in two ways: {value[:80]!r}")
    if port == 0 or not (_HOST.fullmatch(host) or _is_ipv6(host)):
        raise InvalidLocation(f"`{name}` has a host or port that cannot be reached: {value[:80]!r}")
    path = parts.path.rstrip("/")
    if re.search(r"//|/\.\.?(/|$)|%2e|%2f|%5c|[\[\]]", path, re.IGNORECASE) or re.search(
        r"%(?![0-9a-fA-F]{2})", value
    ):
        raise InvalidLocation(f"`{name}` has a path that could be read in two ways: {path[:80]!r}")
    if version := re.search(r"/v[12](\.\d+)?(/[^/]+)?$", path, re.IGNORECASE):
        what = "the version and the project" if version[2] else "the version"
        base = value.rstrip("/")[: -len(version[0])]
        raise InvalidLocation(f"`{name}` must be the base URL, without {what}: {base[:80]}")
    bracketed = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{bracketed}{f':{port}' if port is not None else ''}{path}"


def parse_public_url(value: Any, name: str) -> str:
    """As `parse_base_url`; null or empty means the location's `url`."""
    return parse_base_url(value, name) if value not in (None, "") else ""


def parse_networks(value: Any, name: str) -> tuple[str, ...]:
    """Networks in their stored form, sorted, without repetitions; null for none."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or len(value) > MAX_NETWORKS:
        raise InvalidLocation(
            f"`{name}` must be a list of at most {MAX_NETWORKS} networks such as 10.1.0.0/16"
        )
    return tuple(map(str, sorted({_network(item, name) for item in value}, key=_network_order)))


def _network(value: Any, name: str) -> Network:
    text = value.strip() if isinstance(value, str) else ""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidLocation(
            f"`{name}`: {str(value)[:64]!r} is not a network: write one such as 10.1.0.0/16 or "
            "2001:db8::/32"
        ) from error
    if ipaddress.ip_address(text.partition("/")[0]) != network.network_address:
        raise InvalidLocation(f"`{name}`: {text[:64]!r} has bits after its prefix: write {network}")
    try:
        refuse_mapped_ipv4(network)
    except ValueError as error:
        raise InvalidLocation(f"`{name}`: {error}") from error
    return network


def refuse_mapped_ipv4(network: Network) -> None:
    """Raises ValueError for IPv4 that is written as IPv6, such as ``::ffff:10.0.0.0/104``. Clients
    with such addresses count as IPv4, so the network would have none."""
    if isinstance(network, ipaddress.IPv4Network) or network.prefixlen < MAPPED_PREFIX_BITS:
        return
    if address := network.network_address.ipv4_mapped:
        text = f"{address}/{network.prefixlen - MAPPED_PREFIX_BITS}"
        raise ValueError(f"'{network}' is IPv4 written as IPv6: write {text}")


def _network_order(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def parse_text(value: Any, name: str) -> str:
    """A short printable text."""
    if isinstance(value, bool | int | float):
        raise InvalidLocation(
            f"`{name}` must be a text, not {value!r}: in YAML, quote words such as NO and numbers"
        )
    if not isinstance(value, str) or len(value) > MAX_TEXT_LENGTH or not value.isprintable():
        raise InvalidLocation(
            f"`{name}` must be a text of at most {MAX_TEXT_LENGTH} printable characters"
        )
    return value


def parse_optional_text(value: Any, name: str) -> str:
    """As `parse_text`; null means empty."""
    return parse_text("" if value is None else value, name)


def parse_number(value: Any, name: str) -> int:
    """A whole number from 0 to `MAX_NUMBER`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
        raise InvalidLocation(f"`{name}` must be a whole number from 0 to {MAX_NUMBER}")
    return value


def parse_rate(value: Any, name: str) -> float:
    """Requests a second: a number from 0.01 to `MAX_NUMBER`, or 0 for no limit."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (is_number and value == 0):
        return 0.0
    if not is_number or not 0.01 <= value <= MAX_NUMBER:
        raise InvalidLocation(
            f"`{name}` must be the requests a second that the server allows, from 0.01 to "
            f"{MAX_NUMBER}, or 0 for no limit"
        )
    return float(value)


def parse_bool(value: Any, name: str) -> bool:
    """True or false. A 0 or 1 is refused: it would compare equal and pass for a boolean."""
    if not isinstance(value, bool):
        raise InvalidLocation(f"`{name}` must be true or false")
    return value


def choice_parser(members: type[StrEnum]) -> Parser:
    """A parser for one of the values of an enumeration."""

    def parse(value: Any, name: str) -> StrEnum:
        try:
            return members(value)
        except ValueError:
            raise InvalidLocation(
                f"`{name}` must be one of {', '.join(members)}, not {str(value)[:40]!r}"
            ) from None

    return parse


def parse_sees_all(value: Any, name: str) -> bool | None:
    """True, false or null. A 0 or 1 is refused: it would compare equal and pass for a boolean."""
    if not isinstance(value, bool | None):
        raise InvalidLocation(f"`{name}` must be true, false, or null to find out")
    return value


def parse_credential_source(value: Any, name: str) -> dict[str, str] | None:
    """The place of a credential, never the credential itself; null for none."""
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) != 1 + ("cloud" in value and "region" in value):
        raise InvalidLocation(
            f"`{name}` must name the place of the token: "
            '{"token_env": "VARIABLE"}, {"token_file": "/path"} or '
            '{"cloud": "name in clouds.yaml"}, perhaps with "region", never the token itself'
        )
    kind, place = next((kind, place) for kind, place in value.items() if kind != "region")
    if kind == "token_env":
        _variable(place, f"{name}.token_env")
    elif kind == "token_file":
        _path(place, f"{name}.token_file")
    elif kind == "cloud":
        if not parse_text(place, f"{name}.cloud"):
            raise InvalidLocation(f"`{name}.cloud` must be the name of a cloud in clouds.yaml")
        if "region" in value and not parse_text(value["region"], f"{name}.region"):
            raise InvalidLocation(f"`{name}.region` must not be empty: leave it out")
    else:
        raise InvalidLocation(
            f"`{name}` knows `token_env`, `token_file` and `cloud`, not {str(kind)[:40]!r}"
        )
    return dict(value)


def parse_notification_source(value: Any, name: str) -> dict[str, str] | None:
    """The place of the URL of a message broker, with its exchange and topic; null for none."""
    if value is None:
        return None
    known = {"url_env", "url_file", "exchange", "topic"}
    if (
        not isinstance(value, dict)
        or set(value) - known
        or ("url_env" in value) == ("url_file" in value)
    ):
        raise InvalidLocation(
            f"`{name}` must name the place of the broker's URL: "
            '{"url_env": "VARIABLE"} or {"url_file": "/path"}, never the URL itself, with '
            "`exchange` and `topic` if they are not the usual ones"
        )
    if "url_env" in value:
        _variable(value["url_env"], f"{name}.url_env")
    else:
        _path(value["url_file"], f"{name}.url_file")
    for member in ("exchange", "topic"):
        if member in value and not parse_text(value[member], f"{name}.{member}"):
            raise InvalidLocation(f"`{name}.{member}` must not be empty: leave it out")
    return dict(value)


def _variable(value: Any, name: str) -> None:
    if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
        raise InvalidLocation(f"`{name}` must be the name of an environment variable")
    if value.upper().startswith("RESOLVER_"):
        raise InvalidLocation(f"`{name}` must not name a setting of the resolver")


def _path(value: Any, name: str) -> None:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise InvalidLocation(f"`{name}` must be an absolute path")
    parse_text(value, name)
