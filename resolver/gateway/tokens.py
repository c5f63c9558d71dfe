"""Admin tokens: from the settings, and from a file that may change while the gateway runs."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from pathlib import Path

import structlog

from resolver.admin_tokens import SHORT_TOKEN_CHARACTERS, AdminToken, lesser_role, parse_token
from resolver.errors import Forbidden, SettingsError
from resolver.problems import Problem
from resolver.settings import Settings
from resolver.text_files import FileStamp, file_stamp, read_text

MAX_FILE_BYTES = 1024 * 1024
"""The largest token file that is read."""

MAX_NAMED_LINES = 5
"""Wrong lines, and repeated tokens, that a report names."""

log = structlog.get_logger("audit")


class Tokens:
    """The admin tokens. The file is read again when it changes. A line of it that is not a token is
    left out; the others count."""

    def __init__(self, settings: Settings) -> None:
        self._set = tuple(parse_token(item.get_secret_value()) for item in settings.admin_tokens)
        self._file = Path(settings.admin_tokens_file) if settings.admin_tokens_file else None
        self._stamp: FileStamp = ()
        self._filed: tuple[AdminToken, ...] = ()
        self._fault = ""
        """Why the file cannot be used, or which lines of it; empty if all of it can."""
        self._repeated = ""
        """Which tokens are the same; empty if none are."""
        self._all = self._merge()
        _warn_of_short(self._set)

    def check(self) -> None:
        """Raises SettingsError for a file that cannot be read, or in which no line is a token but
        some should be.

        Called at the first start only. Later such a file disables its tokens, and no redirect.
        """
        self._refresh()
        if self._fault and not self._filed:
            raise SettingsError(self._fault)

    def find(self, given: bytes) -> AdminToken | None:
        """The admin token that was sent, if it is one. Every comparison takes the same time, so
        that response times reveal nothing.

        Raises:
            Forbidden: no token is set at all, or the file cannot be read. Then none of the tokens
                that were in it is valid.
        """
        self._refresh()
        found = None
        for token in self._all:
            if hmac.compare_digest(given, token.token.encode()):
                found = token
        if found is None and self._fault and not self._filed:
            raise Forbidden(self._fault)
        if not self._all:
            raise Forbidden(
                "set RESOLVER_ADMIN_TOKENS (such as ops=<a long random text>) and restart, or put "
                "one into RESOLVER_ADMIN_TOKENS_FILE, to use the admin paths"
            )
        return found

    def problems(self) -> Iterator[Problem]:
        """A `ProblemSource`."""
        self._refresh()
        if self._fault:
            yield Problem(
                code="admin-tokens",
                text=f"{self._fault}. What is wrong there is no token; the other tokens count.",
                action="Correct the file. It is read again when it changes.",
            )
        if self._repeated:
            yield Problem(
                code="admin-token-repeated",
                text=f"{self._repeated}. It has the first name, and may do what all its roles may.",
                action="Give each a token of its own, in RESOLVER_ADMIN_TOKENS and in the file.",
            )

    def _refresh(self) -> None:
        """Reads the file if it has changed."""
        if self._file is None:
            return
        fault, filed, stamp = "", self._filed, self._stamp
        try:
            stamp = file_stamp(self._file)
            if stamp == self._stamp:
                return
            filed, fault = _parse(read_text(self._file, MAX_FILE_BYTES, errors="replace"))
        except (OSError, ValueError) as error:
            stamp, filed = (), ()
            why = getattr(error, "strerror", None) or str(error)
            fault = f"RESOLVER_ADMIN_TOKENS_FILE cannot be read: {why}"
        if fault and fault != self._fault:
            log.error("admin tokens file is wrong", reason=fault)
        if stamp != self._stamp:
            _warn_of_short(filed)
        self._stamp, self._filed, self._fault = stamp, filed, fault
        self._all = self._merge()

    def _merge(self) -> tuple[AdminToken, ...]:
        """The tokens of the settings and of the file, each once. One that several entries have gets
        the least of their roles: an operator who relies on the lesser one must be right."""
        tokens: dict[str, AdminToken] = {}
        names_of: dict[str, dict[str, None]] = {}
        for entry in (*self._set, *self._filed):
            first = tokens.setdefault(entry.token, entry)
            tokens[entry.token] = first._replace(role=lesser_role(first.role, entry.role))
            names_of.setdefault(entry.token, {})[f"{entry.name}:{entry.role}"] = None
        repeated = [" and ".join(names) for names in names_of.values() if len(names) > 1]
        more = f", and {len(repeated) - MAX_NAMED_LINES} more" * (len(repeated) > MAX_NAMED_LINES)
        fault = (
            f"the same admin token is that of {', of '.join(repeated[:MAX_NAMED_LINES])}{more}"
            if repeated
            else ""
        )
        if fault and fault != self._repeated:
            log.error("admin token is repeated", reason=fault)
        self._repeated = fault
        return tuple(tokens.values())


def _parse(text: str) -> tuple[tuple[AdminToken, ...], str]:
    """The tokens of a file, and what is wrong with its other lines; empty for nothing. The latter
    quotes nothing of the file."""
    found, wrong, why = [], [], ""
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line and not line.startswith("#"):
            try:
                found.append(parse_token(line))
            except ValueError as error:
                wrong.append(number)
                why = str(error)
    if not wrong:
        return tuple(found), ""
    numbers = ", ".join(map(str, wrong[:MAX_NAMED_LINES]))
    more = f" and {len(wrong) - MAX_NAMED_LINES} more" if len(wrong) > MAX_NAMED_LINES else ""
    return tuple(found), f"RESOLVER_ADMIN_TOKENS_FILE line {numbers}{more}: {why}"


def _warn_of_short(tokens: tuple[AdminToken, ...]) -> None:
    short = sorted({t.name for t in tokens if len(t.token) < SHORT_TOKEN_CHARACTERS})
    if short:
        log.warning(
            "admin token is short",
            admins=short,
            action=f"give it at least {SHORT_TOKEN_CHARACTERS} random characters",
        )
