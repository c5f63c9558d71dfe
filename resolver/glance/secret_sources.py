"""Reads a location's secrets. The registry names where a secret is, and never holds the secret.

Those who may register a location can have its credential sent to a server of theirs. So a
credential may only come from variables and files that the settings allow.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path, PurePosixPath

from resolver.errors import InvalidLocation, LocationUnavailable
from resolver.models import Location
from resolver.settings import Settings
from resolver.text_files import read_text

MAX_SECRET_BYTES = 16_384
"""A Keystone PKI token is the longest known kind."""

OTHERS_VARIABLES = ("RESOLVER_", "OS_")
"""What variables of settings and of OpenStack clients begin with. They have no credentials of
locations, whatever the settings allow."""


class SecretSources:
    """Where the credentials of locations may be, and what is there."""

    def __init__(
        self,
        files: Iterable[str] = ("/run/secrets/*",),
        variables: Iterable[str] = ("GLANCE_*",),
        never: Iterable[str] = (),
    ) -> None:
        """``files`` and ``variables``: patterns with ``*`` and ``?``. ``never``: files that have
        other secrets of this process, whatever the patterns say."""
        self._files = tuple(files)
        self._variables = tuple(variables)
        self._never = tuple(path for path in never if path)

    @classmethod
    def of(cls, settings: Settings) -> SecretSources:
        """Those that the settings allow."""
        files = list(settings.secret_files)
        if "secret_files" not in settings.model_fields_set and settings.locations_file:
            files.append(f"{Path(settings.locations_file).resolve().parent}/*")
        never = (
            *(settings.admin_tokens_file, settings.redis_url_file, settings.locations_file),
            *(settings.tls_cert, settings.tls_key),
            *(os.environ.get(f"RESOLVER_{name}", "") for name in ("CONFIG", "TOKEN_FILE")),
            *(os.environ.get(f"OS_CLIENT_{name}_FILE", "") for name in ("CONFIG", "SECURE")),
        )
        return cls(files, settings.secret_envs, never)

    def check(self, location: Location) -> None:
        """Raises InvalidLocation if a credential of the location would be where none may be."""
        auth, broker = location.auth or {}, location.notifications or {}
        for field, variable, file in (
            ("auth", auth.get("token_env"), auth.get("token_file")),
            ("notifications", broker.get("url_env"), broker.get("url_file")),
        ):
            if why := self._refusal(variable, file):
                raise InvalidLocation(f"`{field}`: {why}")

    def read_token(self, auth: Mapping[str, str] | None) -> str | None:
        """The token that ``auth`` points to; None without ``auth``. It is read on each call, so
        that a rotated token takes effect at once.

        Raises:
            LocationUnavailable: there is no token. The message names the variable or file.
        """
        if not auth:
            return None
        return self.read(auth.get("token_env"), auth.get("token_file"), "token")

    def read(self, variable: str | None, file_name: str | None, what: str) -> str:
        """The content of an environment variable, or else of a file. ``what`` names it in errors.

        Raises:
            LocationUnavailable: there is nothing usable, or it may not be used. The message names
                the variable or file.
        """
        if refusal := self._refusal(variable, file_name):
            raise LocationUnavailable(f"no {what}: {refusal}", code="no-credential")
        if variable:
            source = f"environment variable {variable}"
            text = os.environ.get(variable, "")
        else:
            source = f"file {file_name}"
            try:
                text = read_text(Path(file_name or ""), MAX_SECRET_BYTES)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "it is not text"
                raise LocationUnavailable(
                    f"cannot read the {what} from {source}: {reason}", code="no-credential"
                ) from error
        text = text.strip()
        if not text or len(text) > MAX_SECRET_BYTES or not text.isascii() or not text.isprintable():
            raise LocationUnavailable(f"{source} holds no {what}", code="no-credential")
        return text

    def _refusal(self, variable: str | None, file_name: str | None) -> str:
        """Why no credential may come from there; empty if it may."""
        if variable:
            if variable.upper().startswith(OTHERS_VARIABLES):
                return f"the environment variable {variable} has other secrets of this process"
            if not any(fnmatchcase(variable, p) for p in self._variables):
                return (
                    f"the environment variable {variable} is not one of those that may hold "
                    f"credentials of locations ({_listed(self._variables)}): name it in "
                    "RESOLVER_SECRET_ENVS"
                )
        elif file_name:
            if any(_is_same_file(file_name, other) for other in self._never):
                return f"the file {file_name} has other secrets of the resolver"
            if not any(_is_named_by(pattern, file_name) for pattern in self._files):
                return (
                    f"the file {file_name} is not one of those that may hold credentials of "
                    f"locations ({_listed(self._files)}): name it in RESOLVER_SECRET_FILES"
                )
        return ""


def _listed(patterns: Iterable[str]) -> str:
    return ", ".join(patterns) or "none"


def _is_same_file(path: str, other: str) -> bool:
    with suppress(OSError, ValueError):
        return os.path.samefile(path, other)
    return os.path.realpath(path) == os.path.realpath(other)


def _is_named_by(pattern: str, path: str) -> bool:
    """Whether a pattern names a file: ``*`` is a part of one name. The file may be a link, as
    Kubernetes makes them, but not out of the folder in which the pattern begins to be one."""
    folder, name = os.path.split(pattern)
    wanted = PurePosixPath(os.path.realpath(folder), name)
    given = PurePosixPath(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    if given == wanted:
        return True
    fixed = takewhile(lambda part: not set(part) & set("*?["), wanted.parts)
    return given.match(str(wanted)) and PurePosixPath(os.path.realpath(path)).is_relative_to(
        PurePosixPath(*fixed)
    )
