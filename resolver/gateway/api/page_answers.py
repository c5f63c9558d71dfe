"""What the status page answers about images: by id as anybody may ask, by name or digest as the
client's own token sees them."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from resolver.errors import ResolverError, TokenRefused
from resolver.gateway.api.image_listing import AUTH_TOKEN, list_page
from resolver.gateway.app_keys import SERVICES
from resolver.gateway.limits import LIMITS, ChargeOnce
from resolver.gateway.page.answer_section import answer_section, error_section, match_section
from resolver.gateway.page.markup import Html
from resolver.gateway.page.question import BY_ID, Question, is_id
from resolver.listing import ListingQuery
from resolver.models import letter_case_of, parse_id
from resolver.resolution.explain import explain
from resolver.resolution.ranking import DEFAULT_PREFERENCES

MAX_MATCHES = 25
"""Images that are shown of those that match."""


async def answer(request: web.Request, question: Question) -> tuple[int, Html]:
    """The status of the page, and its section with the answer."""
    try:
        if question.by == BY_ID:
            charge = ChargeOnce.for_request(request.app[LIMITS], request)
            parse_id(question.text)  # what is no id costs nothing
            charge()
            return 200, answer_section(await _explain(request, question.text, charge), question)
        return 200, await _matches(request, question)
    except ResolverError as error:
        needs_token = isinstance(error, TokenRefused) and not request.headers.get(AUTH_TOKEN)
        return error.status, error_section(error, question, needs_token=needs_token)


async def _explain(request: web.Request, text: str, charge: ChargeOnce) -> dict[str, Any]:
    """As ``/explain``."""
    resolution = await request.app[SERVICES].resolver.resolve_in_full(
        parse_id(text), DEFAULT_PREFERENCES, letter_case_of(text), charge
    )
    return explain(resolution)


async def _matches(request: web.Request, question: Question) -> Html:
    """The images that match. The locations are asked as ``GET /resolve?name=…`` asks them: with the
    token of this request and no other, also where it has none."""
    query = ListingQuery.of([(question.by, question.text), ("limit", str(MAX_MATCHES))])
    page = await list_page(request, query, DEFAULT_PREFERENCES, allow_partial=True)
    explained = None
    if len(page.rows) == 1 and is_id(page.rows[0].row.id):
        charge = ChargeOnce.for_request(request.app[LIMITS], request)
        explained = await _explain(request, page.rows[0].row.id, charge)
    return match_section(question, page, explained)
