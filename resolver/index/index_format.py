"""The format of the index: which versions of this program may read it, and which may write it.

A *format* is a number. Each version of the program has one, `FORMAT`. The index names three:

``format``
    Programs of an older format must not read it.
``writers``
    Programs of an older format must not write it. They may read it, and serve from it.
``newest``
    The newest format of a program that has written it.

A change that older programs can live with (they keep what they do not know) raises ``newest`` only.
A change that they cannot live with is made where an index is new, or is rebuilt by an operator: the
index has the lower numbers until then, and programs of both formats use it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from resolver.index.redis.replies import optional_int, parses_reply
from resolver.index.redis.scripts import load

FORMAT = 3
"""The format of this version. 2 adds marks to claims (`resolver.index.codec`), 3 a second half of
the buckets (`resolver.index.buckets`)."""

OLDEST_READER, OLDEST_WRITER = 1, 1
"""The oldest formats whose programs may read and write what this version writes to an index whose
ids are not spread."""

SPREAD_FORMAT = 3
"""The oldest format whose programs may read or write an index whose ids are spread."""

UPPERCASE = "uppercase"
"""The field of the index's meta that is there once a claim's id was spelled with upper-case digits.
Version 0.1.0 does not set it; the next sweep of a newer one does."""

READ_WITH_CLAIMS = ("format", "bits", "identity")
"""The fields that every lookup reads: claims must not be read after a change of one of them."""

META_FIELDS = (*READ_WITH_CLAIMS, "next", "writers", "newest", UPPERCASE)
"""The fields of the index's meta that `parse_meta` takes, in this order."""

ADOPT = load("adopt_index")


class Meta(NamedTuple):
    """What Redis says about the index."""

    format: int
    code: int
    """The field ``bits``: see `resolver.index.buckets.Buckets.code`."""
    next_code: int | None
    identity: str
    writers: int
    newest: int
    has_uppercase_ids: bool
    stored: list[bytes]
    """Of `READ_WITH_CLAIMS`."""

    @property
    def unreadable_because(self) -> str:
        """Why this version must not read the index; empty where it may."""
        if self.format <= FORMAT:
            return ""
        return (
            f"the index in Redis has format {self.format} and this version reads {FORMAT} at most: "
            "run the version that made it, or set another RESOLVER_PREFIX"
        )

    @property
    def read_only_because(self) -> str:
        """Why this version must not write to the index; empty where it may."""
        if self.writers <= FORMAT:
            return ""
        return (
            f"the index in Redis accepts writes from versions of format {self.writers} or newer "
            f"only, and this version has format {FORMAT}"
        )


@parses_reply
def parse_meta(reply: Any) -> Meta | None:
    """The meta from the values of `META_FIELDS`; None where there is no index.

    Raises:
        IndexUnavailable: a value is not what it must be.
    """
    form, bits, identity, next_bits, writers, newest, uppercase = reply
    if form is None or bits is None or identity is None:
        return None
    return Meta(
        int(form),
        int(bits),
        optional_int(next_bits),
        identity.decode(),
        # Programs of format 1 write neither of these.
        optional_int(writers) or int(form),
        optional_int(newest) or int(form),
        uppercase is not None,
        [form, bits, identity],
    )


def new_index_fields() -> dict[str, int]:
    """What a new index says about its format."""
    return {"format": SPREAD_FORMAT, "writers": SPREAD_FORMAT, "newest": FORMAT}
