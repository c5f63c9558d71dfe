"""Where a listing begins at each location: what a client's marker means there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from resolver.errors import InvalidImageId, InvalidRequest, LocationUnavailable
from resolver.listing.caller import Caller
from resolver.listing.location_stream import LocationStream
from resolver.listing.markers import Place, decode, is_marker
from resolver.listing.query import ListingQuery
from resolver.listing.sort_order import Values
from resolver.models import parse_stored_id
from resolver.registry import LocationView


class Start(NamedTuple):
    """Where a page of the merged listing begins."""

    streams: Sequence[LocationStream]
    """Best first."""
    ignores_case: bool = False
    """Whether names are compared without regard to letter case."""


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

    def stream(view: LocationView, place: Place, position: Values | None) -> LocationStream:
        opened = LocationStream(view, query, caller.fetch, place, position)
        if place.is_left_out:
            opened.failure = LocationUnavailable(LEFT_OUT, code="left-out")
        return opened

    first = {view.location.number: Place(groups[view.location.number]) for view in views}
    if query.marker is None:
        return Start([stream(view, first[view.location.number], None) for view in views])
    if is_marker(query.marker):
        marker = decode(query.order, query.marker)
        last_group = max([place.group for place in marker.places.values()], default=0) + 1
        places = {
            number: marker.places.get(number, Place(last_group + place.group))
            for number, place in first.items()
        }
        streams = [stream(v, places[v.location.number], marker.position) for v in views]
        streams.sort(key=lambda opened: (opened.group, opened.view.name))
        return Start(streams, marker.ignores_case)
    if len(views) == 1:
        only = first[views[0].location.number]
        return Start([stream(views[0], only._replace(after=query.marker), None)])
    streams = [stream(view, first[view.location.number], None) for view in views]
    return Start(await _after_image(streams, query, caller))


async def _after_image(
    streams: Sequence[LocationStream], query: ListingQuery, caller: Caller
) -> list[LocationStream]:
    """Streams that begin after an image, which is the marker: after its row at its best owner, and
    after the place of that row everywhere else."""
    text = query.marker or ""
    missing = InvalidRequest(f"No image found with ID {text[:64]}")
    try:
        image_id, _ = parse_stored_id(text)
    except InvalidImageId:
        raise missing from None
    found = zip(streams, await caller.find(streams, text), strict=True)
    owners = [(stream, row) for stream, row in found if row is not None]
    if not owners:
        caller.check(streams)
        raise missing
    best, row = min(owners, key=lambda owner: owner[0].rank(image_id, usable=owner[1].is_usable))
    opened = []
    for stream in streams:
        place = Place(stream.group, row.id if stream is best else None)
        opened.append(LocationStream(stream.view, query, caller.fetch, place, row.values))
        opened[-1].failure = stream.failure
    return opened
