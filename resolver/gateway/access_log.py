"""The log line of one request."""

from __future__ import annotations

import re
from urllib.parse import unquote

from resolver.logs import request_log

_SEPARATOR = re.compile(r"([&;])")

MAX_PATH_CHARACTERS = 512

SECRET_WORDS = (
    *("token", "pass", "pwd", "secret", "auth", "key", "sig", "credential"),
    *("jwt", "bearer", "session", "otp"),
)
"""A query parameter with one of these in its name may be a secret. The gateway takes none from a
query, but clients make mistakes."""


def mask_secrets(target: str) -> str:
    """A request's target with the values of parameters masked that may be secrets.

    The time it takes grows linearly with the length of the target.
    """
    path, mark, query = target.partition("?")
    if not mark:
        return target
    return f"{path}?{''.join(map(_masked, _SEPARATOR.split(query)))}"


def _masked(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    decoded = unquote(name).lower()  # servers decode it, too
    if any(word in decoded for word in SECRET_WORDS) and (equals or "=" in decoded):
        return f"{name.partition('%')[0]}=***"
    if _has_login(value):
        return f"{name}=***"
    return parameter


def _has_login(value: str) -> bool:
    """Whether a value is a URL with a password, perhaps."""
    before, at, _ = unquote(value).rpartition("@")
    return bool(at) and ":" in before


CHECK_PATHS = frozenset({"/healthcheck", "/livez", "/readyz", "/metrics"})
"""What load balancers, orchestrators and Prometheus ask for, every few seconds and forever."""


class AccessLog:
    """Writes the lines that RESOLVER_ACCESS_LOG asks for."""

    def __init__(self, level: str) -> None:
        """``level``: ``off``, ``errors``, ``clients`` or ``all``."""
        self.least_status = {"off": 1000, "errors": 400}.get(level, 0)
        """The lowest status that is logged."""
        self._joins_checks = level in ("errors", "clients")
        self._check_statuses: dict[str, int] = {}
        """The last status of each check path."""

    @property
    def is_on(self) -> bool:
        """Whether errors are logged at all."""
        return self.least_status <= 400

    def write(
        self,
        request_id: str,
        method: str,
        target: str,
        status: int,
        seconds: float,
        client: str | None,
        outcome: object = "",
        admin: str = "",
        trace_id: str = "",
    ) -> None:
        """Writes the line of a request that was answered within ``seconds``. ``admin``: the name of
        its token, if it has one. ``trace_id``: of the trace that it belongs to, if to any."""
        if self._joins_checks and self._is_repeated_check(target.partition("?")[0], status):
            return
        lines = request_log()
        if status < self.least_status or not lines.is_shown:
            return
        path = mask_secrets(target[:MAX_PATH_CHARACTERS])
        lines.write(request_id, method, path, status, seconds, client, outcome, admin, trace_id)

    def _is_repeated_check(self, path: str, status: int) -> bool:
        """Whether a check was answered like the one before. In an outage there are as many as
        without one, so that only the first failure and the end are of interest."""
        if path not in CHECK_PATHS:
            return False
        last = self._check_statuses.get(path, 200)
        self._check_statuses[path] = status
        return status == last
