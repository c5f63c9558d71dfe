"""The admin tokens there are: from the settings, and from a file that may change meanwhile."""

from __future__ import annotations

import hmac
from pathlib import Path

from resolver.errors import Forbidden, SettingsError
from resolver.glance.secret_sources import read_text
from resolver.settings import AdminToken, Settings, parse_token

MAX_FILE = 1024 * 1024
"""Bytes of a token file."""


class Tokens:
    """Finds the owner of a token. The file is read again when it has become another."""

    def __init__(self, settings: Settings) -> None:
        self._set = tuple(parse_token(item.get_secret_value()) for item in settings.admin_tokens)
        self._file = Path(settings.admin_tokens_file) if settings.admin_tokens_file else None
        self._stamp: tuple[int, ...] = ()
        self._filed: tuple[AdminToken, ...] = ()

    def check(self) -> None:
        """Raises SettingsError for a file that cannot be read, or has a line that is no token.

        At the first start only: later such a file costs the tokens in it, and no redirect.
        """
        try:
            self._refresh()
        except ValueError as error:
            raise SettingsError(str(error)) from error

    def find(self, given: bytes) -> AdminToken | None:
        """The token that was given, if it is one. Each is compared completely, so the
        time that this takes reveals nothing.

        Raises:
            Forbidden: no token is set at all, or the file cannot be read, in which case none of
                those that were in it counts.
        """
        fault = ""
        try:
            self._refresh()
        except ValueError as error:
            fault = str(error)
        tokens = (*self._set, *self._filed)
        found = None
        for one in tokens:
            if hmac.compare_digest(given, one.token.encode()):
                found = one
        if found is None and fault:
            raise Forbidden(fault)
        if not tokens:
            raise Forbidden(
                "set RESOLVER_ADMIN_TOKENS (such as ops=<a long random text>) and restart, or put "
                "one into RESOLVER_ADMIN_TOKENS_FILE, to use the admin paths"
            )
        return found

    def _refresh(self) -> None:
        """Raises ValueError that says what is wrong with the file."""
        if self._file is None:
            return
        try:
            stat = self._file.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_ctime_ns)
            if stamp == self._stamp:
                return
            self._stamp, self._filed = (), ()
            text = read_text(self._file, MAX_FILE)
        except (OSError, ValueError) as error:
            self._stamp, self._filed = (), ()
            why = getattr(error, "strerror", None) or "it is not ASCII text"
            raise ValueError(f"RESOLVER_ADMIN_TOKENS_FILE cannot be read: {why}") from error
        found = []
        for number, line in enumerate(map(str.strip, text.splitlines()), 1):
            if line and not line.startswith("#"):
                try:
                    found.append(parse_token(line))
                except ValueError as error:
                    raise ValueError(
                        f"RESOLVER_ADMIN_TOKENS_FILE line {number}: {error}"
                    ) from error
        self._stamp, self._filed = stamp, tuple(found)
