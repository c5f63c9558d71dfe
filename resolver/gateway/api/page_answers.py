"""What the status page answers about images: by id as ``/resolve`` does, by name or digest as the
client's own token sees them."""

from __future__ import annotations

from aiohttp import web

from resolver.errors import ResolverError, TokenRefused, TokenRequired
from resolver.gateway.api.image_listing import list_page
from resolver.gateway.api.resolve import explain_image
from resolver.gateway.negotiation import AUTH_TOKEN
from resolver.gateway.page.answer_section import answer_section, error_section, match_section
from resolver.gateway.page.markup import Html
from resolver.gateway.page.question import BY_ID, Question, is_id
from resolver.listing import Advice, ListingQuery
from resolver.resolution import Preferences

MAX_MATCHES = 25
"""Images that are shown of those that match."""

ADVICE = Advice("`region`")


async def answer(request: web.Request, question: Question) -> tuple[int, Html]:
    """The status of the page, and its section with the answer."""
    preferences = Preferences(question.region)
    try:
        if question.by == BY_ID:
            explained = await explain_image(request, question.text, preferences)
            return 200, answer_section(explained, question)
        return 200, await _matches(request, question, preferences)
    except ResolverError as error:
        is_about_token = isinstance(error, TokenRefused | TokenRequired)
        needs_token = is_about_token and not request.headers.get(AUTH_TOKEN)
        return error.status, error_section(error, question, needs_token=needs_token)


async def _matches(request: web.Request, question: Question, preferences: Preferences) -> Html:
    """The images that match. The locations are asked as ``GET /resolve?name=…`` asks them: with the
    token of this request and no other, also where it has none."""
    query = ListingQuery.of([(question.by, question.text), ("limit", str(MAX_MATCHES))])
    page = await list_page(request, query, preferences, ADVICE, allow_partial=True)
    explained = None
    if len(page.rows) == 1 and is_id(page.rows[0].row.id):
        explained = await explain_image(request, page.rows[0].row.id, preferences)
    return match_section(question, page, explained)
