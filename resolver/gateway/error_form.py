"""Which form an error has for a client: a problem document, or what Glance itself would send."""

from __future__ import annotations

import re
from enum import StrEnum

from multidict import CIMultiDict

from resolver.gateway.negotiation import HeaderFields, preferred_type

_GLANCE_PATH = re.compile(r"(?:/region/[^/]+)?/v[12](?:/.*)?", re.ASCII | re.DOTALL)

_TARGET = re.compile(rb"[A-Z]{1,16} (?:[Hh][Tt][Tt][Pp][Ss]?://[^/?# \r\n]*)?(/[^?# \r\n]*)")
_ACCEPT = re.compile(rb"\naccept:([^\r\n]*)\r", re.IGNORECASE)


class ErrorForm(StrEnum):
    """The media type of an error below ``/v1`` or ``/v2``, or these below ``/region/NAME``."""

    HTML = "text/html"
    """Glance's own form, the only one whose text every Glance client shows."""
    PROBLEM = "application/problem+json"
    JSON = "application/json"
    """The problem with a member ``message``, which openstacksdk shows. tempest refuses every other
    type where it asks for this one."""


def error_form(path: str, headers: HeaderFields) -> ErrorForm | None:
    """The form of an error in the reply to a request; None for a path that is not Glance's, where
    all errors are problem documents."""
    if _GLANCE_PATH.fullmatch(path) is None:
        return None
    return ErrorForm(preferred_type(headers, *ErrorForm) or ErrorForm.HTML)


def error_form_of_bytes(head: bytes) -> ErrorForm | None:
    """The same for a request that cannot be read, from what has arrived of its head."""
    target = _TARGET.match(head)
    if target is None:
        return None
    accept = [("Accept", value.decode("latin-1")) for value in _ACCEPT.findall(head)]
    return error_form(target[1].decode("latin-1"), CIMultiDict(accept))
