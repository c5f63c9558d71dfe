"""The sort order of a listing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resolver.standin.answers import fail

if TYPE_CHECKING:
    from multidict import MultiMapping

    from resolver.standin.image import Image

_SORTABLE = (
    *("name", "status", "container_format", "disk_format"),
    *("size", "id", "created_at", "updated_at"),
)


class _Descending:
    """Reverses a comparison, so that one key can have both directions."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: _Descending) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Descending) and bool(self.value == other.value)

    __hash__ = None  # type: ignore[assignment]  # only for comparisons


class Order:
    """Fields to sort by. They include the id, so the order is total."""

    def __init__(self, fields: Sequence[tuple[str, bool]]) -> None:
        """``fields``: names as in v2, each with whether it descends; `id` must be one of them."""
        names = {"created_at": "created", "updated_at": "updated"}
        self._fields = [(names.get(name, name), descends) for name, descends in fields]
        self.id_descends = dict(fields)["id"]

    @classmethod
    def from_query(cls, query: MultiMapping[str]) -> Order:
        """The order that a query asks for, in either syntax. Creation time and id are added."""
        if "sort" in query and ("sort_key" in query or "sort_dir" in query):
            fail(400, "Old and new sorting syntax cannot be combined")
        if "sort" in query:
            pairs = [part.strip().partition(":")[::2] for part in query["sort"].split(",")]
        else:
            keys = query.getall("sort_key", ["created_at"])
            dirs = query.getall("sort_dir", ["desc"])
            if len(dirs) not in {1, len(keys)}:
                fail(400, "Number of sort dirs does not match the number of sort keys")
            pairs = list(zip(keys, dirs if len(dirs) > 1 else dirs * len(keys), strict=True))
        for name, direction in pairs:
            if name not in _SORTABLE:
                valid = ", ".join(_SORTABLE)
                fail(400, f"Invalid sort key: {name}. It must be one of the following: {valid}.")
            if direction not in {"asc", "desc", ""}:
                fail(400, f"Invalid sort direction: {direction}")
        fields = {name: direction != "asc" for name, direction in pairs}
        rest = next(iter(fields.values())) if len(fields) == 1 else True
        for name in ("created_at", "id"):
            if "id" not in fields:  # fields after the id have no effect
                fields.setdefault(name, rest)
        return cls([*fields.items()])

    def key(self, image: Image, image_id: str | None = None) -> tuple[Any, ...]:
        """The sort key of an image. `image_id` is used instead of its own id."""
        key: list[Any] = []
        for name, descends in self._fields:
            value = getattr(image, name)
            value = (image_id or value) if name == "id" else (value is not None, value)
            key.append(_Descending(value) if descends else value)
        return tuple(key)
