"""Which form an error has for a client: a problem document, or what Glance itself would send."""

from __future__ import annotations

import re
from enum import StrEnum

from resolver.gateway.negotiation import HeaderFields, preferred_type

_GLANCE_PATH = re.compile(r"(?:/region/[^/]+)?/v[12](?:/.*)?", re.ASCII | re.DOTALL)


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
