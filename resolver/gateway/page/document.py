"""The status page as one HTML document, and the files that it needs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple

from resolver.gateway.page.markup import Html, element, join
from resolver.gateway.page.question import BOX, BY_ID, MAX_TEXT_LENGTH, Question
from resolver.gateway.page.sections import location_table, shown_version
from resolver.gateway.page.snapshot import Snapshot

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Scripts, styles and images come from this server only, none is inline, and no page of others may
have this one in a frame."""

ASSETS = {
    "status.css": "text/css; charset=utf-8",
    "status.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""The files of the page, each with its media type."""


class Asset(NamedTuple):
    """A file that the page needs."""

    media_type: str
    body: bytes
    url: str
    """As seen from the page, so that a path prefix of a proxy does not matter. It changes with the
    file."""


@cache
def asset(name: str) -> Asset:
    """One of `ASSETS`."""
    body = (resources.files("resolver.gateway.page") / name).read_bytes()
    digest = hashlib.sha256(body).hexdigest()[:12]
    return Asset(ASSETS[name], body, f"page/{name}?{digest}")


def page(
    snapshot: Snapshot,
    role: str,
    question: Question | None,
    regions: Sequence[str],
    answer: Html | None,
) -> str:
    """The document.

    Args:
        role: of this process.
        question: what was asked; None for nothing.
        regions: by which a client can say of which Keystone its token is; none where there is one.
        answer: the section about it; None where nothing was asked.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", "glance-resolver"),
        element("link", rel="icon", href=asset("icon.svg").url),
        element("link", rel="stylesheet", href=asset("status.css").url),
        element("script", src=asset("status.js").url, defer=""),
    )
    content = snapshot.sections
    main = element(
        "main",
        _section("Summary", "summary", content["summary"]),
        _question(question or Question(BY_ID, ""), regions),
        element("div", answer, id="answers", aria_live="polite"),
        _section("Problems", "problems", content["problems"]),
        _section("Locations", "locations", location_table(snapshot.rows)),
        _section("Sweeps under way", "sweeps", content["sweeps"]),
        _section("Conflicts", "conflicts", content["conflicts"]),
        _section("Processes", "processes", content["processes"]),
        _changes(),
    )
    header = element(
        "header",
        element("h1", "glance-resolver"),
        element("p", "As of when this page was loaded.", id="live", role="status"),
    )
    body = element("body", header, main, _footer(role), data_now=f"{snapshot.at:.0f}")
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _section(title: str, name: str, content: Html) -> Html:
    heading = element("h2", title, id=f"{name}-heading")
    held = element("div", content, id=name)
    return element("section", heading, held, aria_labelledby=f"{name}-heading")


def _question(asked: Question, regions: Sequence[str]) -> Html:
    """The box for an id, a name or a digest. Without an action the form asks the page itself. The
    token has no name, so that the form never puts it into a URL: the script sends it."""
    box = element(
        "input",
        id="image",
        name=BOX,
        value=asked.text,
        autocomplete="off",
        spellcheck="false",
        maxlength=MAX_TEXT_LENGTH,
        placeholder="0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d",
    )
    label = element("label", "Image id, name or digest", for_="image")
    token = element(
        "div",
        element("label", "OpenStack token, where one is needed", for_="user-token"),
        element("input", id="user-token", type="password", autocomplete="off"),
        id="user-token-field",
        class_="field",
        hidden="",
    )
    button = element("button", "Find it")
    region = _region(asked.region, regions)
    form = element(
        "form", label, box, button, region, token, id="question", method="get", role="search"
    )
    heading = element("h2", "Where is an image?", id="question-heading")
    return element("section", heading, form, aria_labelledby="question-heading")


def _region(chosen: str, regions: Sequence[str]) -> Html | None:
    """The choice of a region; None where there is nothing to choose."""
    offered = sorted({*regions, chosen} - {""})
    if not offered:
        return None
    options = [element("option", "any", value="")]
    for name in offered:
        selected = "" if name == chosen else None
        options.append(element("option", name, value=name, selected=selected))
    choice = element("select", *options, id="region", name="region")
    label = element("label", "Region of the token", for_="region")
    return element("div", label, choice, class_="field")


def _changes() -> Html:
    """The last changes, for those who have a token. The script asks for them."""
    heading = element("h2", "Last changes", id="changes-heading")
    token = element("input", id="token", type="password", autocomplete="off")
    form = element(
        "form",
        element("label", "Admin token", for_="token"),
        token,
        element("button", "Show them"),
        id="changes-form",
        hidden="",
    )
    command = element("code", "glance-resolver locations log")
    hint = element("p", command, " shows who changed what; it needs an admin token.")
    result = element("div", id="changes", aria_live="polite")
    return element("section", heading, hint, form, result, aria_labelledby="changes-heading")


def _footer(role: str) -> Html:
    links = join(
        element("li", element("a", name, href=path))
        for name, path in (("status", "status"), ("index", "index"), ("metrics", "metrics"))
    )
    api = element("li", element("a", "HTTP API", href="openapi.json"))
    return element("footer", element("p", shown_version(role)), element("ul", links, api))
