"""The section of the status page with the answer about one image, and why it is that; or with the
images that match a name or a digest."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from resolver.errors import ResolverError
from resolver.gateway.page.markup import Html, element, join, mark, row, table
from resolver.gateway.page.question import BY_ID, Question
from resolver.listing import ListedPage
from resolver.models import Outcome

OUTCOME_MARKS = {Outcome.FOUND: "good", Outcome.ABSENT: "warn", Outcome.UNKNOWN: "bad"}
VERDICT_MARKS = {"chosen": "good", "ranked": "plain", "left out": "warn", "not an owner": "plain"}
COLUMNS = ("Location", "Rank", "Verdict", "Why")

MATCH_COLUMNS = ("Image", "Name", "Status", "Locations")

NOT_AN_OWNER = "not an owner"

LOOKED_UP_BY = {
    "name": "the name",
    "os_hash_value": "the hash (os_hash_value)",
    "checksum": "the checksum (MD5)",
}
"""How the page calls what images are looked up by."""

COMMAND_OPTIONS = {"name": "--name", "os_hash_value": "--hash", "checksum": "--hash"}
"""Of ``glance-resolver resolve``."""


def error_section(error: ResolverError, question: Question, *, needs_token: bool) -> Html:
    """Why there is no answer. ``needs_token``: because nobody's token was sent."""
    return _section(
        _looked_up(question),
        element("p", mark(error.title, "bad"), " ", error.detail),
        _token_hint(question) if needs_token else None,
    )


def answer_section(explained: dict[str, Any], question: Question) -> Html:
    """The answer as `resolver.resolution.explain` gives it."""
    hint = _checksum_hint(question) if question.may_be_checksum else None
    return _section(*_explained(explained), hint)


def match_section(question: Question, page: ListedPage, explained: dict[str, Any] | None) -> Html:
    """The images that match, each with the locations that show it to the client. ``explained``: the
    answer about the only one."""
    missing = f"Not asked, or without an answer: {', '.join(page.missing)}."
    command = element("code", f"glance-resolver resolve {COMMAND_OPTIONS[question.by]}")
    more = element("p", "More images match: ", command, " shows all of them.")
    return _section(
        _looked_up(question),
        element("p", mark(missing, "warn")) if page.missing else None,
        _matches(page, question) if page.rows else element("p", "No image matches."),
        more if page.next_marker else None,
        *(_explained(explained) if explained else ()),
    )


def _explained(explained: dict[str, Any]) -> list[Html | None]:
    outcome = Outcome(explained["outcome"])
    locations = explained["locations"]
    owners = [location for location in locations if location["verdict"] != NOT_AN_OWNER]
    others = [location for location in locations if location["verdict"] == NOT_AN_OWNER]
    return [
        element("p", element("code", explained["id"]), " ", mark(outcome, OUTCOME_MARKS[outcome])),
        element("p", explained["detail"]) if explained["detail"] else None,
        _best_owner(explained["url"]),
        element("p", f"Source: {explained['source']}, {explained['age']:.1f} s old."),
        element("p", "The owners have different bytes.") if explained["conflict"] else None,
        _rows("Owners", owners),
        _others(others, is_open=not owners),
    ]


def _matches(page: ListedPage, question: Question) -> Html:
    rows = []
    for listed, locations in page.rows:
        link = element("a", listed.id, href=_link(question._replace(by=BY_ID, text=listed.id)))
        owners = locations.replace(",", ", ")
        rows.append(row(link, listed.name, listed.glance_status, owners))
    return table("Images that match", MATCH_COLUMNS, join(rows), id_="matches")


def _link(question: Question) -> str:
    """The page with a question, as seen from the page."""
    region = {"region": question.region} if question.region else {}
    return f"?{urlencode({question.by: question.text, **region})}"


def _looked_up(question: Question) -> Html | None:
    """What a text was taken for, where that is not an id."""
    if question.by == BY_ID:
        return None
    taken_for = f"Looked up by {LOOKED_UP_BY[question.by]} "
    return element("p", taken_for, element("code", question.text), ".")


def _checksum_hint(question: Question) -> Html:
    target = _link(question._replace(by="checksum"))
    link = element("a", "Look it up as a checksum", href=target)
    return element("p", "This may be an MD5 checksum, too. ", link, ".")


def _token_hint(question: Question) -> Html:
    option = COMMAND_OPTIONS.get(question.by, "")
    command = f"OS_TOKEN=… glance-resolver resolve {option}{' ' if option else ''}…"
    return element(
        "p",
        "The answer is for the holder of an OpenStack token: type "
        "one in above (over https, and with the script of this page), or use ",
        element("code", command),
        ".",
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
