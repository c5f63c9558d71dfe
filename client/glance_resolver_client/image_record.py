"""What an owner says about an image's bytes."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from glance_resolver_client.exchange import ExchangeError, Reply, Request

MAX_RECORD_BYTES = 1 << 20

_IMAGE_URL = re.compile(r"https?://[^/?#@]+/(?:[^?#]*/)?v([12])/images/([^/?#]+)")


@dataclass(frozen=True, slots=True)
class ImageUrls:
    """Where an owner has an image's record and its bytes."""

    has_v2: bool
    record: str
    file: str


def image_urls(url: str) -> ImageUrls:
    """From the `url` of an owner. Raises ExchangeError if it is not the URL of an image."""
    match = _IMAGE_URL.fullmatch(url)
    if match is None:
        raise ExchangeError("its URL is not that of an image")
    has_v2 = match[1] == "2"
    return ImageUrls(has_v2, url, f"{url}/file" if has_v2 else url)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """Size and hashes; None where the owner shows none."""

    size: int | None
    os_hash_algo: str | None
    os_hash_value: str | None
    checksum: str | None
    """MD5, which older Glance servers have only."""

    def verifiable_hash(self) -> tuple[str, str] | None:
        """(algorithm, hex digest): the best that Python can compute, or None."""
        if self.os_hash_algo and self.os_hash_value and _is_supported(self.os_hash_algo):
            return self.os_hash_algo, self.os_hash_value.lower()
        return ("md5", self.checksum.lower()) if self.checksum else None

    def agrees_with(self, other: ImageRecord) -> bool:
        """Whether a hash that both have is the same. Without one, they do not agree."""
        if self.os_hash_value and other.os_hash_value and self.os_hash_algo == other.os_hash_algo:
            return self.os_hash_value.lower() == other.os_hash_value.lower()
        if self.checksum and other.checksum:
            return self.checksum.lower() == other.checksum.lower()
        return False


def _is_supported(algorithm: str) -> bool:
    try:
        return hashlib.new(algorithm).digest_size > 0  # 0: of any length
    except ValueError:
        return False


def record_request(urls: ImageUrls, headers: dict[str, str]) -> Request:
    """In v1 only the headers of an image have its record."""
    return Request(
        "GET" if urls.has_v2 else "HEAD", urls.record, headers, max_bytes=MAX_RECORD_BYTES
    )


def read_record(urls: ImageUrls, reply: Reply) -> ImageRecord:
    """Raises ExchangeError if the response is not a record of an image."""
    record = _v2_record(reply) if urls.has_v2 else _v1_record(reply)
    asked, shown = urls.record.rpartition("/")[2], str(record.get("id"))
    if shown.lower() != asked.lower():
        raise ExchangeError("it did not answer with the record of the image")
    size = str(record.get("size"))
    return ImageRecord(
        size=int(size) if re.fullmatch(r"[0-9]{1,18}", size) else None,
        os_hash_algo=_text(record.get("os_hash_algo")),
        os_hash_value=_text(record.get("os_hash_value")),
        checksum=_text(record.get("checksum")),
    )


def _v2_record(reply: Reply) -> dict[str, Any]:
    try:
        record = json.loads(reply.body)
    except (ValueError, RecursionError):
        record = None
    return record if isinstance(record, dict) else {}


def _v1_record(reply: Reply) -> dict[str, Any]:
    names = ("id", "size", "checksum")
    return {name: reply.headers.get(f"x-image-meta-{name}") for name in names}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
