"""What is wrong with locations, for ``GET /status``."""

from __future__ import annotations

from collections.abc import Iterator

from resolver.errors import ShrinkGuardTripped
from resolver.problems import Problem
from resolver.registry.location_view import LocationView
from resolver.registry.table import Table, TableKeeper

ACTION_FOR_LOST = (
    "Add it again with `glance-resolver locations add {name} URL` or `locations apply`; if it is "
    "not to come back: `glance-resolver locations remove {name}`."
)
"""What to do about a location that Redis has lost."""


ACTION_FOR_UNREADABLE = (
    "Upgrade this process to the version that wrote it; or remove the location and add it again. A "
    "name that no location can have was written by something else: delete it from the hash of "
    "locations in Redis."
)


class LocationProblems:
    """The problems of the locations in the table. The texts have the codes of errors only: what a
    server or a file contains is for operators, who read it with ``locations check``."""

    def __init__(self, tables: TableKeeper) -> None:
        self._tables = tables

    def problems(self) -> Iterator[Problem]:
        """A `ProblemSource`."""
        table = self._tables.table
        yield from _service_gap(table)
        yield from _unknown_locations(table)
        for view in table.by_name.values():
            yield from _problems_of(view)
        for name, record in table.records.items():
            if record.unreadable:
                yield Problem(
                    code="unreadable-record",
                    text=f"This version cannot read what is stored about location {name!r} "
                    f"({', '.join(record.unreadable)}); it counts as not known.",
                    action="Upgrade this process to the version that wrote it; the next sweep, "
                    "poll or check replaces it.",
                    location=name,
                )


def _service_gap(table: Table) -> Iterator[Problem]:
    """That no location can be offered, in an index that was read."""
    if not table.identity or table.in_service():
        return
    if table.by_name:
        text = "No location is in service: each is in maintenance, or not allowed here"
        action = (
            "`glance-resolver locations list` shows them; `glance-resolver locations set NAME "
            "--state active` offers one again."
        )
    else:
        text = "No location is registered"
        action = (
            "`glance-resolver locations add NAME URL` registers a Glance server, "
            "`glance-resolver locations apply FILE` those of a file."
        )
    yield Problem(code="no-location", text=f"{text}. Every image is answered 503.", action=action)


def _unknown_locations(table: Table) -> Iterator[Problem]:
    """The locations of `Table.lost_locations`."""
    for name in table.some_unreadable:
        yield Problem(
            code="unreadable-record",
            text=f"This version cannot read the record of location {name!r}. Its images are "
            "not offered, and none is answered as absent.",
            action=ACTION_FOR_UNREADABLE,
            location=name,
        )
    if more := len(table.unreadable) - len(table.some_unreadable):
        yield Problem(
            code="unreadable-record",
            text=f"This version cannot read the records of {more:,} more locations, which are not "
            "named here.",
            action=ACTION_FOR_UNREADABLE,
        )
    for name in table.some_lost:
        yield Problem(
            code="location-lost",
            text=f"Redis has lost location {name!r}, and nobody has registered it again. Its "
            "images are not offered, and none is answered as absent.",
            action=ACTION_FOR_LOST.format(name=name),
            location=name,
        )
    if more := len(table.lost_names) - len(table.some_lost):
        yield Problem(
            code="location-lost",
            text=f"Redis has lost {more:,} more locations, which are not named here.",
            action=ACTION_FOR_LOST.format(name="NAME"),
        )
    for name in table.unregistered:
        yield Problem(
            code="cannot-vouch",
            text=f"Location {name!r} was given at start, and is not registered yet. Until then "
            "no image is answered as absent.",
            action="It is registered as soon as Redis can be written. If that takes long, the "
            "log says why.",
            location=name,
        )


def _problems_of(view: LocationView) -> Iterator[Problem]:
    sweep, poll = view.status.sweep, view.status.poll
    action = f"`glance-resolver locations check {view.name}` says why and what to do."
    if view.refused:
        yield Problem(
            code="location-refused",
            text=f"No client is sent to location {view.name!r}: {view.refused}. Images that only "
            "it has are answered 503.",
            action=f"`glance-resolver locations set {view.name} --url` gives it a URL that the "
            "settings allow. If it may have this one, change the setting.",
            location=view.name,
        )
    if sweep.error:
        yield Problem(
            code="sweep-failing",
            text=f"The latest sweep of location {view.name!r} failed ({sweep.error_code}). Nothing "
            "was released; images that are new there are found only when they are asked for.",
            action=action,
            location=view.name,
            consequence=""
            if view.guard_problem and sweep.error_code == ShrinkGuardTripped.code
            else f"Its latest sweep failed ({sweep.error_code}).",
        )
    if sweep.conflicts:
        yield Problem(
            code="conflict",
            text=f"Other locations have other bytes for {sweep.conflicts:,} of the images of "
            f"location {view.name!r}. Which of them a client gets depends on the order of owners.",
            action="`glance-resolver report conflicts` lists them. Delete the wrong ones.",
            location=view.name,
        )
    if view.guard_problem:
        yield Problem(
            code="shrink-guard",
            text=f"Of location {view.name!r}, {view.guard_problem}. Nothing more is released, and "
            "that it lacks an image is not believed, until a sweep is complete.",
            action=f"`glance-resolver locations check {view.name}` says what the sweep has found. "
            "If the images are really gone: `glance-resolver locations sweep "
            f"{view.name} --confirm-shrink`.",
            location=view.name,
            since=sweep.guarded or 0.0,
        )
    if sweep.listing_gap:
        yield Problem(
            code="listing-gap",
            text=f"Sweeps of location {view.name!r} may overlook images: {sweep.listing_gap}. "
            "Those are found when they are asked for.",
            action="Leave `RESOLVER_PROBE` on: this server is asked about each unknown image. With "
            "`RESOLVER_PROBE=off`, no unknown image is absent while it vouches: "
            f"`glance-resolver locations set {view.name} --vouches false`.",
            location=view.name,
            consequence=f"Its sweeps may overlook images: {sweep.listing_gap}.",
        )
    subscription = view.status.subscription
    if view.location.notifications and subscription is not None and not subscription.connected:
        yield Problem(
            code="events-lost",
            text=f"The notifications of location {view.name!r} are not read "
            f"({subscription.error_code}). What changed there is found by polls and sweeps.",
            action=f"`glance-resolver locations show {view.name}` has the error; the URL of the "
            "broker is where its `notifications` say. The log of the indexer has more.",
            location=view.name,
            since=subscription.since,
        )
    if poll.error:
        yield Problem(
            code="poll-failing",
            text=f"The latest poll of location {view.name!r} failed ({poll.error_code}). What "
            "changed there is found by the next sweep.",
            action=action,
            location=view.name,
            consequence=f"Its latest poll failed ({poll.error_code}).",
        )
