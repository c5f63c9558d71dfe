"""One page of the merged listing: every location is asked at the same time, as the client."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from resolver.errors import Busy, IndexUnavailable, InvalidRequest
from resolver.glance import CallerListings
from resolver.listing.caller import Advice, Caller
from resolver.listing.first_pages import FirstPages
from resolver.listing.markers import Marker, encode
from resolver.listing.merge import Merge, MergedRow
from resolver.listing.owners import ImageOwners, Spellings
from resolver.listing.query import ListingQuery
from resolver.listing.start import Start, open_streams, start_behind
from resolver.models import format_id
from resolver.registry import LocationView, Table
from resolver.resolution import Preferences
from resolver.resolution.index_reader import IndexReader
from resolver.resolution.ranking import exclusion_reason, rank_key
from resolver.spans import NO_SPANS, Spans

LISTINGS_AT_ONCE = 32
"""Requests that are being answered at the same time. A page of 1,000 from 20 locations takes some
10 MB, and more where rows are large."""


class ListedPage(NamedTuple):
    """A page of the merged listing."""

    rows: Sequence[MergedRow]
    next_marker: str
    """Begins the next page; empty where there is none."""
    missing: Sequence[str]
    """Names of the locations whose images are not in it, or perhaps not all."""


class Targets(NamedTuple):
    """The locations of a listing."""

    views: Sequence[LocationView]
    """Those that are asked, best first."""
    unasked: Mapping[str, str]
    """Names of those that cannot be asked, each with the reason."""
    left_out: Collection[str] = ()
    """Names of those that are not asked, since operators or settings say so, and of those whose
    shrink guard is tripped, which may list too little. A listing names them and is complete
    without them."""


def listing_targets(
    table: Table,
    preferences: Preferences,
    home_region: str,
    advice: Advice,
    domain: str | None = None,
    *,
    all_domains: bool = False,
) -> Targets:
    """Which locations a client's listing is made of: those in service that it does not exclude, of
    the domain that its token is of, or of ``all_domains``.

    Raises:
        InvalidRequest: it cannot be known of which domain the token is.
    """
    in_service = [view for view in table.in_service() if not exclusion_reason(view, preferences)]
    if all_domains:
        offered: Sequence[LocationView] = in_service
    elif domain is None:
        offered = _of_one_domain(in_service, preferences.region, advice)
    else:
        offered = [view for view in in_service if view.location.domain == domain]
    views = [view for view in offered if view.serves is None or view.serves[1]]
    views.sort(key=lambda view: (rank_key(view, preferences, home_region), view.name))
    unasked = {
        view.name: "it serves only v1, which has no such listing"
        for view in offered
        if view.serves is not None and not view.serves[1]
    }
    lost = {
        name: reason
        for name, reason in table.lost_locations().items()
        if name not in preferences.exclude
    }
    left_out = _left_out(table, preferences, {view.location.domain for view in offered})
    return Targets(views, {**unasked, **lost}, left_out)


def _left_out(table: Table, preferences: Preferences, domains: Collection[str]) -> list[str]:
    """See `Targets.left_out`. ``domains``: of the locations that may be asked; none: all."""
    return [
        name
        for name, view in table.by_name.items()
        if (not view.in_service or view.guard_problem)
        and name not in preferences.exclude
        and (not domains or view.location.domain in domains)
    ]


def domain_regions(table: Table) -> Sequence[str]:
    """The regions by which a client can say of which domain its token is; none where there are not
    several domains."""
    domains: defaultdict[str, set[str]] = defaultdict(set)
    for view in table.in_service():
        domains[view.location.region].add(view.location.domain)
    if len(set().union(*domains.values())) < 2:
        return ()
    return sorted(region for region, found in domains.items() if region and len(found) == 1)


def _of_one_domain(
    views: Sequence[LocationView], region: str, advice: Advice
) -> Sequence[LocationView]:
    """The locations that a token may go to. A token says nothing of where it comes from, so where
    there are several domains the client must say it: by a region that it asks for.

    Raises:
        InvalidRequest: it does not.
    """
    domains = {view.location.domain for view in views}
    if len(domains) < 2:
        return views
    asked = {view.location.domain for view in views if view.location.region == region}
    if not region or len(asked) != 1:
        raise InvalidRequest(
            "the locations take tokens of several Keystones (`domain`), and yours goes to one of "
            f"them only: name a region of it with {advice.region}",
        )
    return [view for view in views if view.location.domain in asked]


class Lister:
    """Lists the images of all locations."""

    def __init__(
        self,
        reader: IndexReader,
        listings: CallerListings,
        *,
        timeout: float,
        home_region: str = "",
        spans: Spans = NO_SPANS,
        names_only_listed: bool = False,
    ) -> None:
        """``timeout``: the seconds in which the locations must have answered one request.
        ``names_only_listed``: rows name no owner that is not known to list the image to this
        client."""
        self._reader = reader
        self._listings = listings
        self._timeout = timeout
        self._home_region = home_region
        self._spans = spans
        self._names_only_listed = names_only_listed
        self._in_progress = 0
        self._first_pages = FirstPages()

    async def page(
        self,
        query: ListingQuery,
        token: str | None,
        preferences: Preferences,
        advice: Advice,
        *,
        allow_partial: bool = False,
        domain: str | None = None,
    ) -> ListedPage:
        """A page of the listing, as the holder of ``token`` sees it; None: as each location shows
        it to its own credential.

        Args:
            advice: for errors.
            allow_partial: where some locations cannot be asked or do not answer, the others' images
                will do.
            domain: that of the token, where Keystone was asked.

        Raises:
            ListingIncomplete: not every location has answered.
            TokenRefused, ListingForbidden, InvalidRequest: a location answered 401, 403 or 400.
            IndexUnavailable: the locations are not known.
            Busy: too many listings are being read.
        """
        with self._admit(), self._spans.span("list images", {"limit": query.limit}):
            table = await self._reader.usable_table()
            preferences = preferences.for_table(table)
            targets = listing_targets(
                table, preferences, self._home_region, advice, domain, all_domains=token is None
            )
            caller = Caller(
                self._listings,
                query,
                token,
                time.monotonic() + self._timeout,
                len(targets.views),
                targets.unasked,
                advice,
                allow_partial=allow_partial,
            )
            groups = _groups(targets.views, preferences, self._home_region)
            start = await open_streams(targets.views, groups, query, caller)
            caller.check(start.streams)
            first_page = query.params, tuple(view.location.number for view in targets.views)
            if query.marker is None:
                start = start._replace(questions=self._first_pages.get(first_page))
            merge = self._merge(start, query, caller)
            if start.after and not await merge.skip_past(start.after):
                start = start_behind(start.streams, start.after, query, caller)
                merge = self._merge(start, query, caller)
            streams = start.streams
            rows = await merge.page(query.limit)
            caller.check(streams)
            next_marker = ""
            is_full = 0 < query.limit == len(rows)
            if is_full and merge.last and not all(stream.is_finished for stream in streams):
                places = {stream.number: stream.place for stream in streams}
                questions = merge.questions_of_next_page()
                marker = Marker(merge.last, places, merge.ignores_case, questions)
                next_marker = encode(query.order, marker)
            if query.marker is None:
                self._first_pages.put(first_page, merge.questions_of_this_page())
            missing = sorted({*caller.missing, *targets.left_out})
            return ListedPage(rows, next_marker, missing)

    def _merge(self, start: Start, query: ListingQuery, caller: Caller) -> Merge:
        owners = ImageOwners(
            start.streams,
            self._read_owners,
            caller.ask_listed,
            names_only_listed=self._names_only_listed,
        )
        return Merge(start, query.order, owners, caller.read_rows)

    async def _read_owners(self, ids: Sequence[bytes]) -> Sequence[Spellings] | None:
        """See `resolver.listing.owners.ReadOwners`."""
        if not ids:
            return []
        try:
            _, claims = await self._reader.read(ids)
        except IndexUnavailable:
            return None
        return [
            {owner.number: format_id(image_id, owner.letter_case) for owner in owners}
            for image_id, owners in zip(ids, claims, strict=True)
        ]

    @contextmanager
    def _admit(self) -> Iterator[None]:
        if self._in_progress >= LISTINGS_AT_ONCE:
            raise Busy(
                "too many listings are being read: retry later", headers={"Retry-After": "1"}
            )
        self._in_progress += 1
        try:
            yield
        finally:
            self._in_progress -= 1


def _groups(
    views: Sequence[LocationView], preferences: Preferences, home_region: str
) -> dict[int, int]:
    """The rank of each location, by number. Those that only the image's weighted choice can order
    have the same."""
    keys = sorted({rank_key(view, preferences, home_region) for view in views})
    return {
        view.location.number: keys.index(rank_key(view, preferences, home_region)) for view in views
    }
