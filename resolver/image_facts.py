"""What a server shows of an image besides its id: its status, and what its bytes are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

DIGEST_BYTES = 8
"""Bytes of a hash that are kept: enough to distinguish, and what answers show."""

COMPARED_ALGORITHM = "sha512"
"""Glance's default since it has ``os_hash_value``. Hashes of different algorithms say nothing about
each other, so that for any other the checksum is used."""

_SIZE = re.compile(r"[0-9]{1,19}", re.ASCII)
_HASH = re.compile(r"[0-9a-fA-F]{16,}", re.ASCII)


class ImageStatus(StrEnum):
    """Whether an image's bytes can be downloaded from a location."""

    ACTIVE = "active"
    PENDING = "pending"
    """They are not there yet."""
    DEACTIVATED = "deactivated"
    """They are there, and refused."""
    DEAD = "dead"
    """They will never be there."""

    __hash__ = str.__hash__  # claims are keys of the templates; that of Enum is not in C


STATUSES = {
    "active": ImageStatus.ACTIVE,
    "queued": ImageStatus.PENDING,
    "saving": ImageStatus.PENDING,
    "importing": ImageStatus.PENDING,
    "uploading": ImageStatus.PENDING,
    "deactivated": ImageStatus.DEACTIVATED,
    "killed": ImageStatus.DEAD,
    "pending_delete": ImageStatus.DEAD,
    "deleted": ImageStatus.DEAD,
}
"""By Glance's own status. What any other means is not known."""


STATUS_ORDER: Mapping[ImageStatus | None, int] = {
    None: 0,
    ImageStatus.ACTIVE: 0,
    ImageStatus.PENDING: 1,
    ImageStatus.DEACTIVATED: 2,
    ImageStatus.DEAD: 3,
}
"""Orders an image's owners by the image's status there, best first: where its bytes can be
downloaded as far as is known, will be there, are refused, will never be there."""


def status_of(record: Mapping[str, Any]) -> ImageStatus | None:
    """The status in a record or row of Glance; None where it is not known."""
    status = record.get("status")
    return STATUSES.get(status) if isinstance(status, str) else None


class HashKind(IntEnum):
    """Where a digest comes from. Digests of different kinds cannot be compared."""

    OS_HASH = 0
    CHECKSUM = 1
    """MD5, and the size."""

    __hash__ = int.__hash__  # as above


class Content(NamedTuple):
    """What is known of an image's bytes."""

    kind: HashKind
    digest: bytes
    """The first bytes of the hash, or a shorter stand-in for them. Only those of the same length
    can be compared."""
    size: int = 0
    """In bytes; with a checksum only."""

    def same_as(self, other: Content) -> bool | None:
        """Whether both mean the same bytes; None where they cannot be compared."""
        if self.kind is not other.kind or len(self.digest) != len(other.digest):
            return None
        return self == other

    @property
    def hex(self) -> str | None:
        """The digest as answers show it; None for a stand-in."""
        return self.digest.hex() if len(self.digest) == DIGEST_BYTES else None


class ImageFacts(NamedTuple):
    """What is known of an image at one location. None: not known."""

    status: ImageStatus | None = None
    content: Content | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ImageFacts:
        """From a record of v1 or v2, a row of a listing, or the payload of a notification. Members
        that are missing or strange are not known."""
        return cls(status_of(record), _content(record))

    @classmethod
    def of_headers(cls, headers: Mapping[str, str]) -> ImageFacts:
        """From the headers of v1's ``HEAD``."""
        return cls.of(record_of_headers(headers))


def record_of_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    """The status, checksum and size in the headers of v1's ``HEAD``, as a record has them."""
    size = headers.get("X-Image-Meta-Size", "")
    return {
        "status": headers.get("X-Image-Meta-Status"),
        "checksum": headers.get("X-Image-Meta-Checksum"),
        "size": int(size) if _SIZE.fullmatch(size) else None,
    }


NOTHING_KNOWN = ImageFacts()


def _content(record: Mapping[str, Any]) -> Content | None:
    if record.get("os_hash_algo") == COMPARED_ALGORITHM and (
        digest := _digest(record.get("os_hash_value"))
    ):
        return Content(HashKind.OS_HASH, digest)
    size = record.get("size")
    if type(size) is int and size >= 0 and (digest := _digest(record.get("checksum"))):
        return Content(HashKind.CHECKSUM, digest, size)
    return None


def _digest(text: Any) -> bytes:
    """The first bytes of a hash in hexadecimal; empty where it is none."""
    if not isinstance(text, str) or not _HASH.fullmatch(text):
        return b""
    return bytes.fromhex(text[: 2 * DIGEST_BYTES])


def differ(contents: Iterable[Content | None]) -> bool:
    """Whether some of these are known to mean other bytes than another. None: not known."""
    known = [content for content in contents if content is not None]
    return any(
        one.same_as(other) is False
        for position, one in enumerate(known)
        for other in known[:position]
    )
