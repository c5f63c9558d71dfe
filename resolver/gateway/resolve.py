"""``/resolve``: answers as data, for one id or many."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aiohttp import web

from resolver.errors import (
    InvalidImageId,
    InvalidRequest,
    TooLarge,
    UnsupportedMediaType,
)
from resolver.gateway.images import answer_one, make_wish
from resolver.gateway.keys import METRICS, OUTCOME, SERVICES
from resolver.gateway.problem import NO_STORE, accepted, json_response, require_found
from resolver.locations import Form, Wish
from resolver.models import Outcome, format_id, is_usual, parse_id

JSON = "application/json"
URI_LIST = "text/uri-list"
NDJSON = "application/x-ndjson"

CHUNK = 500
"""Answers rendered and written at a time: a slow reader holds up the next, not memory."""

MAX_ITEM = 128
"""Bytes that one id may take in a request body."""


def wish_of(request: web.Request) -> Wish:
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
    return make_wish(query.get("region", ""), query.getall("exclude", ()), query.get("fresh", ""))


async def resolve_one(request: web.Request) -> web.StreamResponse:
    """GET /resolve/{id}."""
    kind = accepted(request, JSON, URI_LIST)
    answer = await answer_one(request, parse_id(request.match_info["id"]), wish_of(request))
    require_found(answer, "Accept")
    if kind == URI_LIST:  # RFC 2483: CRLF behind each
        text = "".join(f"{offer.uri}\r\n" for offer in answer.offers)
        return web.Response(
            body=text.encode(), content_type=URI_LIST, headers={**NO_STORE, "Vary": "Accept"}
        )
    return json_response(answer.as_json(), headers={"Vary": "Accept"})


async def explain(request: web.Request) -> web.StreamResponse:
    """GET /resolve/{id}/explain."""
    raw = parse_id(request.match_info["id"])
    return json_response(await request.app[SERVICES].resolver.explain(raw, wish_of(request)))


async def resolve_many(request: web.Request) -> web.StreamResponse:
    """POST /resolve."""
    kind = accepted(request, JSON, NDJSON)
    wish = wish_of(request)
    services = request.app[SERVICES]
    items = parse_items(
        await read_body(request, services.settings.bulk_limit * MAX_ITEM),
        request.headers.get("Content-Type", ""),
    )
    if len(items) > services.settings.bulk_limit:
        raise TooLarge(
            f"{len(items)} ids are more than the {services.settings.bulk_limit} "
            "(RESOLVER_BULK_LIMIT) that one request may have: send them in parts"
        )
    parsed = [_parse(item) for item in items]
    forms = await services.resolver.resolve_text([one[0] for one in parsed if one], wish)
    rows = _rows(items, parsed, forms)
    _count(request, rows)
    response = web.StreamResponse(headers={**NO_STORE, "Content-Type": kind, "Vary": "Accept"})
    await response.prepare(request)
    for part in _rendered(rows, ndjson=kind == NDJSON):
        await response.write(part)
    await response.write_eof()
    return response


async def read_body(request: web.Request, limit: int) -> bytes:
    """The body, read no further than a little past ``limit`` bytes.

    Raises:
        TooLarge: it is longer.
    """
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise TooLarge(f"the body is longer than {limit} bytes: send fewer ids at once")
    return bytes(body)


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
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            'the body is not JSON: send ["<id>", …], {"ids": ["<id>", …]} or a line each'
        ) from error
    items = value.get("ids") if isinstance(value, dict) else value
    if not isinstance(items, list) or (isinstance(value, dict) and set(value) != {"ids"}):
        raise InvalidRequest('the JSON is neither ["<id>", …] nor {"ids": ["<id>", …]}')
    return items


def _parse(item: Any) -> tuple[bytes, str] | None:
    """An id as bytes and in its usual form; None for what is no id."""
    try:
        if not isinstance(item, str):
            return None
        if is_usual(item):
            return bytes.fromhex(item.replace("-", "")), item
        raw = parse_id(item)
        return raw, format_id(raw)
    except InvalidImageId:
        return None


Row = tuple[Outcome, Form | None, Any]
"""An answer to come: its outcome, its text but for the id, and the id; without a text, the item
that is no id."""


def _rows(
    items: Sequence[Any], parsed: Sequence[tuple[bytes, str] | None], forms: Iterable[Form]
) -> list[Row]:
    form_of = iter(forms).__next__
    rows: list[Row] = []
    for item, one in zip(items, parsed, strict=True):
        if one is None:
            rows.append((Outcome.INVALID, None, item))
        else:
            form = form_of()
            rows.append((form.outcome, form, one[1]))
    return rows


def _invalid(item: Any) -> str:
    shown = item if isinstance(item, str) else json.dumps(item)
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


def _count(request: web.Request, rows: Sequence[Row]) -> None:
    counts = Counter(str(row[0]) for row in rows)
    for outcome, count in counts.items():
        request.app[METRICS].answers.labels(outcome).inc(count)
    request[OUTCOME] = dict(counts)


def _rendered(rows: Sequence[Row], *, ndjson: bool) -> Iterator[bytes]:
    """The answers as text, `CHUNK` at a time."""
    if not rows:
        yield b"" if ndjson else b"[]\n"
    between = "\n" if ndjson else ",\n"
    head = "" if ndjson else "["
    for start in range(0, len(rows), CHUNK):
        text = between.join(
            [
                form.fill(one) if form else _invalid(one)
                for _, form, one in rows[start : start + CHUNK]
            ]
        )
        last = start + CHUNK >= len(rows)
        tail = between if not last else "\n" if ndjson else "]\n"
        yield f"{head}{text}{tail}".encode()
        head = ""
