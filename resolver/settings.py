"""Settings: environment over a TOML file over defaults.

Every field here is ``RESOLVER_<NAME>`` in the environment and ``name`` in the TOML file that
``RESOLVER_CONFIG`` names. An unknown name is an error, so that a misspelt one is not ignored.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from resolver.errors import SettingsError
from resolver.models import MAX_BITS, MIN_BITS

PREFIX = "RESOLVER_"

ELSEWHERE = frozenset({"RESOLVER_CONFIG", "RESOLVER_URL", "RESOLVER_TOKEN"})
"""Names in the same environment that are no settings of the server: the file, and what the
operator commands use."""

Seconds = Annotated[float, Field(gt=0, le=86400 * 30)]
Names = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """All settings of ``glance-resolver serve``. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    redis_url: str = Field(
        "memory:",
        description="Where the index is: `redis://`, `unix://`, "
        "`redis+sentinel://h1,h2/service/db`, `redis+cluster://h1,h2`, or `memory:` "
        "(in this process, kept nowhere). `rediss` instead of `redis` means TLS, with "
        "`?ssl_ca_certs=FILE`, `&ssl_certfile=FILE&ssl_keyfile=FILE` where those are wanted.",
    )
    prefix: str = Field("glr:", description="What all Redis keys begin with.")
    index_bits: int | None = Field(
        None,
        ge=MIN_BITS,
        le=MAX_BITS,
        description="Buckets of a new index, as a power of two; 16 when unset, 8 on `memory:`. "
        "Fixed when the index is made.",
    )
    index_timeout: Seconds = Field(
        0.25, description="How long a request waits for Redis before it is answered without it."
    )
    stale_for: float = Field(
        3600.0,
        ge=0,
        le=86400 * 30,
        description="How long what this process knew last will do while Redis does not answer; 0: "
        "not at all.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(9393, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    tls_cert: str = Field(
        "",
        description="PEM file of this gateway's certificate, with the intermediate ones behind it: "
        "https (TLS 1.2 or newer) and no http is spoken then. Looked at with each connection, and "
        "read again when it changes.",
    )
    tls_key: str = Field(
        "",
        description="PEM file of its private key, without a passphrase; unset: it is in the "
        "certificate's file.",
    )
    role: Literal["all", "gateway", "indexer"] = Field(
        "all", description="`gateway` answers, `indexer` sweeps, `all` does both."
    )
    workers: int = Field(
        1,
        ge=1,
        le=256,
        description="Processes that answer at one address, where there are cores for them; "
        "more than 1 needs a Redis.",
    )
    public_url: str = Field(
        "",
        description="This gateway's own URL as clients know it, for version documents; "
        "from the request's `Host` when unset.",
    )
    region: str = Field("", description="The home region: its owners are preferred.")
    locations_file: str = Field(
        "", description="YAML file of locations to register at start (also `--locations`)."
    )
    admin_tokens: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Tokens for the admin paths, each bare or `name=token`; `name:ro=token` may "
        "only read.",
    )
    admin_tokens_file: str = Field(
        "",
        description="More of them, one a line, in a file that is read again when it changes.",
    )
    allowed_hosts: Names = Field(
        (),
        description="Hosts that locations may have: names, `*.suffix`, addresses, networks "
        "(`10.0.0.0/8`). Looked at with each connection; a name vouches for all its addresses but "
        "loopback and link-local ones. Empty: any.",
    )
    require_https: bool = Field(
        False, description="Refuse locations with http, except on loopback."
    )
    redirect_writes: bool = Field(
        False,
        description="Redirect small writes (PATCH, DELETE, tags, members, actions) too. "
        "Uploads are never redirected.",
    )
    bulk_limit: int = Field(
        10_000, ge=1, le=1_000_000, description="Most ids in one `POST /resolve`."
    )
    client_rate: float = Field(
        1000.0,
        ge=0,
        le=1_000_000,
        description="What is dear and one client may have a second, at each worker: ids that "
        "locations are asked about, `/explain`, and every 500 ids of a `POST /resolve`. Ten "
        "seconds' worth may come at once; past it 429. Known images are redirected all the same. "
        "0: no limit.",
    )
    client_timeout: Seconds = Field(
        30.0,
        description="How long a client may take to send a request's head, or its body (an import: "
        "to go on with it), and to take what it is sent.",
    )
    max_connections: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Clients' connections that a worker has open at most. Past it idle ones are "
        "closed; where none is idle, new ones wait.",
    )
    trusted_proxies: Names = Field(
        (),
        description="Addresses and networks of the proxies in front (`10.0.0.0/8`), whose "
        "`X-Forwarded-For` says who a client is.",
    )
    sweep_interval: Seconds = Field(
        300.0,
        description="Time between two sweeps of a location. A sweep counts as fresh for twice "
        "this long and its own duration.",
    )
    poll_interval: float = Field(
        30.0,
        ge=0,
        le=86400,
        description="Time between two polls, which read what changed at a location since the last; "
        "0 turns them off.",
    )
    probe: bool = Field(
        True,
        description="Whether the locations themselves are asked about an id that the index does "
        "not know: `on` or `off`.",
    )
    probe_timeout: Seconds = Field(
        2.0, description="How long a location may take to answer about one image."
    )
    probes_per_location: int = Field(
        32,
        ge=1,
        le=1000,
        description="Questions under way at one location at most; past it an unknown id is "
        "answered 503.",
    )
    probes_at_once: int = Field(
        1024, ge=1, le=100_000, description="Questions under way at all locations, likewise."
    )
    absent_ttl: float = Field(
        10.0,
        ge=0,
        le=3600,
        description="How long a location's word that it does not have an image is remembered. "
        "No longer than `RESOLVER_CACHE_TTL`.",
    )
    cache_size: int = Field(
        250_000,
        ge=0,
        le=100_000_000,
        description="Ids whose owners a gateway keeps in its memory, some 200 bytes each; 0 turns "
        "that off.",
    )
    cache_ttl: Seconds = Field(
        60.0,
        description="How long they are kept at most. Redis tells of changes at once; this is for "
        "when it does not.",
    )
    health_interval: Seconds = Field(
        15.0,
        description="Time between two looks at a location's health. Three failed looks in a row, "
        "the second and third of them sooner, make it down; three good ones up again.",
    )
    location_timeout: Seconds = Field(
        30.0, description="How long one request to a Glance server may take in all."
    )
    shrink_guard: float = Field(
        0.2,
        ge=0,
        le=1,
        description="The share of a location's images that one sweep may release without an "
        "operator's word. It applies to more than 10 images; an empty listing always needs it.",
    )
    shutdown_timeout: Seconds = Field(
        10.0, description="How long requests in flight may take to end after SIGTERM."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="`auto`: text on a terminal, JSON otherwise."
    )
    access_log: Literal["off", "errors", "all"] = Field(
        "all", description="Which requests get a log line: none, those of status 400 and up, all."
    )

    @field_validator("admin_tokens", "allowed_hosts", "trusted_proxies", mode="before")
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

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            if "/" in item:
                ipaddress.ip_network(item, strict=False)
            elif "*" in item.removeprefix("*.") or not item.removeprefix("*."):
                raise ValueError(f"{item!r} is no host name, *.suffix, address or network")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            ipaddress.ip_network(item)
        return value

    @field_validator("public_url")
    @classmethod
    def _public(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("it must be an http or https URL")
        return value.rstrip("/")

    @field_validator("prefix")
    @classmethod
    def _prefix(cls, value: str) -> str:
        if not value or not value.isascii() or not value.isprintable() or set(value) & set("{} "):
            raise ValueError("it must be printable ASCII without braces and spaces")
        return value

    @model_validator(mode="after")
    def _lifetimes(self) -> Settings:
        if self.absent_ttl > self.cache_ttl:
            raise ValueError(
                f"RESOLVER_ABSENT_TTL: {self.absent_ttl:g} s is longer than RESOLVER_CACHE_TTL, "
                f"{self.cache_ttl:g} s: a no must not outlive a yes"
            )
        return self

    @model_validator(mode="after")
    def _key(self) -> Settings:
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
        if not file:
            return init_settings, env_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(file))

    def shown(self) -> dict[str, Any]:
        """The settings as plain values, secrets masked."""
        values = self.model_dump(mode="json")
        tokens = (parse_token(token.get_secret_value()) for token in self.admin_tokens)
        values["admin_tokens"] = [f"{t.name}{':ro' * t.read_only}=***" for t in tokens]
        values["redis_url"] = mask_url(self.redis_url)
        return values


class AdminToken(NamedTuple):
    """Somebody who may use the admin paths."""

    name: str
    token: str
    read_only: bool = False


_TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}", re.ASCII)


def parse_token(text: str) -> AdminToken:
    """An entry of RESOLVER_ADMIN_TOKENS: ``TOKEN``, ``NAME=TOKEN`` or ``NAME:ro=TOKEN``.

    Raises:
        ValueError: it is none of these. The message does not show it.
    """
    name, equals, token = text.partition("=")
    if not (equals and token):
        name, token = "admin", text
    name, read_only, _ = name.partition(":ro") if name.endswith(":ro") else (name, "", "")
    if len(token) < 6 or not token.isascii() or not token.isprintable() or " " in token:
        name = ""
    if not _TOKEN_NAME.fullmatch(name):
        raise ValueError(
            "must be TOKEN, NAME=TOKEN or NAME:ro=TOKEN, "
            "with a TOKEN of at least 6 ASCII characters"
        )
    return AdminToken(name, token, bool(read_only))


def mask_url(url: str) -> str:
    """A URL without its password, which Redis URLs may have in the query too."""
    url = re.sub(r"([?&](?:ssl_)?password=)[^&#]*", r"\1***", url)
    scheme, mark, rest = url.partition("://")
    login, at, hosts = rest.rpartition("@")
    if not at:
        return url
    return f"{scheme}{mark}{login.partition(':')[0]}:***@{hosts}"


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings of this process; ``overrides`` (from the command line) come first.

    Raises:
        SettingsError: one line a fault, each with the name to correct.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields} | ELSEWHERE
    unknown = sorted(
        name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known
    )
    if unknown:
        raise SettingsError(
            f"unknown setting {', '.join(unknown)}: correct the name or unset it "
            "(`glance-resolver config` lists all)"
        )
    file = os.environ.get("RESOLVER_CONFIG")
    if file and not Path(file).is_file():
        raise SettingsError(f"RESOLVER_CONFIG names {file}, which is no file")
    try:
        return Settings(**{k: v for k, v in (overrides or {}).items() if v is not None})
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_input=False, include_url=False):
            name = str(fault["loc"][0]) if fault["loc"] else "?"
            message = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "extra_forbidden":
                faults.append(f"unknown setting {name!r} in {file}")
            elif not fault["loc"]:  # about several: it names them
                faults.append(message)
            else:
                faults.append(f"{PREFIX}{name.upper()}: {message}")
        raise SettingsError("; ".join(faults)) from error
    except RecursionError as error:
        raise SettingsError(f"RESOLVER_CONFIG {file}: it is nested too deeply") from error
    except (ValueError, OSError) as error:
        raise SettingsError(f"RESOLVER_CONFIG {file}: {error}") from error
