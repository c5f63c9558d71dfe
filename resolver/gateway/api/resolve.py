"""``/resolve``: answers as data, for one id or many."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from aiohttp import web

from resolver.errors import Busy, InvalidImageId, TooLarge
from resolver.gateway.api.bulk_ids import BulkIds, parse_ids, parse_items
from resolver.gateway.app_keys import METRICS, OUTCOME, SERVICES
from resolver.gateway.limits import IDS_PER_TOKEN, LIMITS, RequestCharge
from resolver.gateway.negotiation import (
    JSON,
    NDJSON,
    accepted_type,
    client_token,
    preferences_from_query,
)
from resolver.gateway.problem import json_reply
from resolver.gateway.read_auth import admit
from resolver.gateway.reply import NO_STORE, to_response
from resolver.gateway.request_body import read_body
from resolver.models import Outcome, letter_case_of, parse_id
from resolver.resolution import AnswerTemplate, Preferences
from resolver.resolution.explain import explain

CHARACTERS_PER_WRITE = 64 * 1024
"""Answers rendered and written at a time, so that a slow reader holds up no memory."""

MAX_ITEM_BYTES = 128
"""Bytes that one id may take in a request body."""

MIN_ITEM_BYTES = 33
"""Bytes that one id takes at least: its hex digits and a line break."""

BYTES_PER_TOKEN = 36 * IDS_PER_TOKEN
"""Bytes of a body that cost as much as one probe, before anything of it is parsed: those of as many
ids."""

MAX_BULK_BODIES_BYTES = 33_554_432
"""All bodies of bulk requests that are being answered: 90 of 10,000 ids."""


class BodyBudget:
    """Bounds the memory that the bodies of bulk requests take."""

    def __init__(self, largest_body: int) -> None:
        """``largest_body``: bytes of the largest body that is allowed."""
        self.size = 0
        self._limit = max(MAX_BULK_BODIES_BYTES, largest_body)

    @contextmanager
    def one_body(self) -> Iterator[Callable[[int], None]]:
        """Gives a function that reserves bytes for one body; it raises Busy when none are left."""
        reserved = 0

        def reserve(size: int) -> None:
            nonlocal reserved
            if self.size + size > self._limit:
                raise Busy(
                    "too many large requests are being answered: retry later",
                    headers={"Retry-After": "1"},
                )
            self.size += size
            reserved += size

        try:
            yield reserve
        finally:
            self.size -= reserved


BODY_BUDGET = web.AppKey("body_budget", BodyBudget)


def _preferences(request: web.Request) -> Preferences:
    asked = preferences_from_query(request.rel_url.raw_query_string)
    return request.app[LIMITS].clients.preferences_for(request, asked)


async def explain_image(
    request: web.Request, text: str, preferences: Preferences
) -> dict[str, Any]:
    """The answer about an image for the client of a request, with the reasons.

    Raises:
        ResolverError: what the client is answered instead.
    """
    services = request.app[SERVICES]
    image_id, letter_case = parse_id(text), letter_case_of(text)
    charge = RequestCharge.for_request(request.app[LIMITS], request)
    caller = await admit(request, preferences.region, charge)
    charge(1)
    if caller is None or services.caller_images is None:
        resolution = await services.resolver.resolve_in_full(
            image_id, preferences, letter_case, charge
        )
    else:
        token = client_token(request.headers)
        resolution = await services.caller_images.resolve(
            caller, token, (image_id, letter_case), preferences, charge=charge, in_full=True
        )
    return explain(resolution)


async def explain_one(request: web.Request) -> web.StreamResponse:
    """GET /resolve/{id}/explain."""
    preferences = _preferences(request)
    explained = await explain_image(request, request.match_info["id"], preferences)
    return to_response(json_reply(explained))


async def resolve_many(request: web.Request) -> web.StreamResponse:
    """POST /resolve."""
    media_type = accepted_type(request.headers, JSON, NDJSON)
    preferences = _preferences(request)
    settings, limits = request.app[SERVICES].settings, request.app[LIMITS]
    await admit(request, preferences.region)  # before the body is read
    with request.app[BODY_BUDGET].one_body() as reserve:
        largest = settings.bulk_limit * MAX_ITEM_BYTES
        expected = (request.content_length or 0) / MIN_ITEM_BYTES / IDS_PER_TOKEN
        limits.check(request, expected)  # before the body is read
        try:
            body = await read_body(request, largest, reserve)
        except TooLarge as error:
            limits.charge(request, largest / BYTES_PER_TOKEN)  # it was read up to there
            error.detail += ": send fewer ids at once"
            raise
        by_size = len(body) / BYTES_PER_TOKEN
        limits.charge(request, by_size, expected)
        items = parse_items(body, request.headers.get("Content-Type", ""), settings.bulk_limit)
        await asyncio.sleep(0)  # others have a turn, here and below
        if len(items) > settings.bulk_limit:
            raise TooLarge(
                f"{len(items)} ids are more than the {settings.bulk_limit} "
                "(RESOLVER_BULK_LIMIT) that one request may have: split the request"
            )
        limits.charge_rest(request, len(items) / IDS_PER_TOKEN, by_size)
        headers = {"Vary": "Accept"}
        return await respond_to_many(request, items, preferences, media_type, headers)


async def respond_to_many(
    request: web.Request,
    items: Sequence[Any],
    preferences: Preferences,
    media_type: str,
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """The answer for each item, in their order. ``media_type``: JSON or NDJSON."""
    ids = await parse_ids(items)
    await asyncio.sleep(0)
    services = request.app[SERVICES]
    charge = partial(request.app[LIMITS].charge_questions, request)
    caller = await admit(request, preferences.region)
    if caller is not None and services.caller_images is not None:
        token = client_token(request.headers)
        templates = await services.caller_images.resolve_many(
            caller, token, ids.image_ids, preferences, ids.letter_cases, charge
        )
    else:
        templates = await services.bulk_resolver.resolve_many(
            ids.image_ids, preferences, ids.letter_cases, charge
        )
    _count_outcomes(request, templates, len(ids.invalid))
    response = web.StreamResponse(headers={**NO_STORE, **headers, "Content-Type": media_type})
    await response.prepare(request)
    for part in _rendered(_rows(ids, templates), ndjson=media_type == NDJSON):
        await response.write(part)
        await asyncio.sleep(0)
    await response.write_eof()
    return response


Row = tuple[AnswerTemplate | None, Any]
"""An answer's template and its id; or None and an item that is not an id."""


def _rows(ids: BulkIds, templates: Sequence[AnswerTemplate]) -> list[Row]:
    if not ids.invalid:
        return list(zip(templates, ids.texts, strict=True))
    valid: Iterator[Row] = iter(zip(templates, ids.texts, strict=True))
    return [
        (None, ids.invalid[position]) if position in ids.invalid else next(valid)
        for position in range(len(ids.texts) + len(ids.invalid))
    ]


def _invalid_row(item: Any) -> str:
    try:
        shown = item if isinstance(item, str) else json.dumps(item)
    except RecursionError:  # JSON may be read from deeper nesting than it may be written
        shown = "[…]" if isinstance(item, list) else "{…}"
    return json.dumps(
        {
            "id": shown[:MAX_ITEM_BYTES],
            "outcome": str(Outcome.INVALID),
            "uri": None,
            "url": None,
            "owners": [],
            "conflict": False,
            "missing": [],
            "proof": None,
            "code": InvalidImageId.code,
        }
    )


def _count_outcomes(
    request: web.Request, templates: Sequence[AnswerTemplate], invalid: int
) -> None:
    outcomes = {str(Outcome.INVALID): invalid} if invalid else {}
    by_identity = {id(template): template for template in templates}  # few serve many ids
    for identity, count in Counter(map(id, templates)).items():
        outcome = str(by_identity[identity].outcome)
        outcomes[outcome] = outcomes.get(outcome, 0) + count
    for outcome, count in outcomes.items():
        request.app[METRICS].requests.bulk_answers[outcome] += count
    request[OUTCOME] = outcomes


def _rendered(rows: Sequence[Row], *, ndjson: bool) -> Iterator[bytes]:
    """The answers as text, some at a time."""
    between = "\n" if ndjson else ",\n"
    before = "" if ndjson else "["
    texts: list[str] = []
    characters = 0
    for template, item in rows:
        text = template.render(item) if template else _invalid_row(item)
        texts.append(text)
        characters += len(text)
        if characters >= CHARACTERS_PER_WRITE:
            yield f"{before}{between.join(texts)}".encode()
            texts, characters, before = [], 0, between
    if texts or not rows:
        yield f"{before}{between.join(texts)}".encode()
    if rows or not ndjson:
        yield b"\n" if ndjson else b"]\n"
