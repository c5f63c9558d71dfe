"""HTML that is safe by construction: text is escaped unless it is markup that was made here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape


class Html(str):
    """Markup. Any other text is escaped where it becomes a part of an element."""

    __slots__ = ()


Child = str | int | None
"""Text, a number, or `Html`. None is left out."""

VOID = frozenset({"input", "link", "meta"})
"""Elements without content and end tag."""


def element(tag: str, *children: Child, **attributes: Child) -> Html:
    """An element. An attribute ``for_`` is written ``for``, ``aria_label`` is ``aria-label``."""
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in VOID:
        return Html(f"<{tag}{named}>")
    return Html(f"<{tag}{named}>{join(children)}</{tag}>")


def join(children: Iterable[Child]) -> Html:
    """Several children, one after another."""
    return Html(
        "".join(
            child if isinstance(child, Html) else escape(str(child))
            for child in children
            if child is not None
        )
    )


def moment(at: float | None, otherwise: str = "never") -> Html:
    """A time, in UTC. The script of the page shows how long ago that is."""
    if at is None:
        return join([otherwise])
    time = datetime.fromtimestamp(at, UTC)
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC")
    return element("time", shown, datetime=time.isoformat(timespec="seconds"))


def table(name: str, columns: Iterable[str], body: Html, *, id_: str | None = None) -> Html:
    """A table. The roles stay what they are where the style makes a card of each row.

    Args:
        name: what it has, for screen readers.
        body: its rows.
        id_: the id of the element around the rows.
    """
    heads = join(element("th", column, scope="col", role="columnheader") for column in columns)
    return element(
        "table",
        element("caption", name),
        element("thead", element("tr", heads, role="row"), role="rowgroup"),
        element("tbody", body, role="rowgroup", id=id_),
        role="table",
    )


def row(*cells: Child, id_: str | None = None) -> Html:
    """A row of a table. Its first cell is its name."""
    return element("tr", row_cells(*cells), role="row", id=id_)


def row_cells(first: Child, *others: Child) -> Html:
    """The cells of a row."""
    name = element("th", first, scope="row", role="rowheader")
    return join([name, *(element("td", cell, role="cell") for cell in others)])


def mark(text: str, kind: str) -> Html:
    """A word that stands out: ``good``, ``bad``, ``warn`` or ``plain``."""
    return element("span", text, class_=f"mark {kind}")
