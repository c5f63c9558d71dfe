"""Settings, from the environment, a TOML file and defaults, in this order of precedence.

Every field is ``RESOLVER_<NAME>`` in the environment and ``name`` in the TOML file that
``RESOLVER_CONFIG`` names. An unknown name is an error, so that a misspelled one is not ignored.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from resolver.admin_tokens import Role, parse_token
from resolver.environment import Environment
from resolver.errors import SettingsError, without_middle
from resolver.keystone_urls import parse_domains
from resolver.location_fields import refuse_mapped_ipv4
from resolver.masking import mask_url
from resolver.models import MAX_BITS, MIN_BITS
from resolver.setting_names import PREFIX, fault_text, unknown_names
from resolver.suggestions import did_you_mean

Seconds = Annotated[float, Field(gt=0, le=86400 * 30)]
Names = Annotated[tuple[str, ...], NoDecode]
MAX_FILE_BYTES = 1024 * 1024


class Settings(BaseSettings):
    """All settings of ``glance-resolver serve``. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    redis_url: str = Field(
        "memory:",
        description="The Redis that holds the index: `redis://`, `unix://`, "
        "`redis+sentinel://h1,h2/service/db` or `redis+cluster://h1,h2`; or `memory:`, which is "
        "the memory of this process and is lost when it ends. `rediss` instead of `redis` means "
        "TLS, with the options `?ssl_ca_certs=FILE` and "
        "`&ssl_certfile=FILE&ssl_keyfile=FILE` if they are needed. "
        "`?sentinel_username=NAME&sentinel_password=PASSWORD` is the login at the Sentinels.",
    )
    redis_url_file: str = Field(
        "",
        description="File that holds that URL instead. It is read again when it changes, and the "
        "new URL is used once a Redis answers there, so that a password is changed without a "
        "restart.",
    )
    prefix: str = Field("glr:", description="Prefix of all Redis keys.")
    index_bits: int | None = Field(
        None,
        ge=MIN_BITS,
        le=MAX_BITS,
        description="Number of buckets of a new index as a power of two, which then does not "
        "change by itself. Unset: it begins with 8 and grows with the images. An existing index "
        "keeps its own number.",
    )
    index_timeout: Seconds = Field(
        0.25, description="How long a request waits for Redis before it is answered without it."
    )
    stale_for: float = Field(
        3600.0,
        ge=0,
        le=86400 * 30,
        description="How long the last data in this process are used while Redis does not answer; "
        "0: not at all.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(9393, ge=0, le=65535, description="Port to listen on; 0 chooses a free one.")
    management_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of its own for the admin paths, `/metrics`, `/index`, `/status`, "
        "`/report` and the status page, which are then not on the other port. Unset: one port has "
        "all.",
    )
    management_host: str = Field("127.0.0.1", description="Address to listen on with that port.")
    tls_cert: str = Field(
        "",
        description="PEM file of this gateway's certificate, followed by the intermediate "
        "certificates. If set, the gateway speaks only https (TLS 1.2 or newer). The file is "
        "checked at each connection and read again when it changes.",
    )
    tls_key: str = Field(
        "",
        description="PEM file of the certificate's private key, without a passphrase; if unset, "
        "the key is in the certificate's file.",
    )
    role: Literal["all", "gateway", "indexer"] = Field(
        "all",
        description="`gateway` answers requests, `indexer` sweeps locations, `all` does both.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Number of processes that answer at one address, useful up to the number of "
        "cores. More than 1 needs a Redis.",
    )
    public_url: str = Field(
        "",
        description="The URL of this gateway that clients use, for version documents. If unset, it "
        "is made from the request's `Host`.",
    )
    hosts: Names = Field(
        (),
        description="More names of this gateway, besides that of `RESOLVER_PUBLIC_URL`: names and "
        "`*.suffix`. With either set, a request to another `Host` is answered 421, but for "
        "addresses, names without a dot and the health paths.",
    )
    region: str = Field("", description="The home region. Owners in it are preferred.")
    locations_file: str = Field(
        "", description="YAML file of locations to register at start (also `--locations`)."
    )
    admin_tokens: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Tokens for the admin paths, each written as `token`, `name=token` or "
        "`name:role=token`. Roles: `ro` only reads; `claims` also claims and releases images; "
        "`state` also changes the state of locations; `admin`, the default, may do everything.",
    )
    admin_tokens_file: str = Field(
        "",
        description="File with more admin tokens, one per line. It is read again when it changes. "
        "A line that is not a token is ignored and reported.",
    )
    allowed_hosts: Names = Field(
        (),
        description="Hosts that locations may have: names, `*.suffix`, addresses and networks "
        "(`10.0.0.0/8`). They are checked at each connection. A name allows all its addresses "
        "except loopback and link-local ones. Empty: any host.",
    )
    require_https: bool = Field(
        False, description="Refuse locations with http, except on loopback."
    )
    secret_files: Names = Field(
        ("/run/secrets/*",),
        description="Files that may hold credentials of locations (`token_file`, `url_file`), as "
        "patterns with `*`. Unset, also those in the folder of `RESOLVER_LOCATIONS_FILE`. Files "
        "that settings name are never read for a location.",
    )
    secret_envs: Names = Field(
        ("GLANCE_*",),
        description="Environment variables that may hold credentials of locations (`token_env`, "
        "`url_env`), as patterns with `*`. `RESOLVER_*` never may.",
    )
    redirect_writes: bool = Field(
        False,
        description="Also redirect small writes (PATCH, DELETE, tags, members, actions, "
        "new records). "
        "Uploads are never redirected.",
    )
    bulk_limit: int = Field(
        10_000, ge=1, le=1_000_000, description="Largest number of ids in one `POST /resolve`."
    )
    client_rate: float = Field(
        1000.0,
        ge=0,
        le=1_000_000,
        description="Expensive requests that one client may make per second, at each worker: each "
        "location that is asked about an id, a page of a listing, `/explain`, and every 500 ids of "
        "a `POST /resolve` count as one. Bursts of ten seconds' worth are allowed; more is "
        "answered 429. Known images are always redirected. 0: no limit.",
    )
    client_timeout: Seconds = Field(
        30.0,
        description="How long a client may take to send the head of a request, to send its body "
        "(for an import: the next part of it), and to receive data that was sent to it.",
    )
    max_connections: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Largest number of open client connections of a worker. When it is reached, "
        "idle connections are closed; if none is idle, new ones wait. One client (in IPv6 its "
        "/64, /56 and /48) may have half of them; clients on this host and trusted proxies, all.",
    )
    trusted_proxies: Names = Field(
        (),
        description="Addresses and networks (`10.0.0.0/8`) of the proxies in front of this "
        "gateway. Their `X-Forwarded-For` names the client, and `X-Forwarded-Proto` its scheme.",
    )
    sweep_interval: Seconds = Field(
        300.0,
        description="Time between two sweeps of a location. A sweep counts as fresh for twice "
        "this time plus its own duration.",
    )
    poll_interval: float = Field(
        30.0,
        ge=0,
        le=86400,
        description="Time between two polls of a location, which read what changed since the last "
        "one; 0 turns polls off.",
    )
    probe: bool = Field(
        True,
        description="Whether locations are asked about an id that is not in the index: `on` or "
        "`off`.",
    )
    probe_timeout: Seconds = Field(
        2.0, description="How long a location may take to answer about one image."
    )
    probes_per_location: int = Field(
        32,
        ge=1,
        le=1000,
        description="Largest number of concurrent probes of one location. When it is reached, an "
        "unknown id is answered 503.",
    )
    probes_at_once: int = Field(
        1024,
        ge=1,
        le=100_000,
        description="Largest number of concurrent probes of all locations, with the same effect. "
        "One id at a time is asked even if there are more locations than this.",
    )
    listing: bool = Field(
        True,
        description="Whether `GET /v2/images` lists the images of all locations: `on` or `off`. "
        "The client's own token goes to every location in service.",
    )
    listing_partial: bool = Field(
        False,
        description="Whether a listing without the images of locations that do not answer is given "
        "to every client, and not only to those that send `X-Resolver-Partial: allow`.",
    )
    listing_timeout: Seconds = Field(
        10.0, description="How long the locations may take to answer one request for a listing."
    )
    read_auth: Literal["none", "token", "caller"] = Field(
        "none",
        description="Who may read. `token`: clients with a token that Keystone accepts. `caller`: "
        "the same, and each sees only what an owner shows to its token.",
    )
    domains: Names = Field(
        (),
        description="The Keystone of each `domain` of locations: `NAME=https://keystone/v3`; for "
        "locations without one, the URL alone. Unset: that of the location's cloud.",
    )
    absent_proof: Literal["asked", "covered"] = Field(
        "asked",
        description="What proves that a location lacks an image. `asked`: it was asked just now. "
        "`covered`: what the index has of it is complete and no older than `RESOLVER_ABSENT_AGE`; "
        "then it is not asked.",
    )
    absent_age: Seconds = Field(
        60.0,
        description="With `covered`: how long ago the last sweep or poll of a location may have "
        "begun. It should be longer than `RESOLVER_POLL_INTERVAL`, or without polls than "
        "`RESOLVER_SWEEP_INTERVAL`, else `/status` has the problem `absent-age-short`.",
    )
    absent_ttl: float = Field(
        10.0,
        ge=0,
        le=3600,
        description="How long a gateway caches that a location does not have an image. "
        "Not longer than `RESOLVER_CACHE_TTL`.",
    )
    cache_size: int = Field(
        250_000,
        ge=0,
        le=100_000_000,
        description="Number of ids whose owners a gateway caches in memory, 134 bytes each; "
        "0 turns the cache off.",
    )
    cache_ttl: Seconds = Field(
        60.0,
        description="How long owners are cached at most. Redis announces changes at once; this "
        "limit is for announcements that were lost.",
    )
    health_interval: Seconds = Field(
        15.0,
        description="Time between two health checks of a location. After three consecutive failed "
        "checks (the second and third follow sooner) it is down, after three good ones up again.",
    )
    location_timeout: Seconds = Field(
        30.0, description="How long one request to a Glance server may take altogether."
    )
    shrink_guard: float = Field(
        0.2,
        ge=0,
        le=1,
        description="The share of a location's images that may be released between two complete "
        "sweeps, and by a sweep, without an operator's confirmation; 10 images may be, whatever "
        "their share. An empty listing always needs the confirmation.",
    )
    shutdown_timeout: Seconds = Field(
        10.0, description="How long requests in flight may take to finish after SIGTERM."
    )
    drain_seconds: float = Field(
        0.0,
        ge=0,
        le=3600,
        description="How long the gateway goes on serving after SIGTERM, before it stops accepting "
        "connections. `/readyz` is 503 from SIGTERM on, so that load balancers can notice.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged: `debug`, `info`, `warning`, `error`."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="`text`, `json`, or `auto`: text on a terminal, JSON otherwise."
    )
    access_log: Literal["off", "errors", "clients", "all"] = Field(
        "clients",
        description="Which requests are logged. `off`: none. `errors`: those with status 400 or "
        "above. `clients`: all. Both leave out health checks and scrapes with the status of the "
        "one before. `all`: each request.",
    )
    otel: bool = Field(
        False,
        description="Make OpenTelemetry spans of requests that ask locations, of sweeps and of "
        "polls, and send them to where the variables `OTEL_*` say. Needs the extra `otel`.",
    )

    @field_validator(
        *("admin_tokens", "allowed_hosts", "trusted_proxies", "secret_files", "secret_envs"),
        *("hosts", "domains"),
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(item.strip() for item in value.split(",") if item.strip())
        return value

    @field_validator("admin_tokens")
    @classmethod
    def _tokens(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, item in enumerate(value, 1):
            try:
                parse_token(item.get_secret_value())
            except ValueError as error:
                raise ValueError(f"token {number} {error}") from error
        return value

    @field_validator("allowed_hosts", "hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            if "/" in item:
                ipaddress.ip_network(item, strict=False)
            elif "*" in item.removeprefix("*.") or not item.removeprefix("*."):
                raise ValueError(f"{item!r} is not a host name, *.suffix, address or network")
        return value

    @field_validator("secret_files")
    @classmethod
    def _absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            if not item.startswith("/"):
                raise ValueError(f"{item!r} is not an absolute path, such as /run/secrets/*")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            refuse_mapped_ipv4(ipaddress.ip_network(item))
        return value

    @field_validator("domains")
    @classmethod
    def _domains(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        parse_domains(value)
        return value

    @field_validator("public_url")
    @classmethod
    def _public(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (
            parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc
        ):
            raise ValueError("it must be an http or https URL without a user and a password")
        return value.rstrip("/")

    @field_validator("prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if not value or not value.isascii() or not value.isprintable() or set(value) & set("{} "):
            raise ValueError("it must be printable ASCII without braces and spaces")
        return value

    @model_validator(mode="after")
    def _contradictions(self) -> Settings:
        if self.absent_ttl > self.cache_ttl:
            raise ValueError(
                f"RESOLVER_ABSENT_TTL: {self.absent_ttl:g} s is longer than RESOLVER_CACHE_TTL, "
                f"{self.cache_ttl:g} s: cached absences must not outlive cached owners"
            )
        if self.read_auth == "caller" and not self.probe:
            raise ValueError("RESOLVER_READ_AUTH=caller asks locations: it needs RESOLVER_PROBE=on")
        if self.redis_url_file and "redis_url" in self.model_fields_set:
            raise ValueError("RESOLVER_REDIS_URL and RESOLVER_REDIS_URL_FILE: set only one of them")
        if self.management_port and self.management_port == self.port:
            raise ValueError("RESOLVER_MANAGEMENT_PORT must not be RESOLVER_PORT")
        if self.tls_key and not self.tls_cert:
            raise ValueError("RESOLVER_TLS_KEY is the key of a certificate: set RESOLVER_TLS_CERT")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = os.environ.get("RESOLVER_CONFIG")
        environment = Environment(settings_cls)
        if not file:
            return init_settings, environment
        return init_settings, environment, TomlConfigSettingsSource(settings_cls, Path(file))

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
        values = self.model_dump(mode="json")
        tokens = (parse_token(token.get_secret_value()) for token in self.admin_tokens)
        values["admin_tokens"] = [
            f"{t.name}{'' if t.role is Role.ADMIN else f':{t.role}'}=***" for t in tokens
        ]
        values["redis_url"] = mask_url(self.redis_url)
        return values


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings of this process. ``overrides``: values from the command line by field name,
    which take precedence; None means not given.

    Raises:
        SettingsError: some setting is wrong. The message names each one.
    """
    if unknown := unknown_names(Settings.model_fields):
        raise SettingsError(
            f"unknown setting {', '.join(unknown)}: correct the name or unset it "
            "(`glance-resolver config` lists all)"
        )
    if file := os.environ.get("RESOLVER_CONFIG"):
        if not Path(file).is_file():
            raise SettingsError(f"RESOLVER_CONFIG names {file}, which is not a file")
        if Path(file).stat().st_size > MAX_FILE_BYTES:
            raise SettingsError(f"RESOLVER_CONFIG {file}: it is longer than {MAX_FILE_BYTES} bytes")
    try:
        return Settings(**{k: v for k, v in (overrides or {}).items() if v is not None})
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_input=False, include_url=False):
            name = str(fault["loc"][0]) if fault["loc"] else "?"
            message = without_middle(fault_text(fault["type"], fault["msg"]))
            if fault["type"] == "extra_forbidden":
                meant = did_you_mean(name.lower(), Settings.model_fields)
                faults.append(f"unknown setting {name!r} in {file}{meant}")
            elif not fault["loc"]:  # about several settings, which the message names
                faults.append(message)
            else:
                faults.append(f"{PREFIX}{name.upper()}: {message}")
        raise SettingsError("; ".join(faults)) from error
    except RecursionError as error:
        raise SettingsError(f"RESOLVER_CONFIG {file}: it is nested too deeply") from error
    except (ValueError, OSError) as error:
        raise SettingsError(f"RESOLVER_CONFIG {file}: {error}") from error
