"""The sections of the status page, each from what is known."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from resolver import __version__
from resolver.gateway.page.markup import Html, element, join, mark, moment, row, row_cells, table
from resolver.index import ProcessInfo
from resolver.models import Health, Progress, State
from resolver.problems import Problem
from resolver.registry import LocationView, Table
from resolver.registry.presentation import location_counts

MAX_PROBLEMS = 50
"""Problems that are shown. One fault may be one of each location."""

COLUMNS = ("Location", "State", "Health", "Covered", "Images", "Last sweep", "Problems")
SWEEP_COLUMNS = ("Location", "Images", "Images a second", "Done", "Began")

HEALTH_MARKS = {Health.UP: "good", Health.UNKNOWN: "warn", Health.DOWN: "bad"}
STATE_MARKS = {State.ACTIVE: "plain", State.DRAINING: "warn", State.MAINTENANCE: "warn"}


def row_id(name: str) -> str:
    """The id of a location's row."""
    return f"location-{name}"


def summary(table: Table, problems: Sequence[Problem], now: float) -> Html:
    """How many locations and problems there are."""
    counts = location_counts(table, now)
    number = counts["all"]
    return element(
        "dl",
        _count("Problems", len(problems), "bad" if problems else "good"),
        _count("Locations", number, "plain"),
        _count("Up", counts["up"], "good" if counts["up"] == number else "plain"),
        _count("Down", counts["down"], "bad" if counts["down"] else "plain"),
        _count("Covered", counts["covered"], "good" if counts["covered"] == number else "warn"),
    )


def _count(name: str, number: int, kind: str) -> Html:
    shown = element("dd", f"{number:,}", class_=kind)
    return element("div", element("dt", name), shown)


def problem_list(problems: Sequence[Problem], known: Iterable[str]) -> Html:
    """What is wrong and what to do, the oldest first. ``known``: the locations that have a row."""
    if not problems:
        return element("p", "Nothing is wrong.")
    names = frozenset(known)
    items = [
        element(
            "li",
            element("p", mark(problem.code, "bad"), " began ", moment(problem.since)),
            element("p", _with_code(problem.text)),
            element("p", element("strong", "What to do: "), _with_code(problem.action)),
            _link(problem.location) if problem.location in names else None,
        )
        for problem in problems[:MAX_PROBLEMS]
    ]
    more = len(problems) - len(items)
    rest = f"{more:,} more are in /status." if more else None
    return join([element("ul", *items), rest and element("p", rest)])


def _link(location: str) -> Html:
    return element("p", element("a", f"Location {location}", href=f"#{row_id(location)}"))


def _with_code(text: str) -> Html:
    """Text in which `backticks` mark what is typed."""
    parts = text.split("`")
    return join(element("code", part) if number % 2 else part for number, part in enumerate(parts))


def location_rows(
    views: Iterable[LocationView], problems: Iterable[Problem], now: float
) -> Iterable[tuple[str, Html]]:
    """The id and the cells of each location's row."""
    codes: defaultdict[str, list[str]] = defaultdict(list)
    for problem in problems:
        codes[problem.location].append(problem.code)
    for view in views:
        yield row_id(view.name), _location_cells(view, codes.get(view.name, ()), now)


def _location_cells(view: LocationView, codes: Sequence[str], now: float) -> Html:
    location, sweep = view.location, view.status.sweep
    doubt = view.coverage_problem(now)
    region = element("span", location.region, class_="region") if location.region else None
    covered = join([mark("no", "warn"), " ", _with_code(doubt)]) if doubt else mark("yes", "good")
    return row_cells(
        join([view.name, region and Html(" "), region]),
        mark("refused", "bad")
        if view.refused
        else mark(location.state, STATE_MARKS[location.state]),
        mark(view.health, HEALTH_MARKS[view.health])
        if view.health_is_current
        else mark(f"was {view.health}", "warn"),
        covered,
        "" if sweep.ended is None else f"{sweep.images:,}",
        moment(sweep.ended),
        join(mark(code, "bad") for code in codes) if codes else "none",
    )


def location_table(rows: Mapping[str, Html]) -> Html:
    """The table of all locations."""
    if not rows:
        return element(
            "p",
            "No location is registered. Add one with ",
            element("code", "glance-resolver locations add NAME URL"),
            ".",
        )
    body = join(element("tr", cells, role="row", id=name) for name, cells in rows.items())
    return table("Locations", COLUMNS, body)


def running_sweeps(table_: Table, progress: Mapping[int, Progress]) -> Html:
    """The sweeps under way, with the images that each has listed a second since it began."""
    rows = []
    for view in table_.by_name.values():
        running = progress.get(view.location.number)
        failed = view.status.sweep.failed
        if running is None or (failed is not None and failed >= running.at):
            continue  # it failed, and will be continued from there
        seconds = running.at - running.started
        speed = f"{running.images / seconds:,.0f}" if seconds > 0 else "not known yet"
        done = f"{int((running.front or '0')[:8], 16) / 2**32:.0%}"
        rows.append(row(view.name, f"{running.images:,}", speed, done, moment(running.started)))
    if not rows:
        return element("p", "No sweep is under way.")
    return table("Sweeps under way", SWEEP_COLUMNS, join(rows))


def conflicts(views: Iterable[LocationView]) -> Html:
    """How many images have other bytes elsewhere. Which ones is for operators."""
    counts = {view.name: view.status.sweep.conflicts for view in views}
    items = [element("li", f"{name}: {count:,} images") for name, count in counts.items() if count]
    if not items:
        return element("p", "No image is known to have different bytes at its owners.")
    report = element("code", "glance-resolver report conflicts")
    return join(
        [element("ul", *items), element("p", report, " lists them; it needs an admin token.")]
    )


def process_counts(processes: Iterable[ProcessInfo]) -> Html:
    """How many processes of each role and version there are. Their hosts are for operators."""
    counts = Counter((process.role, process.version) for process in processes)
    if not counts:
        return element("p", "Not known now.")
    rows = [row(role, version, f"{number:,}") for (role, version), number in sorted(counts.items())]
    return table("Processes", ("Role", "Version", "Number"), join(rows))


def shown_version(role: str) -> str:
    """What this process is."""
    return f"glance-resolver {__version__}, role {role}"
