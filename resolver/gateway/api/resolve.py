"""``/resolve``: answers as data, for one id or many."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from aiohttp import web

from resolver.errors import (
    Busy,
    InvalidImageId,
    InvalidRequest,
    TooLarge,
    UnsupportedMediaType,
)
from resolver.gateway.api.images import answer_one, make_preferences
from resolver.gateway.app_keys import METRICS, OUTCOME, SERVICES
from resolver.gateway.limits import BULK_IDS, LIMITS, ChargeOnce
from resolver.gateway.problem import NO_STORE, accepted, json_response, require_found
from resolver.gateway.request_body import read_body, read_json
from resolver.models import Outcome, format_id, letter_case_of, parse_id
from resolver.resolution import AnswerTemplate, Preferences

JSON = "application/json"
URI_LIST = "text/uri-list"
NDJSON = "application/x-ndjson"

CHUNK = 500
"""Answers rendered and written at a time: a slow reader holds up the next, not memory."""

MAX_ITEM = 128
"""Bytes that one id may take in a request body."""

MAX_BODIES = 33_554_432
"""Bytes of bodies of bulk requests that are being answered: 90 of 10,000 ids."""


def preferences_of(request: web.Request) -> Preferences:
    """Region, exclusions and freshness, from the query.

    Raises:
        InvalidRequest: a parameter that is not one of these.
    """
    query = request.query
    unknown = set(query) - {"region", "exclude", "fresh"}
    if unknown:
        raise InvalidRequest(
            f"unknown parameter {sorted(unknown)[0][:40]!r}: there are region, exclude and fresh"
        )
    return make_preferences(
        query.get("region", ""), query.getall("exclude", ()), query.get("fresh", "")
    )


async def resolve_one(request: web.Request) -> web.StreamResponse:
    """GET /resolve/{id}."""
    kind = accepted(request, JSON, URI_LIST)
    text = request.match_info["id"]
    answer = await answer_one(
        request, parse_id(text), letter_case_of(text), preferences_of(request)
    )
    require_found(answer, "Accept")
    if kind == URI_LIST:  # RFC 2483: CRLF behind each
        text = "".join(f"{offer.uri}\r\n" for offer in answer.offers)
        return web.Response(
            body=text.encode(), content_type=URI_LIST, headers={**NO_STORE, "Vary": "Accept"}
        )
    return json_response(answer.as_json(), headers={"Vary": "Accept"})


async def explain(request: web.Request) -> web.StreamResponse:
    """GET /resolve/{id}/explain."""
    text, resolver = request.match_info["id"], request.app[SERVICES].resolver
    image_id, preferences = parse_id(text), preferences_of(request)
    pay = ChargeOnce(request.app[LIMITS], request)
    pay()
    return json_response(await resolver.explain(image_id, preferences, letter_case_of(text), pay))


async def resolve_many(request: web.Request) -> web.StreamResponse:
    """POST /resolve."""
    kind = accepted(request, JSON, NDJSON)
    preferences = preferences_of(request)
    settings, limits = request.app[SERVICES].settings, request.app[LIMITS]
    with request.app[BODY_BUDGET].one() as grow:
        body = await read_body(request, settings.bulk_limit * MAX_ITEM, grow)
        items = parse_items(body, request.headers.get("Content-Type", ""))
        if len(items) > settings.bulk_limit:
            raise TooLarge(
                f"{len(items)} ids are more than the {settings.bulk_limit} "
                "(RESOLVER_BULK_LIMIT) that one request may have: send them in parts"
            )
        limits.charge(request, len(items) / BULK_IDS)
        ids = parse_ids(items)
        forms = await request.app[SERVICES].resolver.resolve_text(
            ids.image_ids, preferences, ids.letter_cases, partial(limits.charge, request, 1)
        )
        _count(request, forms, len(ids.invalid))
        rows = _rows(ids, forms)
        response = web.StreamResponse(headers={**NO_STORE, "Content-Type": kind, "Vary": "Accept"})
        await response.prepare(request)
        for part in _rendered(rows, ndjson=kind == NDJSON):
            await response.write(part)
            await asyncio.sleep(0)
        await response.write_eof()
        return response


class BodyBudget:
    """The bodies of bulk requests that are being answered, which bound what those take."""

    def __init__(self, largest: int) -> None:
        self.size = 0
        self._most = max(MAX_BODIES, largest)

    @contextmanager
    def one(self) -> Iterator[Callable[[int], None]]:
        """Counts what is read of one body. What it gives raises Busy where there is no room."""
        mine = 0

        def grow(size: int) -> None:
            nonlocal mine
            if self.size + size > self._most:
                raise Busy(
                    "too many large requests are being answered: come again",
                    headers={"Retry-After": "1"},
                )
            self.size += size
            mine += size

        try:
            yield grow
        finally:
            self.size -= mine


BODY_BUDGET = web.AppKey("bodies", BodyBudget)


def parse_items(body: bytes, content_type: str) -> Sequence[Any]:
    """The ids of a body: a JSON array, ``{"ids": […]}``, or a line each.

    Raises:
        InvalidRequest: it is none of these.
        UnsupportedMediaType: it says that it is something else.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media in ("", "text/plain", "application/x-www-form-urlencoded", "application/octet-stream"):
        # curl says x-www-form-urlencoded of whatever it is given
        is_json = body.lstrip()[:1] in (b"[", b"{")
    elif media == JSON:
        is_json = True
    else:
        raise UnsupportedMediaType(
            f"send the ids as {JSON} or as lines of text/plain, not {media[:60]!r}"
        )
    if not is_json:
        try:
            lines = body.decode("utf-8").removesuffix("\n").split("\n") if body else []
        except UnicodeDecodeError as error:
            raise InvalidRequest("the lines are not UTF-8 text") from error
        return [line.strip() for line in lines]
    try:
        value = read_json(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            'the body is not JSON: send ["<id>", …], {"ids": ["<id>", …]} or a line each'
        ) from error
    items = value.get("ids") if isinstance(value, dict) else value
    if not isinstance(items, list) or (isinstance(value, dict) and set(value) != {"ids"}):
        raise InvalidRequest('the JSON is neither ["<id>", …] nor {"ids": ["<id>", …]}')
    return items


class Ids(NamedTuple):
    """The ids of a request, taken apart."""

    image_ids: list[bytes]
    texts: Sequence[str]
    """The same in their usual form."""
    invalid: dict[int, Any]
    """Items that are no ids, by where they stood."""
    letter_cases: dict[int, int]
    """How ids are spelt that have upper-case digits, by where they stand among `image_ids`."""


def parse_ids(items: Sequence[Any]) -> Ids:
    """Many ids at once where all are spelt as usual, one by one otherwise."""
    if (image_ids := _all_usual(items)) is not None:
        return Ids(image_ids, items, {}, {})
    ids = Ids([], texts := [], {}, {})
    for place, item in enumerate(items):
        try:
            image_id = parse_id(item) if isinstance(item, str) else None
        except InvalidImageId:
            image_id = None
        if image_id is None:
            ids.invalid[place] = item
        else:
            if letter_case := letter_case_of(item):
                ids.letter_cases[len(ids.image_ids)] = letter_case
            ids.image_ids.append(image_id)
            texts.append(format_id(image_id))
    return ids


def _all_usual(items: Sequence[Any]) -> list[bytes] | None:
    """The ids if each is a dashed UUID in lower case; else None.

    They are checked as one text, which costs a tenth of checking each: items of 36 characters,
    with dashes at their places and nowhere else, and between them nothing but hex digits.
    """
    count = len(items)
    try:
        text = "".join(items)
    except TypeError:
        return None
    dashes = "-" * count
    if (
        any(map((36).__ne__, map(len, items)))
        or text.count("-") != 4 * count
        or any(text[at::36] != dashes for at in (8, 13, 18, 23))
        or text != text.lower()
    ):
        return None
    try:
        digits = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        return None
    if len(digits) != 16 * count:  # it lets spaces be
        return None
    return [digits[at : at + 16] for at in range(0, len(digits), 16)]


Row = tuple[AnswerTemplate | None, Any]
"""An answer to come: its text but for the id, and the id; or None, and what is no id."""


def _rows(ids: Ids, forms: Sequence[AnswerTemplate]) -> list[Row]:
    if not ids.invalid:
        return list(zip(forms, ids.texts, strict=True))
    valid: Iterator[Row] = iter(zip(forms, ids.texts, strict=True))
    return [
        (None, ids.invalid[place]) if place in ids.invalid else next(valid)
        for place in range(len(ids.texts) + len(ids.invalid))
    ]


def _invalid(item: Any) -> str:
    try:
        shown = item if isinstance(item, str) else json.dumps(item)
    except RecursionError:  # it may be read from deeper than it may be written
        shown = "[…]" if isinstance(item, list) else "{…}"
    return json.dumps(
        {
            "id": shown[:MAX_ITEM],
            "outcome": str(Outcome.INVALID),
            "uri": None,
            "url": None,
            "owners": [],
            "missing": [],
            "code": InvalidImageId.code,
        }
    )


def _count(request: web.Request, forms: Sequence[AnswerTemplate], invalid: int) -> None:
    counts = {str(Outcome.INVALID): invalid} if invalid else {}
    by_form = {id(form): form for form in forms}  # few, and each stands for many
    for key, count in Counter(map(id, forms)).items():
        outcome = str(by_form[key].outcome)
        counts[outcome] = counts.get(outcome, 0) + count
    for outcome, count in counts.items():
        request.app[METRICS].answers.counts[outcome,] += count
    request[OUTCOME] = counts


def _rendered(rows: Sequence[Row], *, ndjson: bool) -> Iterator[bytes]:
    """The answers as text, `CHUNK` at a time."""
    if not rows:
        yield b"" if ndjson else b"[]\n"
    between = "\n" if ndjson else ",\n"
    head = "" if ndjson else "["
    for start in range(0, len(rows), CHUNK):
        text = between.join(
            [form.fill(one) if form else _invalid(one) for form, one in rows[start : start + CHUNK]]
        )
        last = start + CHUNK >= len(rows)
        tail = between if not last else "\n" if ndjson else "]\n"
        yield f"{head}{text}{tail}".encode()
        head = ""
