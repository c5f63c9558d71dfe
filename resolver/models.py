"""The words of the field as types: image ids, locations and what is known of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from resolver.errors import InvalidImageId

MIN_BITS, MAX_BITS = 4, 28
"""An index has ``1 << bits`` buckets."""

_DASHED = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_PLAIN = re.compile(r"[0-9a-fA-F]{32}", re.ASCII)


def parse_id(text: str) -> bytes:
    """The 16 bytes of an image id.

    Takes the dashed form that Glance writes, upper case, no dashes, and ``urn:uuid:`` (RFC 9562).

    Raises:
        InvalidImageId: for anything else.
    """
    if text[:9].lower() == "urn:uuid:":
        text = text[9:]
    if _DASHED.fullmatch(text) or _PLAIN.fullmatch(text):
        return bytes.fromhex(text.replace("-", ""))
    shown = text if len(text) <= 64 else text[:61] + "..."
    raise InvalidImageId(
        f"{shown!r} is not an image id: give a UUID such as 0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
    )


def letter_case_of(text: str) -> int:
    """Which of the 32 hex digits of a spelling are upper case: bit 31 is the first digit.

    Glance keeps an id as its creator spelt it and, on SQLite and PostgreSQL, finds it by that
    spelling only. 0 is the usual lower case.
    """
    digits = text.replace("-", "")[-32:]
    if digits == digits.lower():
        return 0
    return int("".join("1" if c.isupper() else "0" for c in digits), 2)


def format_id(image_id: bytes, letter_case: int = 0) -> str:
    """The dashed form of 16 bytes, with the digits of ``letter_case`` (see `letter_case_of`) upper case."""
    digits = image_id.hex()
    if letter_case:
        digits = "".join(
            c.upper() if letter_case >> (31 - i) & 1 else c for i, c in enumerate(digits)
        )
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Owner(NamedTuple):
    """One claim on an image: the location's number, and how that location spells the id."""

    number: int
    letter_case: int = 0


class State(StrEnum):
    """What an operator wants of a location."""

    ACTIVE = "active"
    DRAINING = "draining"
    """Offered only when no active location has the image."""
    MAINTENANCE = "maintenance"
    """Never offered; images only there answer 503 with the reason."""


class Api(StrEnum):
    """Which Glance API a location is used with."""

    AUTO = "auto"
    V1 = "v1"
    V2 = "v2"


class Health(StrEnum):
    UP = "up"
    UNKNOWN = "unknown"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A registered Glance server location, as operators write it. Kept in Redis."""

    name: str
    url: str
    number: int = 0
    """Given by the index at registration and never used twice; its claims bear it."""
    region: str = ""
    api: Api = Api.AUTO
    priority: int = 100
    """Lower is offered first."""
    weight: int = 1
    """Share among owners of equal rank."""
    state: State = State.ACTIVE
    reason: str = ""
    sees_all: bool | None = None
    """Whether the credential sees every image; None: find out."""
    auth: dict[str, str] | None = None
    """Where the credential is, never the credential itself."""
    notifications: dict[str, str] | None = None
    """Where its notifications come from; the broker's URL is named, never given."""
    created: float = 0.0
    updated: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A location's health became another."""

    at: float
    health: Health
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What looks at a location have told so far."""

    at: float
    """When the last look began."""
    health: Health = Health.UNKNOWN
    failures: int = 0
    """Failed looks in a row."""
    successes: int = 0
    """Good looks in a row while it is down."""
    reason: str = ""
    versions: tuple[str, ...] = ()
    """Glance's version ids, such as ``v2.15``; kept from the last look that could read them."""
    versions_at: float = 0.0
    """When they were read."""
    changes: tuple[Change, ...] = ()
    """The last changes of health, the newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """The last sweeps of a location: the last whole one, and the last failure after it."""

    started: float | None = None
    ended: float | None = None
    """When the last whole sweep ended; None until there was one."""
    images: int = 0
    """Images the last whole sweep listed."""
    claimed: int = 0
    released: int = 0
    sees_all: bool | None = None
    """Whether that sweep's credential saw every image; None: could not tell."""
    sees_all_why: str = ""
    error: str = ""
    """Why the latest attempt failed; empty when it did not."""
    error_code: str = ""
    failed: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A sweep under way, and where another indexer would go on with it."""

    started: float
    images: int = 0
    claimed: int = 0
    before: int = 0
    """Claims that the index had when the listing passed them."""
    front: str = ""
    """The id up to which everything listed is claimed."""
    markers: tuple[str, ...] = ()
    """For each pass of the listing, a marker from which it goes on without a gap."""
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """The last polls of a location: the last that ended well, and the last failure after it."""

    ended: float | None = None
    mark: float = 0.0
    """The server's own time up to which its changes are known."""
    images: int = 0
    """Images that it listed as changed."""
    claimed: int = 0
    released: int = 0
    error: str = ""
    error_code: str = ""
    failed: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionStatus:
    """The link to a location's notifications."""

    connected: bool = False
    since: float = 0.0
    """When it became so."""
    at: float = 0.0
    """When the indexer that holds the link last said that it is still so."""
    error: str = ""
    error_code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All that was learnt of a location, by whichever process looked."""

    check: Check | None = None
    sweep: Sweep = field(default_factory=Sweep)
    poll: Poll = field(default_factory=Poll)
    subscription: SubscriptionStatus | None = None


class Outcome(StrEnum):
    FOUND = "found"
    ABSENT = "absent"
    UNKNOWN = "unknown"
    INVALID = "invalid"


def api_versions(versions: tuple[str, ...]) -> tuple[bool, bool]:
    """(serves v1, serves v2) of Glance's version ids."""
    return (
        any(v == "v1" or v.startswith("v1.") for v in versions),
        any(v == "v2" or v.startswith("v2.") for v in versions),
    )


def minor_version(versions: tuple[str, ...]) -> int:
    """The highest N of ``v2.N``; -1 where v2 is not served."""
    minors = [int(v[3:]) for v in versions if v.startswith("v2.") and v[3:].isdigit()]
    return max(minors, default=-1)


JSON = dict[str, Any]
