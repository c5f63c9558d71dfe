"""The product's rule: which answer is true of an image, and which owner comes first."""

from resolver.resolution.answer import Answer, AnswerContext, AnswerTemplate, Offer
from resolver.resolution.image_resolver import LookupResult, Resolver
from resolver.resolution.prober import Prober
from resolver.resolution.ranking import Preferences

__all__ = [
    "Answer",
    "AnswerContext",
    "AnswerTemplate",
    "LookupResult",
    "Offer",
    "Preferences",
    "Prober",
    "Resolver",
]
