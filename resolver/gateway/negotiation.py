"""What clients ask for in header fields and queries: media types and preferences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol
from urllib.parse import parse_qsl

from resolver.errors import InvalidRequest, NotAcceptable
from resolver.resolution import Preferences

JSON = "application/json"
NDJSON = "application/x-ndjson"

REGION = "X-Resolver-Region"
EXCLUDE = "X-Resolver-Exclude"
FRESH = "X-Resolver-Fresh"

AUTH_TOKEN = "X-Auth-Token"

VARY_PREFERENCES = f"{REGION}, {EXCLUDE}, {FRESH}"

QUERY_PARAMETERS = frozenset({"region", "exclude", "fresh"})


class HeaderFields(Protocol):
    """Header fields of a request; names in any case."""

    def get(self, name: str, default: str, /) -> str:
        """The first field of that name."""

    def getall(self, name: str, default: Sequence[str], /) -> Sequence[str]:
        """All fields of that name."""


def client_token(headers: HeaderFields) -> str:
    """The client's token; empty for none, and for several, of which servers read another one."""
    sent = headers.getall(AUTH_TOKEN, ())
    return sent[0] if len(sent) == 1 else ""


def preferences_from_headers(headers: HeaderFields, region: str = "") -> Preferences:
    """Region, exclusions and freshness from ``X-Resolver-*``. ``region``: the one that the path
    names, which counts before that of the header field.

    Raises:
        InvalidRequest: freshness is neither 0 nor 1.
    """
    return make_preferences(
        region or headers.get(REGION, ""), headers.getall(EXCLUDE, ()), headers.get(FRESH, "")
    )


def preferences_from_query(query: str) -> Preferences:
    """The same from the query of ``/resolve``, without its ``?``.

    Raises:
        InvalidRequest: a parameter is unknown, or has no such value.
    """
    pairs = parse_qsl(query, keep_blank_values=True)
    unknown = {name for name, _ in pairs} - QUERY_PARAMETERS
    if unknown:
        raise InvalidRequest(
            f"unknown parameter {sorted(unknown)[0][:40]!r}: use region, exclude or fresh"
        )
    return preferences_from_pairs(pairs)


def preferences_from_pairs(pairs: Iterable[tuple[str, str]]) -> Preferences:
    """The same from names and values. Names that are not in `QUERY_PARAMETERS` are ignored.

    Raises:
        InvalidRequest: a parameter has no such value.
    """
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    first = {name: some[0] for name, some in values.items()}
    return make_preferences(
        first.get("region", ""), values.get("exclude", ()), first.get("fresh", "")
    )


def make_preferences(region: str, exclude: Iterable[str], fresh: str) -> Preferences:
    """Preferences from their text forms; each of ``exclude`` is a comma-separated list of names.

    Raises:
        InvalidRequest: freshness is neither 0 nor 1.
    """
    names = (name.strip() for item in exclude for name in item.split(","))
    if fresh.lower() not in ("", "0", "1", "true", "false"):
        raise InvalidRequest("fresh is 1 or 0")
    return Preferences(region, frozenset(n for n in names if n), fresh.lower() in ("1", "true"))


def accepted_type(headers: HeaderFields, *offers: str) -> str:
    """As `preferred_type`, for what has no other form.

    Raises:
        NotAcceptable: the client accepts none of them.
    """
    best = preferred_type(headers, *offers)
    if best is None:
        raise NotAcceptable(f"it is available as {' or '.join(offers)}", headers={"Vary": "Accept"})
    return best


def preferred_type(headers: HeaderFields, *offers: str) -> str | None:
    """The media type of ``offers`` that the client prefers; the first where it does not say, None
    where it accepts none of them.

    RFC 9110, 12.5.1: the most specific range that matches a type gives its quality. Of equal
    qualities, a type that is named comes before one that a wildcard matches: aria2 sends ``*/*``
    next to the type that it knows best.
    """
    values = headers.getall("Accept", ())
    ranges = [part for value in values for part in value.split(",") if part.strip()]
    if not ranges:
        return offers[0]
    qualities = [_media_range(part) for part in ranges]

    def quality_of(offer: str) -> tuple[float, bool]:
        for media_range in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
            for media, quality in qualities:
                if media == media_range:
                    return quality, media == offer
        return 0.0, False

    best = max(offers, key=quality_of)
    return best if quality_of(best)[0] > 0 else None


def prefers_html(headers: HeaderFields) -> bool:
    """Whether a client is a browser: it prefers HTML to the documents of Glance."""
    return preferred_type(headers, JSON, "text/html") == "text/html"


def _media_range(text: str) -> tuple[str, float]:
    media, *parameters = (piece.strip().lower() for piece in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                quality = 0.0
    return media, quality
