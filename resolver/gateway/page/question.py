"""What is asked on the status page: an image by its id, or images by a name or a digest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from resolver.errors import InvalidImageId
from resolver.models import parse_id

BOX = "image"
"""The parameter of the box, whose text may be any of these."""

BY_ID = "id"

MAX_TEXT_LENGTH = 255
"""Of a name in Glance. Ids and digests are shorter."""

_CHECKSUM = re.compile(r"[0-9a-fA-F]{32}", re.ASCII)
_HASH = re.compile(r"(?:[0-9a-fA-F]{2}){20,64}", re.ASCII)
"""From SHA-1 to SHA-512: what Glance may be set to for ``os_hash_value``."""


class Question(NamedTuple):
    """One question."""

    by: str
    """`BY_ID`, or the parameter of ``GET /resolve``: ``name``, ``os_hash_value``, ``checksum``."""
    text: str
    region: str = ""
    """That the client prefers, and its token is of; empty for none."""

    @property
    def may_be_checksum(self) -> bool:
        """Whether an id was asked for, of a text that may be an MD5 checksum as well."""
        return self.by == BY_ID and _CHECKSUM.fullmatch(self.text) is not None


def question_of(query: Mapping[str, str]) -> Question | None:
    """The question in the query of the page; None where nothing is asked.

    ``image`` may be anything, and what it looks like decides: an id, a digest, or else a name. The
    other parameters say what they are. ``region`` may be given with any of them.
    """
    region = query.get("region", "").strip()
    for by in (BY_ID, "name", "os_hash_value", "checksum"):
        if text := query.get(by, "").strip():
            return Question(by, text, region)
    text = query.get(BOX, "").strip()
    return Question(_kind_of(text), text, region) if text else None


def _kind_of(text: str) -> str:
    if is_id(text):
        return BY_ID
    return "os_hash_value" if _HASH.fullmatch(text) else "name"


def is_id(text: str) -> bool:
    """Whether a text is an image id in one of its forms."""
    try:
        parse_id(text)
    except InvalidImageId:
        return False
    return True
