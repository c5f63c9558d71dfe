"""Markers: where a page ended at each location, as text for the ``next`` link.

A marker is all that is needed to go on, so that any gateway can, and none remembers anything. It
names the last image that was read from each location. It also has the sort keys of the page's last
row: where an image is gone by then, or a location is new, rows are read from an earlier place, and
those up to there are skipped. And it has the questions that the next page is expected to have, so
that they can be asked together with its rows.

A client can read and change a marker. What it says goes only to locations, as Glance's own marker
with the client's own token, so nothing is won by that.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from resolver.errors import InvalidImageId, InvalidRequest
from resolver.listing.sort_order import SortOrder, Values
from resolver.models import parse_stored_id

PREFIX = "r1."
"""Begins every marker of this form. No id begins so."""

MAX_MARKER_BYTES = 64 * 1024
"""Of a marker that is not compressed: some 1,000 locations."""

MAX_ID_CHARACTERS = 255

MAX_QUESTIONS = 64
"""Ids in a marker's questions: some 2 KB of it."""

_MARKER = re.compile(r"r1\.[A-Za-z0-9_-]+", re.ASCII)


class Place(NamedTuple):
    """Where reading a location goes on."""

    group: int
    """The location's rank when the listing began; equal ones share it. A later change of health
    must not change which of an image's rows is shown."""
    after: str | None = None
    """The id of the last image that was read from it; None: it is read from the position."""
    is_ended: bool = False
    """Nothing follows."""
    is_left_out: bool = False
    """It did not answer, and the client was content with the others. It stays left out: its images
    before this place would otherwise be missing without notice."""
    is_unread: bool = False
    """Nothing has been taken from it, and nothing of it is skipped: rows of the position's second
    are in an order that they do not show, so that some would be skipped by mistake."""

    @property
    def flags(self) -> int:
        return self.is_ended + 2 * self.is_left_out + 4 * self.is_unread


class Questions(NamedTuple):
    """What a page is expected to ask. A wrong question costs its answer, a missing one is asked
    later."""

    ids: Mapping[int, Sequence[str]] = MappingProxyType({})
    """Of images that locations are asked whether they list, by location number."""
    are_all: bool = False
    """Whether no others are expected."""


class Marker(NamedTuple):
    """Where a listing goes on."""

    position: Values
    """The place of the last row that was shown."""
    places: Mapping[int, Place]
    """By location number."""
    ignores_case: bool = False
    """Whether names have been compared without regard to letter case so far."""
    questions: Questions = Questions()
    """Of the next page."""


def is_marker(text: str) -> bool:
    """Whether it is one of ours rather than an image's id."""
    return text.startswith(PREFIX)


def encode(order: SortOrder, marker: Marker) -> str:
    places = [
        [number, place.group, place.after or place.flags] for number, place in marker.places.items()
    ]
    ids, are_all = marker.questions
    questions = [int(are_all), *([number, *texts] for number, texts in ids.items())]
    document = [order.text, marker.position, places, int(marker.ignores_case), questions]
    packed = zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)
    return PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode(order: SortOrder, text: str) -> Marker:
    """The marker in a text for which `is_marker` holds.

    Raises:
        InvalidRequest: it is not one of ours, or of a listing in another order.
    """
    try:
        sorted_by, values, places, ignores_case, questions = _document(text)
        if sorted_by != order.text:
            raise InvalidRequest(
                "the marker is of a listing in another order: keep the sort parameters, or begin "
                "without a marker"
            )
        named = dict(zip(order.names, values, strict=True))
        position = order.values_of(named)
        return Marker(
            position,
            dict(_place(place) for place in places),
            ignores_case == 1,
            _questions(*questions),
        )
    except (ValueError, TypeError, InvalidImageId, zlib.error, RecursionError) as error:
        raise InvalidRequest(
            "marker is neither an image id nor that of a `next` link of this gateway"
        ) from error


def _document(text: str) -> list[Any]:
    if not _MARKER.fullmatch(text):
        raise ValueError
    packed = text.removeprefix(PREFIX)
    reader = zlib.decompressobj()
    plain = reader.decompress(
        base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)), MAX_MARKER_BYTES
    )
    if not reader.eof:
        raise ValueError
    document = json.loads(plain)
    if not isinstance(document, list):
        raise TypeError
    return document


def _place(item: Any) -> tuple[int, Place]:
    number, group, where = item
    if type(number) is not int or type(group) is not int:
        raise TypeError
    if isinstance(where, str):
        if not 0 < len(where) <= MAX_ID_CHARACTERS or not where.isprintable():
            raise ValueError
        return number, Place(group, where)
    if type(where) is not int:
        raise TypeError
    return number, Place(group, None, bool(where & 1), bool(where & 2), bool(where & 4))


def _questions(are_all: Any, *items: Any) -> Questions:
    ids = {}
    for number, *texts in items:
        if type(number) is not int:
            raise TypeError
        for text in texts:
            parse_stored_id(text)  # a comma in it would make two of one
        ids[number] = texts
    if sum(map(len, ids.values())) > MAX_QUESTIONS:
        raise ValueError
    return Questions(ids, are_all == 1)
