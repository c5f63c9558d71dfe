"""Errors that users see, each with its HTTP status and the stable ``code`` of its problem document.

The gateway renders every :class:`ResolverError` as ``application/problem+json`` (RFC 9457), below
``/v1`` and ``/v2`` as Glance renders its own, and the command line prints its ``detail``. A detail
says what to do and never shows internals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


def installing(extra: str) -> str:
    """How to install an extra, for an error. The name alone would have pip look for a package at
    its index, where anybody may have registered it."""
    return f"pip install '.[{extra}]' in the checkout of glance-resolver"


class ResolverError(Exception):
    """Base of all errors that a user may see.

    ``headers`` are added to the response and ``extra`` to the members of the problem document.
    ``code`` replaces the code of the class. ``glance_text`` is what Glance itself says in such a
    case; it stands in place of ``detail`` where a client gets Glance's form.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    closes_connection: ClassVar[bool] = False
    """Whether the connection must close: the rest of a body would be read as a request."""

    def __init__(
        self,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
        code: str | None = None,
        glance_text: str = "",
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})
        self.problem_code = code or self.code
        self.glance_text = glance_text


class InvalidImageId(ResolverError):
    status, code, title = 400, "invalid-image-id", "Not an image id"


class InvalidRequest(ResolverError):
    status, code, title = 400, "invalid-request", "Bad request"


class InvalidLocation(ResolverError):
    status, code, title = 400, "invalid-location", "Not a valid location"


class Unauthorized(ResolverError):
    status, code, title = 401, "unauthorized", "No valid admin token"


class Forbidden(ResolverError):
    status, code, title = 403, "admin-disabled", "Admin paths are disabled"


class TokenRefused(ResolverError):
    """A Glance server does not accept the client's own token."""

    status, code, title = 401, "token-refused", "Token not accepted"


class TokenRequired(ResolverError):
    """RESOLVER_READ_AUTH asks for a token of Keystone, and the request has no valid one."""

    status, code, title = 401, "token-required", "A token of Keystone is needed"


class TokenUnchecked(ResolverError):
    """Keystone could not be asked whether it accepts the client's token."""

    status, code, title = 503, "token-unchecked", "The token could not be checked"


class ListingForbidden(ResolverError):
    """The policy of a Glance server forbids the client to list its images."""

    status, code, title = 403, "listing-forbidden", "Listing is forbidden"


class NotFound(ResolverError):
    status, code, title = 404, "not-found", "No such resource"


class LocationNotFound(NotFound):
    code, title = "location-not-found", "No such location"


class ImageAbsent(ResolverError):
    """No location has the image, and every location could prove it."""

    status, code, title = 404, "image-absent", "No location has this image"


class MethodNotAllowed(ResolverError):
    status, code, title = 405, "method-not-allowed", "Method not allowed here"


class NotAcceptable(ResolverError):
    status, code, title = 406, "not-acceptable", "No acceptable media type"


class Conflict(ResolverError):
    status, code, title = 409, "conflict", "Changed at the same time"


class NoNumberLeft(Conflict):
    """All numbers of the index were given to locations: another index has others."""

    code, title = "no-number-left", "No number is left for a location"


class NameTaken(ResolverError):
    """A location of this name is registered, and the client did not want to replace one."""

    status, code, title = 412, "name-taken", "Name taken"


class RequestTimeout(ResolverError):
    """The client took longer to send the body than RESOLVER_CLIENT_TIMEOUT allows."""

    status, code, title = 408, "request-timeout", "The request was sent too slowly"
    closes_connection = True


class TooLarge(ResolverError):
    status, code, title = 413, "too-large", "Request too large"


class UnsupportedMediaType(ResolverError):
    status, code, title = 415, "unsupported-media-type", "Unsupported type of body"


class TooManyRequests(ResolverError):
    """One client made more expensive requests than RESOLVER_CLIENT_RATE allows."""

    status, code, title = 429, "too-many-requests", "Too many requests"


class NoRoute(ResolverError):
    """A proxy asked where a request is to be sent, and this gateway answers it itself."""

    status, code, title = 403, "no-route", "Answered by this gateway"


class NoCounterpart(ResolverError):
    """The owner serves another version of the API, in which this request has no counterpart."""

    status, code, title = 501, "no-counterpart", "Not possible at the owner"


class MisdirectedRequest(ResolverError):
    """RFC 9110, 15.5.20."""

    status, code, title = 421, "misdirected", "Not a host of this gateway"


class LoopDetected(ResolverError):
    """A resolver, this one or another, has this one registered as a Glance server."""

    status, code, title = 508, "loop", "Not a Glance server"


class ImageUnknown(ResolverError):
    """No owner is known, and some location could not prove that it lacks the image."""

    status, code, title = 503, "image-unknown", "Cannot tell which location has this image"


class ImagePending(ResolverError):
    """The image is known, and none of its owners has its bytes yet."""

    status, code, title = 503, "image-pending", "The image has no data yet"


class ImageDead(ResolverError):
    """The image is known, and none of its owners will ever have its bytes."""

    status, code, title = 410, "image-dead", "The image has no data"


class ListingIncomplete(ResolverError):
    """Not every location could be asked for its images, and the client wants all."""

    status, code, title = 503, "listing-incomplete", "Some location's images are missing"


class IndexUnavailable(ResolverError):
    """Redis does not answer.

    ``detail`` may be shown to anybody. ``log_detail`` is the complete reason, for the log: it may
    name hosts. The text of the exception ends with it.
    """

    status, code, title = 503, "index-unavailable", "The index cannot be reached"

    def __init__(
        self,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
        log_detail: str = "",
    ) -> None:
        super().__init__(detail, headers=headers, extra=extra)
        self.log_detail = log_detail

    def __str__(self) -> str:
        return f"{self.detail} [{self.log_detail}]" if self.log_detail else self.detail


class Busy(ResolverError):
    """This process already does as much as its limits allow."""

    status, code, title = 503, "busy", "Busy"


class IndexLost(IndexUnavailable):
    """Redis answers but has no index: it lost its data, or the index was not made yet."""

    code, title = "index-lost", "Redis has lost the index"


class IndexReadOnly(IndexUnavailable):
    """A newer version has changed the index so that this one may read it only."""

    code, title = "index-read-only", "This version may not change the index"


class LocationUnavailable(ResolverError):
    """A Glance server gave no usable answer. This never means that it lacks an image."""

    status, code, title = 502, "location-unavailable", "The location gave no usable answer"


class ShrinkGuardTripped(LocationUnavailable):
    """More of a location's images seem to be gone than are believed without an operator."""

    code = "shrink-guard"


class SettingsError(ResolverError):
    """A setting, a locations file or a command line is wrong.

    It is shown at start. The detail is always one printable line, whatever the input contained.
    """

    code, title = "settings", "Bad settings"

    def __init__(self, detail: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in detail))


MAX_MESSAGE = 500


def without_middle(message: str) -> str:
    """A message of at most `MAX_MESSAGE` characters: it may quote a value of any length, and says
    what is wrong before or behind it."""
    half = MAX_MESSAGE // 2
    return message if len(message) <= MAX_MESSAGE else f"{message[:half]}…{message[1 - half :]}"
