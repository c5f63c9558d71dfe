"""The product's rule: which answer is true of an image, and which owner comes first.

`answer.decide` is the rule. `ranking` orders owners. `image_resolver.Resolver` gathers what the
rule needs, through `index_reader` (claims) and `prober` (the locations themselves);
`bulk_resolver` does so for many images at once.
"""

from resolver.resolution.answer import Answer, AnswerContext, decide
from resolver.resolution.bulk_resolver import BulkResolver
from resolver.resolution.image_resolver import RETRY_AFTER_SECONDS, Resolver
from resolver.resolution.index_reader import LookupResult
from resolver.resolution.prober import Prober
from resolver.resolution.ranking import ImageOwner, Preferences
from resolver.resolution.templates import AnswerTemplate, TemplateCache, VariantTemplates
from resolver.resolution.vouching_problems import VouchingProblems

__all__ = [
    "RETRY_AFTER_SECONDS",
    "Answer",
    "AnswerContext",
    "AnswerTemplate",
    "BulkResolver",
    "ImageOwner",
    "LookupResult",
    "Preferences",
    "Prober",
    "Resolver",
    "TemplateCache",
    "VariantTemplates",
    "VouchingProblems",
    "decide",
]
