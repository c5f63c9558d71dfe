"""Answers as text, rendered once for all images with the same owners in the same order.

Such images differ in their id only. A template is what is rendered for a placeholder in place of
the id, cut where the placeholder stands. The placeholder is random and never leaves the process,
so no name, region or URL of a location can contain it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Hashable
from typing import NamedTuple, cast

from resolver.models import Outcome, Owner
from resolver.resolution.answer import Answer, AnswerContext, decide, json_tail, json_text
from resolver.resolution.ranking import has_ties

PLACEHOLDER = secrets.token_hex(16)
"""Stands in place of the image's id while a template is rendered."""

MAX_OWNERS = 30_000
"""Owners in the keys of one cache. There are as many keys as there are distinct sets of owners, and
many objects keep the garbage collector busy."""

ORDER_DEPENDS_ON_IMAGE = Owner(-1)
"""First member of a key whose owners are in ranked order. No claim has this number."""

TemplateKey = tuple[Owner, ...]


class AnswerTemplate(NamedTuple):
    """Text to be joined by an image's id."""

    outcome: Outcome
    parts: tuple[str, ...]

    def render(self, text: str) -> str:
        """The answer about the image whose id, dashed and in lower case, is ``text``."""
        return text.join(self.parts)


Render = Callable[[Answer, str, Hashable], str | None]
"""Makes the text of an answer about an id for a variant; None where it has none."""


class TemplateCache:
    """Rendered answers of one context."""

    def __init__(self, context: AnswerContext, render: Render) -> None:
        self.context = context
        self._render = render
        self._variants: dict[Hashable, VariantTemplates] = {}
        self._ties: dict[TemplateKey, bool] = {}
        self._owners = 0
        """In the keys."""

    def of(self, variant: Hashable) -> VariantTemplates:
        """The templates of a variant."""
        templates = self._variants.get(variant)
        if templates is None:
            templates = self._variants[variant] = VariantTemplates(self, variant)
        return templates

    def find(
        self,
        known: dict[TemplateKey, AnswerTemplate | None],
        image_id: bytes,
        claims: tuple[Owner, ...],
        variant: Hashable,
    ) -> AnswerTemplate | None:
        """The template for images with these claims, from ``known`` or made and kept there."""
        key = self.key(image_id, claims)
        if key is None:
            return self._template(decide(self.context, image_id, claims), variant)
        try:
            return known[key]
        except KeyError:
            answer = decide(self.context, image_id, claims)
            template = self._template(answer, variant)
            if self._has_room_for(key):
                known[key] = template
            return template

    def key(self, image_id: bytes, claims: tuple[Owner, ...]) -> TemplateKey | None:
        """Equal for two images whose answers differ in the id only. None for an image that has no
        such key, because an owner spells its id with upper-case digits."""
        ties = self._ties.get(claims)
        if ties is None:
            if any(claim.letter_case for claim in claims):  # not kept: there may be very many
                return None
            context = self.context
            owners = context.owners_of(claims)
            ties = has_ties(owners, context.preferences, context.home_region)
            if self._has_room_for(claims):
                self._ties[claims] = ties
        if not ties:
            return claims
        ranked = self.context.ranked(image_id, self.context.owners_of(claims))
        order = (
            Owner(owner.number, owner.letter_case, owner.status, owner.content) for owner in ranked
        )
        return (ORDER_DEPENDS_ON_IMAGE, *order)

    def _has_room_for(self, key: TemplateKey) -> bool:
        """Whether a key may be kept. It counts from now on."""
        self._owners += len(key) + 1
        return self._owners <= MAX_OWNERS

    def _template(self, answer: Answer, variant: Hashable) -> AnswerTemplate | None:
        rendered = self._render(answer, PLACEHOLDER, variant)
        if rendered is None:
            return None
        return AnswerTemplate(answer.outcome, tuple(rendered.split(PLACEHOLDER)))


class VariantTemplates:
    """The templates of one variant."""

    def __init__(self, cache: TemplateCache, variant: Hashable) -> None:
        self.table = cache.context.table
        self._cache = cache
        self._variant = variant
        self._templates: dict[TemplateKey, AnswerTemplate | None] = {}

    def get(self, image_id: bytes, claims: tuple[Owner, ...]) -> AnswerTemplate | None:
        """The template for images with these claims; None where the variant has no text."""
        # Claims are a key by themselves, unless the order of their owners depends on the image.
        template = self._templates.get(claims)
        if template is not None:
            return template
        return self._cache.find(self._templates, image_id, claims, self._variant)


def render_json(answer: Answer, text: str, variant: Hashable) -> str:
    """The JSON text of an answer for a variant: the source of the claims, and their age."""
    source, age = cast("tuple[str, float]", variant)
    if answer.outcome is Outcome.ABSENT:
        age = answer.age  # of its proof
    return json_text(answer, text) + json_tail(source, age)


def json_template(answer: Answer) -> AnswerTemplate:
    """The JSON text of one answer, as a template. (A location may be called like the image.)"""
    rendered = json_text(answer, PLACEHOLDER) + json_tail(answer.source, answer.age)
    return AnswerTemplate(answer.outcome, tuple(rendered.split(PLACEHOLDER)))
