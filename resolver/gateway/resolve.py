"""``/resolve``: answers as data, for one id or many."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
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
from resolver.locations import Answer, Wish
from resolver.models import Outcome, parse_id

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
    require_found(answer)
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
    raws = [_parse(item) for item in items]
    answers = iter(await services.resolver.resolve([raw for raw in raws if raw], wish))
    rows = [(item, next(answers) if raw else None) for item, raw in zip(items, raws, strict=True)]
    _count(request, rows)
    response = web.StreamResponse(headers={**NO_STORE, "Content-Type": kind, "Vary": "Accept"})
    await response.prepare(request)
    async for part in _rendered(rows, ndjson=kind == NDJSON):
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
            lines = body.decode("utf-8").splitlines()
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


def _parse(item: Any) -> bytes | None:
    try:
        return parse_id(item) if isinstance(item, str) else None
    except InvalidImageId:
        return None


def _invalid(item: Any) -> dict[str, Any]:
    shown = item if isinstance(item, str) else json.dumps(item)
    return {
        "id": shown[:MAX_ITEM],
        "outcome": str(Outcome.INVALID),
        "uri": None,
        "url": None,
        "owners": [],
        "missing": [],
        "code": InvalidImageId.code,
    }


def _count(request: web.Request, rows: Sequence[tuple[Any, Answer | None]]) -> None:
    counts: dict[str, int] = {}
    for _, answer in rows:
        outcome = str(answer.outcome if answer else Outcome.INVALID)
        counts[outcome] = counts.get(outcome, 0) + 1
    for outcome, count in counts.items():
        request.app[METRICS].answers.labels(outcome).inc(count)
    request[OUTCOME] = counts


async def _rendered(
    rows: Sequence[tuple[Any, Answer | None]], *, ndjson: bool
) -> AsyncIterator[bytes]:
    """The answers as text, `CHUNK` at a time."""
    if not ndjson:
        yield b"["
    for start in range(0, len(rows), CHUNK):
        texts = [
            json.dumps(answer.as_json() if answer else _invalid(item))
            for item, answer in rows[start : start + CHUNK]
        ]
        if ndjson:
            yield ("\n".join(texts) + "\n").encode()
        else:
            yield ((",\n" if start else "") + ",\n".join(texts)).encode()
    if not ndjson:
        yield b"]\n"
