"""Domain types: image ids, locations, and what is known about each location."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, NamedTuple

from resolver.errors import InvalidImageId
from resolver.image_facts import Content, ImageStatus
from resolver.location_fields import (
    METADATA_KEY,
    FieldSpec,
    choice_parser,
    parse_base_url,
    parse_bool,
    parse_credential_source,
    parse_networks,
    parse_notification_source,
    parse_number,
    parse_optional_text,
    parse_public_url,
    parse_rate,
    parse_sees_all,
    spec,
)

MIN_BITS, MAX_BITS = 4, 28
"""Range of ``bits``: an index has ``1 << bits`` buckets."""

QUICK_POLL_SECONDS = 1.0

_DASHED = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_PLAIN = re.compile(r"[0-9a-fA-F]{32}", re.ASCII)
_V2_MINOR = re.compile(r"v2\.[0-9]{1,6}", re.ASCII)


def parse_id(text: str) -> bytes:
    """The 16 bytes of an image id.

    Accepted are the dashed form that Glance writes, upper case, the form without dashes, and the
    prefix ``urn:uuid:`` (RFC 9562).

    Raises:
        InvalidImageId: the text has none of these forms.
    """
    if text[:9].lower() == "urn:uuid:":
        text = text[9:]
    if _DASHED.fullmatch(text) or _PLAIN.fullmatch(text):
        return bytes.fromhex(text.replace("-", ""))
    shown = text if len(text) <= 64 else text[:61] + "..."
    raise InvalidImageId(
        f"{shown!r} is not an image id: give a UUID such as 0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d; "
        "/resolve?name=NAME looks images up by name"
    )


def letter_case_of(text: str) -> int:
    """Which of the 32 hex digits of an image id are upper case, as 32 bits; bit 31 is the first
    digit. 0 means all lower case, which is usual.

    Glance stores an id as its creator spelled it. On SQLite and PostgreSQL it finds the image by
    exactly that spelling.
    """
    digits = text.replace("-", "")[-32:]
    if digits == digits.lower():
        return 0
    return int("".join("1" if c.isupper() else "0" for c in digits), 2)


def parse_stored_id(text: object) -> tuple[bytes, int]:
    """The bytes and the letter case (see `letter_case_of`) of an image id that a Glance server
    wrote.

    Glance finds an image by exactly the text of its id, and an index entry only knows the letter
    case of the dashed form. An id in another form is another name: under its dashed form the server
    answers 404.

    Raises:
        InvalidImageId: it is not the dashed form of a UUID.
    """
    if not isinstance(text, str) or not _DASHED.fullmatch(text):
        raise InvalidImageId(f"{str(text)[:64]!r} is not the dashed form of a UUID")
    return bytes.fromhex(text.replace("-", "")), letter_case_of(text)


def format_id(image_id: bytes, letter_case: int = 0) -> str:
    """The dashed text of an image id of 16 bytes, with the digits that ``letter_case`` names (see
    `letter_case_of`) in upper case."""
    digits = image_id.hex()
    if letter_case:
        digits = "".join(
            c.upper() if letter_case >> (31 - i) & 1 else c for i, c in enumerate(digits)
        )
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Owner(NamedTuple):
    """One claim on an image: the location's number, how that location spells the image id, and what
    is known of the image there."""

    number: int
    letter_case: int = 0
    status: ImageStatus | None = None
    """The image's status there; None: not known."""
    content: Content | None = None
    """What the image's bytes are there; None: not known."""


class State(StrEnum):
    """How an operator wants a location to be used."""

    ACTIVE = "active"
    DRAINING = "draining"
    """Offered only when no active location has the image."""
    MAINTENANCE = "maintenance"
    """Never offered. Images that only this location has are answered 503 with the reason."""


class Api(StrEnum):
    """Which version of the Glance API is used with a location."""

    AUTO = "auto"
    V1 = "v1"
    V2 = "v2"


class Health(StrEnum):
    """Result of the health checks of a location."""

    UP = "up"
    UNKNOWN = "unknown"
    DOWN = "down"


def _unknown_fields() -> Any:
    """The member ``unknown`` of each stored record: fields that a newer version has written. They
    are written back with the record."""
    return field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A registered Glance server, as operators describe it. Stored in Redis.

    Operators may write the fields that have a `spec`; `LOCATION_FIELDS` lists them. To add a field,
    declare it here: ``tests/registry/test_fields.py`` then names what must follow.
    """

    name: str
    number: int = 0
    """Assigned by the index at registration and never reused. Claims refer to it."""
    url: str = field(
        metadata=spec(
            parse_base_url,
            "Base URL, without `/v1` or `/v2`. Another URL is another server: its claims start "
            "from nothing.",
            example="https://cloud.example/image",
            options=("--url",),
        )
    )
    public_url: str = field(
        default="",
        metadata=spec(
            parse_public_url,
            "Base URL that clients are sent to; empty: `url`, which the resolver itself uses.",
            example="https://public.cloud.example/image",
            options=("--public-url",),
        ),
    )
    region: str = field(
        default="",
        metadata=spec(
            parse_optional_text,
            "The region of its images, for clients that ask for one and for `RESOLVER_REGION`.",
            example="eu-north",
            options=("--region",),
        ),
    )
    networks: tuple[str, ...] = field(
        default=(),
        metadata=spec(
            parse_networks,
            "Networks whose clients prefer its region.",
            example=["10.1.0.0/16", "2001:db8::/32"],
            options=("--networks",),
        ),
    )
    domain: str = field(
        default="",
        metadata=spec(
            parse_optional_text,
            "The name of the Keystone that its tokens come from. A client's token never goes to a "
            "location of another one.",
            example="north-keystone",
            options=("--domain",),
        ),
    )
    api: Api = field(
        default=Api.AUTO,
        metadata=spec(
            choice_parser(Api),
            "`auto` (read from its `/versions`), `v1` or `v2`.",
            example="v2",
            options=("--api",),
            changes_contents=True,
        ),
    )
    priority: int = field(
        default=100,
        metadata=spec(
            parse_number,
            "Owners with a lower number are offered first.",
            example=50,
            options=("--priority",),
        ),
    )
    weight: int = field(
        default=1,
        metadata=spec(
            parse_number,
            "Share of the images among owners of equal rank.",
            example=2,
            options=("--weight",),
        ),
    )
    state: State = field(
        default=State.ACTIVE,
        metadata=spec(
            choice_parser(State),
            "`active`; `draining`: offered last; `maintenance`: never offered, and its images are "
            "answered 503 with the reason.",
            example="draining",
            options=("--state",),
        ),
    )
    reason: str = field(
        default="",
        metadata=spec(
            parse_optional_text,
            "Why it is in that state. Clients see it.",
            example="new disks",
            options=("--reason",),
        ),
    )
    rate: float = field(
        default=0.0,
        metadata=spec(
            parse_rate,
            "Requests a second that the server allows all processes together; 0: no limit.",
            example=2.5,
            options=("--rate",),
        ),
    )
    vouches: bool = field(
        default=True,
        metadata=spec(
            parse_bool,
            "Whether an image is absent only if this location too says so. `false`: it is asked, "
            "but its silence does not count.",
            example=False,
            options=("--vouches",),
        ),
    )
    sees_all: bool | None = field(
        default=None,
        metadata=spec(
            parse_sees_all,
            "Whether its credential sees every image; `null`: find out.",
            example=True,
            options=("--sees-all",),
            changes_contents=True,
        ),
    )
    auth: dict[str, str] | None = field(
        default=None,
        metadata=spec(
            parse_credential_source,
            'Where the credential for listing is: `{"token_env": "VAR"}`, '
            '`{"token_file": "/path"}` or `{"cloud": "name in clouds.yaml"}`, with `"region"` if '
            "the cloud has several. Never the credential itself.",
            example={"token_env": "GLANCE_OSLO_TOKEN"},
            options=("--token-env", "--token-file", "--cloud", "--cloud-region", "--no-auth"),
            changes_contents=True,
        ),
    )
    notifications: dict[str, str] | None = field(
        default=None,
        metadata=spec(
            parse_notification_source,
            'Where the URL of its message broker is: `{"url_env": "VAR"}` or '
            '`{"url_file": "/path"}`, with `exchange` and `topic` if they are unusual. Never the '
            "URL itself.",
            example={"url_file": "/run/secrets/oslo-broker", "topic": "images"},
            options=("--broker-env", "--broker-file", "--no-notifications"),
        ),
    )
    created: float = 0.0
    updated: float = 0.0
    unknown: Mapping[str, Any] = _unknown_fields()

    @property
    def base(self) -> str:
        """The base URL that clients are sent to."""
        return self.public_url or self.url


LOCATION_FIELDS: dict[str, FieldSpec] = {
    item.name: item.metadata[METADATA_KEY]
    for item in fields(Location)
    if METADATA_KEY in item.metadata
}
"""The fields of a location that operators may write, by name, in the order of their declaration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of a location's health."""

    at: float
    health: Health
    reason: str = ""
    unknown: Mapping[str, Any] = _unknown_fields()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The state of a location's health checks."""

    at: float
    """When the last check started."""
    health: Health = Health.UNKNOWN
    failures: int = 0
    """Consecutive failed checks."""
    successes: int = 0
    """Consecutive good checks while the location is down."""
    reason: str = ""
    versions: tuple[str, ...] = ()
    """Glance's version ids, such as ``v2.15``, from the last check that could read them."""
    versions_at: float = 0.0
    """When the versions were read."""
    changes: tuple[Change, ...] = ()
    """The latest changes of health, newest first."""
    unknown: Mapping[str, Any] = _unknown_fields()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The sweeps of a location: the last complete one, and the last failure since then."""

    started: float | None = None
    ended: float | None = None
    """When the last complete sweep ended; None before the first."""
    images: int = 0
    """Images that the last complete sweep listed."""
    claimed: int = 0
    released: int = 0
    counts_are_exact: bool = True
    """False: a reply of Redis was lost, so that more may have been claimed or released."""
    skipped: int = 0
    """Rows of its listing that name no image."""
    skipped_examples: str = ""
    """Some of their ids, as JSON."""
    conflicts: int = 0
    """Images whose bytes another location is known to have otherwise."""
    listing_gap: str = ""
    """Why the listing may leave images out that the credential sees; empty if it does not."""
    sees_all: bool | None = None
    """Whether the credential of that sweep saw every image; None: it could not be found out."""
    sees_all_why: str = ""
    sees_all_proven: bool = False
    """Whether the server showed it, so that it is not only registered. It must show it again before
    a "no" to this credential counts."""
    error: str = ""
    """Why the latest attempt failed; empty if it succeeded."""
    error_code: str = ""
    failed: float | None = None
    guarded: float | None = None
    """When the shrink guard tripped since the last complete sweep; None: it did not. Until a sweep
    is complete, nothing is released and the location's "no" proves nothing."""
    losses: int = 0
    """How often Redis may have lost claims when the last complete sweep began."""
    unknown: Mapping[str, Any] = _unknown_fields()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A sweep that is running, and where another indexer would resume it."""

    started: float
    images: int = 0
    claimed: int = 0
    before: int = 0
    """Claims of the location before the sweep."""
    skipped: int = 0
    """Rows that name no image."""
    skipped_examples: str = ""
    """Some of their ids, as JSON."""
    conflicts: int = 0
    """Images whose bytes another location is known to have otherwise."""
    front: str = ""
    """The image id up to which everything listed is claimed."""
    markers: tuple[str, ...] = ()
    """For each pass of the listing, a marker from which it can resume without a gap."""
    listing_gap: str = ""
    """Why the listing may leave images out."""
    at: float = 0.0
    losses: int = 0
    """How often Redis may have lost claims when the sweep began."""
    unordered: int = 0
    """Images whose ids are not random: they say nothing of how many there are after them."""
    unknown: Mapping[str, Any] = _unknown_fields()


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """The polls of a location: the last successful one, and the last failure since then."""

    ended: float | None = None
    mark: float = 0.0
    """The time on the server's clock up to which its changes are known."""
    images: int = 0
    """Images that the poll listed as changed."""
    claimed: int = 0
    released: int = 0
    error: str = ""
    error_code: str = ""
    failed: float | None = None
    began: float | None = None
    """When the last successful poll began: it shows what had changed by then. None where that was
    at most `QUICK_POLL_SECONDS` before it ended. (Few polls have it, since older versions cannot
    read those.)"""
    unknown: Mapping[str, Any] = _unknown_fields()


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionStatus:
    """The AMQP subscription to a location's notifications."""

    connected: bool = False
    since: float = 0.0
    """When the subscription was connected, or lost."""
    at: float = 0.0
    """When the indexer that holds the subscription last confirmed this state."""
    error: str = ""
    error_code: str = ""
    unknown: Mapping[str, Any] = _unknown_fields()


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything that the processes found out about a location."""

    check: Check | None = None
    sweep: Sweep = field(default_factory=Sweep)
    poll: Poll = field(default_factory=Poll)
    subscription: SubscriptionStatus | None = None


class Outcome(StrEnum):
    """The answer about one image id."""

    FOUND = "found"
    ABSENT = "absent"
    UNKNOWN = "unknown"
    INVALID = "invalid"


def api_versions(versions: tuple[str, ...]) -> tuple[bool, bool]:
    """Whether a server with these version ids serves (v1, v2)."""
    return (
        any(v == "v1" or v.startswith("v1.") for v in versions),
        any(v == "v2" or v.startswith("v2.") for v in versions),
    )


def minor_version(versions: tuple[str, ...]) -> int:
    """The highest N of the version ids ``v2.N``; -1 if v2 is not served."""
    minors = [int(v[3:]) for v in versions if _V2_MINOR.fullmatch(v)]
    return max(minors, default=-1)
