"""What calls raise."""

from __future__ import annotations

from collections.abc import Mapping


class ClientError(Exception):
    """Any error of this library. Errors of the local disk are OSError."""


class GatewayError(ClientError):
    """The gateway refused a request, or its response is not that of a glance-resolver."""

    def __init__(self, text: str, *, status: int | None = None, code: str | None = None) -> None:
        """``code`` is the stable `code` of the gateway's problem document, if it sent one."""
        super().__init__(text)
        self.status = status
        self.code = code


class GatewayUnavailableError(GatewayError):
    """After all retries the gateway does not answer, or answers 429, 502, 503 or 504."""

    def __init__(
        self,
        text: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """``retry_after``: seconds after which the gateway asks to be called again."""
        super().__init__(text, status=status, code=code)
        self.retry_after = retry_after


class ImageAbsentError(ClientError):
    """Every location has been asked, and none has the image."""


class ImageUnknownError(ClientError):
    """No owner of the image is known, and some location could not answer: it may exist."""


class DownloadError(ClientError):
    """No owner delivered the image. `failures` says why, by the name of the location."""

    def __init__(self, image_id: str, failures: Mapping[str, str]) -> None:
        reasons = "; ".join(f"{location}: {reason}" for location, reason in failures.items())
        super().__init__(f"image {image_id} could not be downloaded: {reasons}")
        self.failures = dict(failures)
