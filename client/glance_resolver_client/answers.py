"""What the gateway knows of an image: found, absent or unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from glance_resolver_client.errors import GatewayError, ImageAbsentError, ImageUnknownError


@dataclass(frozen=True, slots=True)
class Owner:
    """A location that has the image."""

    location: str
    region: str | None
    uri: str
    """The image's identifier there, ``<location>/v1/images/<ID>``. It may not be fetchable."""
    url: str
    """What can be fetched there."""
    health: str
    state: str
    status: str | None
    """``active``, ``pending``, ``deactivated`` or ``dead``; None where it is not known."""
    digest: str | None
    """The first 8 bytes of its hash in hex, where the location was asked for this answer."""


@dataclass(frozen=True, slots=True)
class Found:
    """Locations have the image."""

    id: str
    owners: tuple[Owner, ...]
    """Best first; at least one."""
    conflict: bool
    """Whether owners are known to have different bytes under this id."""
    source: str | None = None
    """``index``, ``cache``, ``probe`` or ``stale``."""
    age: float | None = None
    """Seconds since that was true."""

    @property
    def url(self) -> str:
        """What can be fetched at the best owner."""
        return self.owners[0].url

    @property
    def uri(self) -> str:
        """The image's identifier at the best owner."""
        return self.owners[0].uri

    def require(self) -> Found:
        """This answer. Those of the other classes raise."""
        return self


@dataclass(frozen=True, slots=True)
class Absent:
    """Every location has been asked, and none has the image."""

    id: str
    proof: str | None = None
    """``asked`` or ``covered``."""

    def require(self) -> NoReturn:
        """Raises ImageAbsentError."""
        raise ImageAbsentError(f"no location has image {self.id}")


@dataclass(frozen=True, slots=True)
class Unknown:
    """No owner is known, and some location could not answer. The image may exist."""

    id: str
    missing: tuple[str, ...] = ()
    """The locations that could not answer."""
    detail: str = ""
    retry_after: float | None = None
    """Seconds after which the gateway asks to be called again."""

    def require(self) -> NoReturn:
        """Raises ImageUnknownError."""
        reason = self.detail or f"these could not answer: {', '.join(self.missing) or 'the index'}"
        raise ImageUnknownError(f"no owner of image {self.id} is known now: {reason}")


@dataclass(frozen=True, slots=True)
class Invalid:
    """Of many ids, one that is not a UUID."""

    id: str

    def require(self) -> NoReturn:
        """Raises ValueError."""
        raise ValueError(f"{self.id!r} is not an image id, which is a UUID")


Answer = Found | Absent | Unknown | Invalid


def parse_answer(document: Mapping[str, Any], retry_after: float | None = None) -> Answer:
    """The answer in a JSON object of the gateway. Members that it does not know are ignored.

    Raises:
        GatewayError: it is not an answer.
    """
    try:
        image_id = str(document["id"])
        match document["outcome"]:
            case "found" if document["owners"]:
                owners = tuple(_parse_owner(owner) for owner in document["owners"])
                source, age = document.get("source"), document.get("age")
                return Found(image_id, owners, bool(document["conflict"]), source, age)
            case "absent":
                return Absent(image_id, document.get("proof"))
            case "unknown":
                missing = tuple(str(name) for name in document["missing"])
                return Unknown(image_id, missing, str(document.get("detail", "")), retry_after)
            case "invalid":
                return Invalid(image_id)
    except (AttributeError, KeyError, TypeError):
        pass
    raise GatewayError("the gateway sent an answer that this client cannot read")


def _parse_owner(owner: Mapping[str, Any]) -> Owner:
    return Owner(
        location=str(owner["location"]),
        region=owner.get("region"),
        uri=str(owner["uri"]),
        url=str(owner["url"]),
        health=str(owner["health"]),
        state=str(owner["state"]),
        status=owner.get("status"),
        digest=owner.get("digest"),
    )
