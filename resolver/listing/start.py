"""Where a listing begins at each location: what a client's marker means there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from resolver.errors import InvalidImageId, InvalidRequest, LocationUnavailable
from resolver.listing.caller import Caller
from resolver.listing.location_stream import LocationStream
from resolver.listing.markers import Place, Questions, decode, is_marker
from resolver.listing.query import ListingQuery
from resolver.listing.rows import Row
from resolver.listing.sort_order import Values
from resolver.models import parse_stored_id
from resolver.registry import LocationView


class AfterImage(NamedTuple):
    """An image whose id is the marker: the page begins behind its row."""

    image: str
    """See `resolver.listing.rows.Row`."""
    rows: Mapping[int, Row]
    """What each location that shows it to the client has of it, by location number."""
    latest: Values
    """The last place in the order that it has at any of them."""


class Start(NamedTuple):
    """Where a page of the merged listing begins."""

    streams: Sequence[LocationStream]
    """Best first."""
    ignores_case: bool = False
    """Whether names are compared without regard to letter case."""
    after: AfterImage | None = None
    """What must be skipped first: the streams begin before it."""
    questions: Questions = Questions()
    """What an earlier page knew of this one."""


LEFT_OUT = "it was left out of an earlier page: begin without a marker"


async def open_streams(
    views: Sequence[LocationView],
    groups: Mapping[int, int],
    query: ListingQuery,
    caller: Caller,
) -> Start:
    """The streams of these locations, which begin where the page does.

    ``groups``: the rank of each location, by number.

    Raises:
        InvalidRequest: the marker is none, or no location shows its image to the client.
        ResolverError: a location failed, and the client wants all.
    """

    def stream(view: LocationView, place: Place) -> LocationStream:
        return LocationStream(view, query, caller.fetch, place)

    first = {view.location.number: Place(groups[view.location.number]) for view in views}
    if query.marker is None:
        return Start([stream(view, first[view.location.number]) for view in views])
    if is_marker(query.marker):
        marker = decode(query.order, query.marker)
        last_group = max([place.group for place in marker.places.values()], default=0) + 1
        places = {
            number: marker.places.get(number, Place(last_group + place.group))
            for number, place in first.items()
        }
        streams = []
        for view in views:
            place = places[view.location.number]
            opened = LocationStream(
                view,
                query,
                caller.fetch,
                place,
                marker.position,
                ignores_case=marker.ignores_case,
            )
            if place.is_left_out:
                opened.failure = LocationUnavailable(LEFT_OUT, code="left-out")
            streams.append(opened)
        streams.sort(key=lambda opened: (opened.group, opened.view.name))
        return Start(streams, marker.ignores_case, questions=marker.questions)
    if len(views) == 1:
        only = first[views[0].location.number]
        return Start([stream(views[0], only._replace(after=query.marker))])
    streams = [stream(view, first[view.location.number]) for view in views]
    return await _before_image(streams, query, caller)


async def _before_image(
    streams: Sequence[LocationStream], query: ListingQuery, caller: Caller
) -> Start:
    """Streams that begin before the image whose id is the marker."""
    text = query.marker or ""
    missing = InvalidRequest(f"No image found with ID {text[:64]}")
    try:
        parse_stored_id(text)
    except InvalidImageId:
        raise missing from None
    found = zip(streams, await caller.find(streams, text), strict=True)
    image = text.lower()
    rows = {stream.number: row for stream, row in found if row is not None and row.image == image}
    if not rows:
        caller.check(streams)
        raise missing
    places = sorted((row.values for row in rows.values()), key=query.order.key)
    opened = []
    for stream in streams:
        place = Place(stream.group)
        opened.append(LocationStream(stream.view, query, caller.fetch, place, begin_near=places[0]))
        opened[-1].failure = stream.failure
    return Start(opened, after=AfterImage(image, rows, places[-1]))


def start_behind(
    streams: Sequence[LocationStream], after: AfterImage, query: ListingQuery, caller: Caller
) -> Start:
    """Streams that begin behind an image that is in no listing, since it does not match the
    filters: after its row at its best owner, and after the place of that row everywhere else."""
    image_id, _ = parse_stored_id(after.image)
    owners = [stream for stream in streams if stream.number in after.rows]
    best = min(owners, key=lambda s: s.rank(image_id, after.rows[s.number].status))
    row = after.rows[best.number]
    opened = []
    for stream in streams:
        place = Place(stream.group, row.id if stream is best else None)
        opened.append(LocationStream(stream.view, query, caller.fetch, place, row.values))
        opened[-1].failure = stream.failure
    return Start(opened)
