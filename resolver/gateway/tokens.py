"""Admin tokens: from the settings, and from a file that may change while the gateway runs."""

from __future__ import annotations

import hmac
from pathlib import Path

from resolver.errors import Forbidden, SettingsError
from resolver.settings import AdminToken, Settings, parse_token
from resolver.text_files import FileStamp, file_stamp, read_text

MAX_FILE_BYTES = 1024 * 1024
"""The largest token file that is read."""


class Tokens:
    """Finds the owner of a token. The file is read again when it changes."""

    def __init__(self, settings: Settings) -> None:
        self._set = tuple(parse_token(item.get_secret_value()) for item in settings.admin_tokens)
        self._file = Path(settings.admin_tokens_file) if settings.admin_tokens_file else None
        self._stamp: FileStamp = ()
        self._filed: tuple[AdminToken, ...] = ()

    def check(self) -> None:
        """Raises SettingsError for a file that cannot be read, or has a line that is no token.

        Called at the first start only. Later such a file disables its tokens, and no redirect.
        """
        try:
            self._refresh()
        except ValueError as error:
            raise SettingsError(str(error)) from error

    def find(self, given: bytes) -> AdminToken | None:
        """The admin token that was sent, if it is one. Every comparison takes the same time, so
        that response times reveal nothing.

        Raises:
            Forbidden: no token is set at all, or the file cannot be read. Then none of the tokens
                that were in it is valid.
        """
        fault = ""
        try:
            self._refresh()
        except ValueError as error:
            fault = str(error)
        tokens = (*self._set, *self._filed)
        found = None
        for token in tokens:
            if hmac.compare_digest(given, token.token.encode()):
                found = token
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
            stamp = file_stamp(self._file)
            if stamp == self._stamp:
                return
            self._stamp, self._filed = (), ()
            text = read_text(self._file, MAX_FILE_BYTES)
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
