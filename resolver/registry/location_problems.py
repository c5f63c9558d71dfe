"""What is wrong with locations, for ``GET /status``."""

from __future__ import annotations

from collections.abc import Iterator

from resolver.problems import Problem
from resolver.registry.location_view import LocationView
from resolver.registry.table import TableKeeper


class LocationProblems:
    """The problems of the locations in the table. The texts have the codes of errors only: what a
    server or a file contains is for operators, who read it with ``locations check``."""

    def __init__(self, tables: TableKeeper) -> None:
        self._tables = tables

    def problems(self) -> Iterator[Problem]:
        """A `ProblemSource`."""
        for view in self._tables.table.by_name.values():
            yield from _problems_of(view)


def _problems_of(view: LocationView) -> Iterator[Problem]:
    sweep, poll = view.status.sweep, view.status.poll
    action = f"`glance-resolver locations check {view.name}` says why and what to do."
    if sweep.error:
        yield Problem(
            code="sweep-failing",
            text=f"The latest sweep of location {view.name!r} failed ({sweep.error_code}). Nothing "
            "was released; images that are new there are found only when they are asked for.",
            action=action,
            location=view.name,
        )
    if sweep.conflicts:
        yield Problem(
            code="conflict",
            text=f"{sweep.conflicts} images of location {view.name!r} have other bytes at other "
            "locations. Which of them a client gets depends on the order of owners.",
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
    if poll.error:
        yield Problem(
            code="poll-failing",
            text=f"The latest poll of location {view.name!r} failed ({poll.error_code}). What "
            "changed there is found by the next sweep.",
            action=action,
            location=view.name,
        )
