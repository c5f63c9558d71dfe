"""Failures, each with the HTTP status and the stable ``code`` that its problem document carries.

The gateway renders every :class:`ResolverError` as ``application/problem+json`` (RFC 9457); the
command line prints the same ``detail``. Details say what to do and never show internals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class ResolverError(Exception):
    """Base of all failures that a user may see."""

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
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})
        self.problem_code = code or self.code


class InvalidImageId(ResolverError):
    status, code, title = 400, "invalid-image-id", "Not an image id"


class InvalidRequest(ResolverError):
    status, code, title = 400, "invalid-request", "Bad request"


class InvalidLocation(ResolverError):
    status, code, title = 400, "invalid-location", "Not a valid location"


class Unauthorized(ResolverError):
    status, code, title = 401, "unauthorized", "No valid admin token"


class Forbidden(ResolverError):
    status, code, title = 403, "admin-disabled", "Admin paths are off"


class NotFound(ResolverError):
    status, code, title = 404, "not-found", "No such resource"


class LocationNotFound(NotFound):
    code, title = "location-not-found", "No such location"


class ImageAbsent(ResolverError):
    """Every location was covered and none has the image."""

    status, code, title = 404, "image-absent", "No location has this image"


class MethodNotAllowed(ResolverError):
    status, code, title = 405, "method-not-allowed", "Method not allowed here"


class NotAcceptable(ResolverError):
    status, code, title = 406, "not-acceptable", "Cannot answer in that form"


class Conflict(ResolverError):
    status, code, title = 409, "conflict", "Changed meanwhile"


class RequestTimeout(ResolverError):
    """A body took longer than a client may take for it."""

    status, code, title = 408, "request-timeout", "The request came too slowly"
    closes_connection = True


class TooLarge(ResolverError):
    status, code, title = 413, "too-large", "Request too large"


class UnsupportedMediaType(ResolverError):
    status, code, title = 415, "unsupported-media-type", "Body of an unknown type"


class TooManyRequests(ResolverError):
    """One client asked for more of what is dear than it may."""

    status, code, title = 429, "too-many-requests", "Too many requests"


class NoCounterpart(ResolverError):
    """The owner serves another API version, where this request has no counterpart."""

    status, code, title = 501, "no-counterpart", "Not possible at the owner"


class LoopDetected(ResolverError):
    """Another resolver, or this one, takes this one for a Glance server."""

    status, code, title = 508, "loop", "Not a Glance server"


class ImageUnknown(ResolverError):
    """No owner is known and some location could not vouch: neither found nor absent."""

    status, code, title = 503, "image-unknown", "Cannot tell which location has this image"


class IndexUnavailable(ResolverError):
    """``detail`` is for anybody. ``whole``, which its text ends in, may name hosts: for the log."""

    status, code, title = 503, "index-unavailable", "The index cannot be reached"

    def __init__(
        self,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
        whole: str = "",
    ) -> None:
        super().__init__(detail, headers=headers, extra=extra)
        self.whole = whole

    def __str__(self) -> str:
        return f"{self.detail} [{self.whole}]" if self.whole else self.detail


class Busy(ResolverError):
    """As much as this process takes on at a time is under way."""

    status, code, title = 503, "busy", "Busy"


class IndexLost(IndexUnavailable):
    """Redis answers and has no index: it lost its data, or nobody has made one yet."""


class LocationUnavailable(ResolverError):
    """A Glance server did not give a usable answer. Never means that it lacks an image."""

    status, code, title = 502, "location-unavailable", "The location did not answer properly"


class SettingsError(ResolverError):
    """A setting, a locations file or a command line that cannot work. Shown at start, in one line
    whatever was quoted."""

    code, title = "settings", "Bad settings"

    def __init__(self, detail: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in detail))
