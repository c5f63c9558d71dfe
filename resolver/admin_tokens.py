"""Admin tokens as operators write them, and what each may do."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """What an admin token may do besides reading."""

    RO = "ro"
    """Nothing."""
    CLAIMS = "claims"
    """Claim and release images by hand, sweep and check locations."""
    STATE = "state"
    """Change the state of locations and its reason, sweep and check them."""
    ADMIN = "admin"
    """Everything."""


def lesser_role(role: Role, other: Role) -> Role:
    """The role that may do only what both may do."""
    if role is other or other is Role.ADMIN:
        return role
    return other if role is Role.ADMIN else Role.RO


MIN_TOKEN_CHARACTERS = 6

SHORT_TOKEN_CHARACTERS = 16
"""Shorter tokens can be guessed, given time; they are accepted with a warning."""


class AdminToken(NamedTuple):
    """A token for the admin paths, and the name that the audit log has for it."""

    name: str
    token: str
    role: Role = Role.ADMIN


def is_token_text(text: str) -> bool:
    """Whether a header can have the text as a token: printable ASCII without spaces."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


_TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}", re.ASCII)

_NAME_AND_ROLE = re.compile(
    rf"{_TOKEN_NAME.pattern}:(?:[a-z]+|(?:{'|'.join(Role)})[^A-Za-z0-9_-].*)", re.ASCII | re.DOTALL
)
"""A role, or what is taken for one, whose token is missing or follows the wrong sign. As a TOKEN it
would be an admin's."""


def parse_token(text: str) -> AdminToken:
    """An entry of RESOLVER_ADMIN_TOKENS: ``TOKEN``, ``NAME=TOKEN`` or ``NAME:ROLE=TOKEN``.

    Raises:
        ValueError: the entry has another form. The message does not contain the token.
    """
    name, equals, token = text.partition("=")
    if not (equals and token):
        name, token = "admin", text
    name, colon, role = name.partition(":")
    if (
        not _TOKEN_NAME.fullmatch(name)
        or len(token) < MIN_TOKEN_CHARACTERS
        or not is_token_text(token)
        or _NAME_AND_ROLE.fullmatch(token)
        or (colon and role not in list(Role))
    ):
        raise ValueError(
            "must be TOKEN, NAME=TOKEN or NAME:ROLE=TOKEN, with a role of "
            f"{', '.join(Role)}, and a TOKEN of at least {MIN_TOKEN_CHARACTERS} ASCII characters"
        )
    return AdminToken(name, token, Role(role) if colon else Role.ADMIN)
