"""Settings, from the environment, a TOML file and defaults, in this order of precedence.

Every field is ``RESOLVER_<NAME>`` in the environment and ``name`` in the TOML file that
``RESOLVER_CONFIG`` names. An unknown name is an error, so that a misspelled one is not ignored.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from resolver.admin_tokens import Role, parse_token
from resolver.errors import SettingsError, without_middle
from resolver.keystone_urls import parse_domains
from resolver.masking import mask_url
from resolver.models import MAX_BITS, MIN_BITS
from resolver.setting_names import PREFIX, unknown_names
from resolver.setting_sources import read_environment, read_file, settings_file
from resolver.setting_types import read_values, seconds, setting, settings_of
from resolver.suggestions import did_you_mean

Names = tuple[str, ...]


def _check_tokens(entries: Names) -> Names:
    for number, entry in enumerate(entries, 1):
        try:
            parse_token(entry)
        except ValueError as error:
            raise ValueError(f"token {number} {error}") from error
    return entries


def _check_hosts(hosts: Names) -> Names:
    for host in hosts:
        if "/" in host:
            ipaddress.ip_network(host, strict=False)
        elif "*" in host.removeprefix("*.") or not host.removeprefix("*."):
            raise ValueError(f"{host!r} is not a host name, *.suffix, address or network")
    return hosts


def _check_absolute(patterns: Names) -> Names:
    for pattern in patterns:
        if not pattern.startswith("/"):
            raise ValueError(f"{pattern!r} is no absolute path, such as /run/secrets/*")
    return patterns


def _check_networks(networks: Names) -> Names:
    for network in networks:
        ipaddress.ip_network(network)
    return networks


def _check_domains(domains: Names) -> Names:
    parse_domains(domains)
    return domains


def _check_public_url(url: str) -> str:
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc):
        raise ValueError("it must be an http or https URL without a user and a password")
    return url.rstrip("/")


def _check_prefix(prefix: str) -> str:
    if not prefix or not prefix.isascii() or not prefix.isprintable() or set(prefix) & set("{} "):
        raise ValueError("it must be printable ASCII without braces and spaces")
    return prefix


@dataclass(frozen=True, init=False, repr=False)  # it would show tokens and passwords
class Settings:
    """All settings of ``glance-resolver serve``. Times are in seconds."""

    redis_url: str = setting(
        "memory:",
        description="The Redis that holds the index: `redis://`, `unix://`, "
        "`redis+sentinel://h1,h2/service/db` or `redis+cluster://h1,h2`; or `memory:`, which is "
        "the memory of this process and is lost when it ends. `rediss` instead of `redis` means "
        "TLS, with the options `?ssl_ca_certs=FILE` and "
        "`&ssl_certfile=FILE&ssl_keyfile=FILE` if they are needed. "
        "`?sentinel_username=NAME&sentinel_password=PASSWORD` is the login at the Sentinels.",
    )
    redis_url_file: str = setting(
        "",
        description="File that holds that URL instead. It is read again when it changes, and the "
        "new URL is used once a Redis answers there, so that a password is changed without a "
        "restart.",
    )
    prefix: str = setting("glr:", check=_check_prefix, description="Prefix of all Redis keys.")
    index_bits: int | None = setting(
        None,
        least=MIN_BITS,
        most=MAX_BITS,
        description="Number of buckets of a new index as a power of two, which then does not "
        "change by itself. Unset: it begins with 8 and grows with the images. An existing index "
        "keeps its own number.",
    )
    index_timeout: float = seconds(
        0.25, description="How long a request waits for Redis before it is answered without it."
    )
    stale_for: float = setting(
        3600.0,
        least=0,
        most=86400 * 30,
        description="How long the last data in this process are used while Redis does not answer; "
        "0: not at all.",
    )
    host: str = setting("127.0.0.1", description="Address to listen on.")
    port: int = setting(
        9393, least=0, most=65535, description="Port to listen on; 0 chooses a free one."
    )
    management_port: int | None = setting(
        None,
        least=0,
        most=65535,
        description="Port of its own for the admin paths, `/metrics`, `/index`, `/status`, "
        "`/report` and the status page, which are then not on the other port. Unset: one port has "
        "all.",
    )
    management_host: str = setting("127.0.0.1", description="Address to listen on with that port.")
    tls_cert: str = setting(
        "",
        description="PEM file of this gateway's certificate, followed by the intermediate "
        "certificates. If set, the gateway speaks only https (TLS 1.2 or newer). The file is "
        "checked at each connection and read again when it changes.",
    )
    tls_key: str = setting(
        "",
        description="PEM file of the certificate's private key, without a passphrase; if unset, "
        "the key is in the certificate's file.",
    )
    role: Literal["all", "gateway", "indexer"] = setting(
        "all",
        description="`gateway` answers requests, `indexer` sweeps locations, `all` does both.",
    )
    workers: int = setting(
        1,
        least=1,
        most=256,
        description="Number of processes that answer at one address, useful up to the number of "
        "cores. More than 1 needs a Redis.",
    )
    public_url: str = setting(
        "",
        description="The URL of this gateway that clients use, for version documents. If unset, it "
        "is made from the request's `Host`.",
        check=_check_public_url,
    )
    hosts: tuple[str, ...] = setting(
        (),
        description="More names of this gateway, besides that of `RESOLVER_PUBLIC_URL`: names and "
        "`*.suffix`. With either set, a request to another `Host` is answered 421, but for "
        "addresses, names without a dot and the health paths.",
        check=_check_hosts,
    )
    region: str = setting("", description="The home region. Owners in it are preferred.")
    locations_file: str = setting(
        "", description="YAML file of locations to register at start (also `--locations`)."
    )
    admin_tokens: tuple[str, ...] = setting(
        (),
        description="Tokens for the admin paths, each written as `token`, `name=token` or "
        "`name:role=token`. Roles: `ro` only reads; `claims` also claims and releases images; "
        "`state` also changes the state of locations; `admin`, the default, may do everything.",
        check=_check_tokens,
    )
    admin_tokens_file: str = setting(
        "",
        description="File with more admin tokens, one per line. It is read again when it changes. "
        "A line that is not a token is ignored and reported.",
    )
    allowed_hosts: tuple[str, ...] = setting(
        (),
        description="Hosts that locations may have: names, `*.suffix`, addresses and networks "
        "(`10.0.0.0/8`). They are checked at each connection. A name allows all its addresses "
        "except loopback and link-local ones. Empty: any host.",
        check=_check_hosts,
    )
    require_https: bool = setting(
        False, description="Refuse locations with http, except on loopback."
    )
    secret_files: tuple[str, ...] = setting(
        ("/run/secrets/*",),
        description="Files that may hold credentials of locations (`token_file`, `url_file`), as "
        "patterns with `*`. Unset, also those in the folder of `RESOLVER_LOCATIONS_FILE`. Files "
        "that settings name are never read for a location.",
        check=_check_absolute,
    )
    secret_envs: tuple[str, ...] = setting(
        ("GLANCE_*",),
        description="Environment variables that may hold credentials of locations (`token_env`, "
        "`url_env`), as patterns with `*`. `RESOLVER_*` never may.",
    )
    redirect_writes: bool = setting(
        False,
        description="Also redirect small writes (PATCH, DELETE, tags, members, actions, "
        "new records). "
        "Uploads are never redirected.",
    )
    bulk_limit: int = setting(
        10_000, least=1, most=1_000_000, description="Largest number of ids in one `POST /resolve`."
    )
    client_rate: float = setting(
        1000.0,
        least=0,
        most=1_000_000,
        description="Expensive requests that one client may make per second, at each worker: an id "
        "that locations are asked about, a page of a listing, `/explain`, and every 500 ids of a "
        "`POST /resolve` count as one. Bursts of ten seconds' worth are allowed; more is answered "
        "429. Known images are always redirected. 0: no limit.",
    )
    client_timeout: float = seconds(
        30.0,
        description="How long a client may take to send the head of a request, to send its body "
        "(for an import: the next part of it), and to receive data that was sent to it.",
    )
    max_connections: int = setting(
        10_000,
        least=1,
        most=1_000_000,
        description="Largest number of open client connections of a worker. When it is reached, "
        "idle connections are closed; if none is idle, new ones wait. One client (in IPv6 its "
        "/64, /56 and /48) may have half of them; clients on this host and trusted proxies, all.",
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        description="Addresses and networks (`10.0.0.0/8`) of the proxies in front of this "
        "gateway. Their `X-Forwarded-For` names the client, and `X-Forwarded-Proto` its scheme.",
        check=_check_networks,
    )
    sweep_interval: float = seconds(
        300.0,
        description="Time between two sweeps of a location. A sweep counts as fresh for twice "
        "this time plus its own duration.",
    )
    poll_interval: float = setting(
        30.0,
        least=0,
        most=86400,
        description="Time between two polls of a location, which read what changed since the last "
        "one; 0 turns polls off.",
    )
    probe: bool = setting(
        True,
        description="Whether locations are asked about an id that is not in the index: `on` or "
        "`off`.",
    )
    probe_timeout: float = seconds(
        2.0, description="How long a location may take to answer about one image."
    )
    probes_per_location: int = setting(
        32,
        least=1,
        most=1000,
        description="Largest number of concurrent probes of one location. When it is reached, an "
        "unknown id is answered 503.",
    )
    probes_at_once: int = setting(
        1024,
        least=1,
        most=100_000,
        description="Largest number of concurrent probes of all locations, with the same effect. "
        "One id at a time is asked even if there are more locations than this.",
    )
    listing: bool = setting(
        True,
        description="Whether `GET /v2/images` lists the images of all locations: `on` or `off`. "
        "The client's own token goes to every location in service.",
    )
    listing_partial: bool = setting(
        False,
        description="Whether a listing without the images of locations that do not answer is given "
        "to every client, and not only to those that send `X-Resolver-Partial: allow`.",
    )
    listing_timeout: float = seconds(
        10.0, description="How long the locations may take to answer one request for a listing."
    )
    read_auth: Literal["none", "token", "caller"] = setting(
        "none",
        description="Who may read. `token`: clients with a token that Keystone accepts. `caller`: "
        "the same, and each sees only what an owner shows to its token.",
    )
    domains: tuple[str, ...] = setting(
        (),
        description="The Keystone of each `domain` of locations: `NAME=https://keystone/v3`; for "
        "locations without one, the URL alone. Unset: that of the location's cloud.",
        check=_check_domains,
    )
    absent_proof: Literal["asked", "covered"] = setting(
        "asked",
        description="What proves that a location lacks an image. `asked`: it was asked just now. "
        "`covered`: what the index has of it is complete and no older than `RESOLVER_ABSENT_AGE`; "
        "then it is not asked.",
    )
    absent_age: float = seconds(
        60.0,
        description="With `covered`: how long ago the last sweep or poll of a location may have "
        "begun. It must be longer than `RESOLVER_POLL_INTERVAL`.",
    )
    absent_ttl: float = setting(
        10.0,
        least=0,
        most=3600,
        description="How long a gateway caches that a location does not have an image. "
        "Not longer than `RESOLVER_CACHE_TTL`.",
    )
    cache_size: int = setting(
        250_000,
        least=0,
        most=100_000_000,
        description="Number of ids whose owners a gateway caches in memory, 134 bytes each; "
        "0 turns the cache off.",
    )
    cache_ttl: float = seconds(
        60.0,
        description="How long owners are cached at most. Redis announces changes at once; this "
        "limit is for announcements that were lost.",
    )
    health_interval: float = seconds(
        15.0,
        description="Time between two health checks of a location. After three consecutive failed "
        "checks (the second and third follow sooner) it is down, after three good ones up again.",
    )
    location_timeout: float = seconds(
        30.0, description="How long one request to a Glance server may take altogether."
    )
    shrink_guard: float = setting(
        0.2,
        least=0,
        most=1,
        description="The share of a location's images that may be released between two complete "
        "sweeps, and by a sweep, without an operator's confirmation. It applies above 10 images. "
        "An empty listing always needs the confirmation.",
    )
    shutdown_timeout: float = seconds(
        10.0, description="How long requests in flight may take to finish after SIGTERM."
    )
    drain_seconds: float = setting(
        0.0,
        least=0,
        most=3600,
        description="How long the gateway goes on serving after SIGTERM, before it stops accepting "
        "connections. `/readyz` is 503 from SIGTERM on, so that load balancers can notice.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", description="Lowest level that is logged."
    )
    log_format: Literal["auto", "text", "json"] = setting(
        "auto", description="`auto`: text on a terminal, JSON otherwise."
    )
    access_log: Literal["off", "errors", "clients", "all"] = setting(
        "clients",
        description="Which requests are logged. `off`: none. `errors`: those with status 400 or "
        "above. `clients`: all. Both leave out health checks and scrapes with the status of the "
        "one before. `all`: each request.",
    )
    otel: bool = setting(
        False,
        description="Make OpenTelemetry spans of requests that ask locations, of sweeps and of "
        "polls, and send them to where the variables `OTEL_*` say. Needs the extra `otel`.",
    )

    given: frozenset[str] = field(default=frozenset(), compare=False)
    """The names of those that are not left at their default."""

    def __init__(self, **chosen: Any) -> None:
        """``chosen``: values by name that take precedence over the environment and the file.

        Raises:
            SettingsError: some are wrong. The message names each one.
        """
        _refuse_unknown(chosen)
        given = {**_read_sources(), **chosen}
        values, faults = read_values(Settings, given)
        if faults:
            raise SettingsError(
                "; ".join(
                    f"{PREFIX}{name.upper()}: {without_middle(fault)}"
                    for name, fault in faults.items()
                )
            )
        defaults = {name: known.default for name, known in SETTINGS.items()}
        vars(self).update(defaults | values | {"given": frozenset(given)})
        if contradiction := self._contradiction():
            raise SettingsError(contradiction)

    def _contradiction(self) -> str:
        """What is wrong with several settings together; empty if nothing is."""
        if self.absent_ttl > self.cache_ttl:
            return (
                f"RESOLVER_ABSENT_TTL: {self.absent_ttl:g} s is longer than RESOLVER_CACHE_TTL, "
                f"{self.cache_ttl:g} s: cached absences must not outlive cached owners"
            )
        if self.read_auth == "caller" and not self.probe:
            return "RESOLVER_READ_AUTH=caller asks locations: it needs RESOLVER_PROBE=on"
        if self.redis_url_file and "redis_url" in self.given:
            return "RESOLVER_REDIS_URL and RESOLVER_REDIS_URL_FILE: set only one of them"
        if self.management_port and self.management_port == self.port:
            return "RESOLVER_MANAGEMENT_PORT must not be RESOLVER_PORT"
        if self.tls_key and not self.tls_cert:
            return "RESOLVER_TLS_KEY is the key of a certificate: set RESOLVER_TLS_CERT"
        return ""

    def addresses(self) -> list[tuple[str, int]]:
        """The hosts and ports to listen on, the public one first."""
        found = [(self.host, self.port)]
        if self.management_port is not None:
            found.append((self.management_host, self.management_port))
        return found

    @property
    def is_embedded(self) -> bool:
        """Whether the index lives in this process."""
        return not self.redis_url_file and self.redis_url.startswith("memory:")

    def masked(self) -> dict[str, Any]:
        """The settings as JSON values by name, with secrets masked."""
        values = {name: getattr(self, name) for name in SETTINGS}
        values = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
        tokens = map(parse_token, self.admin_tokens)
        values["admin_tokens"] = [
            f"{t.name}{'' if t.role is Role.ADMIN else f':{t.role}'}=***" for t in tokens
        ]
        values["redis_url"] = mask_url(self.redis_url)
        return values


SETTINGS = settings_of(Settings)
"""By name."""


def _read_sources() -> dict[str, Any]:
    """The values from the environment and the file, without unknown names."""
    filed = {name: value for name, value in read_file().items() if name in SETTINGS}
    return filed | read_environment(SETTINGS)


def _refuse_unknown(names: Iterable[str], where: str = "") -> None:
    unknown = [name for name in names if name not in SETTINGS]
    if unknown:
        raise SettingsError(
            "; ".join(
                f"unknown setting {name!r}{where}{did_you_mean(name.lower(), SETTINGS)}"
                for name in unknown
            )
        )


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings of this process. ``overrides``: values from the command line by field name,
    which take precedence; None means not given.

    Raises:
        SettingsError: some setting is wrong. The message names each one.
    """
    if unknown := unknown_names(SETTINGS):
        raise SettingsError(
            f"unknown setting {', '.join(unknown)}: correct the name or unset it "
            "(`glance-resolver config` lists all)"
        )
    _refuse_unknown(read_file(), f" in {settings_file()}")
    chosen = {name: value for name, value in (overrides or {}).items() if value is not None}
    return Settings(**chosen)


def settings_despite_faults() -> tuple[Settings, frozenset[str]]:
    """The settings of this process for somebody who looks for what is wrong with them: unknown
    names are left out, and those with a wrong value, which come too, have their default.

    Raises:
        SettingsError: they cannot be read at all, or they contradict each other.
    """
    _, faults = read_values(Settings, _read_sources())
    return Settings(**{name: SETTINGS[name].default for name in faults}), frozenset(faults)
