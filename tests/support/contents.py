"""Bytes of images by their hashes, as the index remembers them."""

from __future__ import annotations

from resolver.image_facts import Content, HashKind

ONE, OTHER = (Content(HashKind.OS_HASH, digest) for digest in (b"12345678", b"another!"))
"""Different bytes."""
