"""The section of the status page with the answer about one image, and why it is that."""

from __future__ import annotations

from typing import Any

from resolver.errors import ResolverError
from resolver.gateway.page.markup import Html, element, join, mark, row, table
from resolver.models import Outcome

OUTCOME_MARKS = {Outcome.FOUND: "good", Outcome.ABSENT: "warn", Outcome.UNKNOWN: "bad"}
VERDICT_MARKS = {"chosen": "good", "ranked": "plain", "left out": "warn", "not an owner": "plain"}
COLUMNS = ("Location", "Rank", "Verdict", "Why")

NOT_AN_OWNER = "not an owner"


def error_section(error: ResolverError) -> Html:
    """Why there is no answer."""
    return _section(element("p", mark(error.title, "bad"), " ", error.detail))


def answer_section(explained: dict[str, Any]) -> Html:
    """The answer as `resolver.resolution.explain` gives it."""
    outcome = Outcome(explained["outcome"])
    owners = [r for r in explained["locations"] if r["verdict"] != NOT_AN_OWNER]
    others = [r for r in explained["locations"] if r["verdict"] == NOT_AN_OWNER]
    return _section(
        element("p", element("code", explained["id"]), " ", mark(outcome, OUTCOME_MARKS[outcome])),
        element("p", explained["detail"]) if explained["detail"] else None,
        _best_owner(explained["url"]),
        element("p", f"The answer is from {explained['source']}, {explained['age']:.1f} s old."),
        element("p", "The owners have different bytes.") if explained["conflict"] else None,
        _rows("Owners", owners),
        _others(others, is_open=not owners),
    )


def _section(*children: Html | None) -> Html:
    heading = element("h2", "Answer", id="answer-heading")
    return element("section", heading, *children, aria_labelledby="answer-heading", id="answer")


def _best_owner(url: str | None) -> Html | None:
    """Where the image is. A location's URL begins with http or https: registration checks that."""
    if url is None:
        return None
    link = element("a", url, href=url, rel="noreferrer")
    return element("p", "Clients are sent to ", link, ".")


def _others(rows: list[dict[str, Any]], *, is_open: bool) -> Html | None:
    if not rows:
        return None
    label = element("summary", f"Not an owner: {len(rows):,}")
    shown = _rows("Locations that are not owners", rows)
    return element("details", label, shown, open="" if is_open else None)


def _rows(name: str, rows: list[dict[str, Any]]) -> Html | None:
    if not rows:
        return None
    body = join(
        row(
            found["location"],
            found["rank"],
            mark(found["verdict"], VERDICT_MARKS.get(found["verdict"], "plain")),
            "; ".join(found["reasons"]),
        )
        for found in rows
    )
    return table(name, COLUMNS, body)
