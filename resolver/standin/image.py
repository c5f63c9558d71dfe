"""One image of the stand-in."""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

SYNTHETIC_TIME = 1_700_000_000.25
"""Creation time of all images of `fill`, seconds since 1970: long before those of `add`."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_uuid(text: str) -> bool:
    """Whether Glance accepts it as an id. It accepts upper and lower case, and keeps them."""
    return _UUID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image. Times are seconds since 1970; `updated` is `created` unless given."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    name: str | None = None
    visibility: str = "public"
    hidden: bool = False
    owner: str = "admin"
    status: str = "active"
    data: bytes = b"stand-in"
    created: float = field(default_factory=time.time)
    updated: float = 0.0
    deleted: bool = False
    disk_format: str | None = "raw"
    container_format: str | None = "bare"
    tags: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    """Projects that accepted a `shared` image."""

    def __post_init__(self) -> None:
        if not self.updated:
            object.__setattr__(self, "updated", self.created)

    @property
    def size(self) -> int | None:
        """Bytes of data; None before any was uploaded."""
        return None if self.status == "queued" else len(self.data)

    @property
    def checksum(self) -> str | None:
        """MD5 of the data, as Glance shows it."""
        return None if self.status == "queued" else hashlib.md5(self.data).hexdigest()

    @property
    def sha512(self) -> str | None:
        """SHA-512 of the data, which Glance shows as ``os_hash_value``."""
        return None if self.status == "queued" else hashlib.sha512(self.data).hexdigest()
