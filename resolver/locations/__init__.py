"""The registry, the table that answers are made from, and choosing among owners."""

from resolver.locations.choose import Wish
from resolver.locations.registry import Registry
from resolver.locations.resolve import Answer, Form, Offer, Resolver
from resolver.locations.table import Place, Table, TableKeeper

__all__ = [
    "Answer",
    "Form",
    "Offer",
    "Place",
    "Registry",
    "Resolver",
    "Table",
    "TableKeeper",
    "Wish",
]
