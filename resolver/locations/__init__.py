"""The registry, the table that answers are made from, and choosing among owners."""

from resolver.locations.answer import Answer, Form, Offer, Round
from resolver.locations.ask import Asker
from resolver.locations.choose import Wish
from resolver.locations.registry import Registry
from resolver.locations.resolve import Owned, Resolver
from resolver.locations.table import Place, Table, TableKeeper, Terms
from resolver.locations.upkeep import Given, Upkeep

__all__ = [
    "Answer",
    "Asker",
    "Form",
    "Given",
    "Offer",
    "Owned",
    "Place",
    "Registry",
    "Resolver",
    "Round",
    "Table",
    "TableKeeper",
    "Terms",
    "Upkeep",
    "Wish",
]
