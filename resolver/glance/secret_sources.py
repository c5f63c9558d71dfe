"""Reads a location's secrets. The registry names where a secret is, and never holds the secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from resolver.errors import LocationUnavailable
from resolver.text_files import read_text

MAX_SECRET_BYTES = 16_384
"""A Keystone PKI token is the longest known kind."""


def read_token(auth: Mapping[str, str] | None) -> str | None:
    """The token that ``auth`` points to; None without ``auth``. It is read on each call, so that a
    rotated token takes effect at once.

    Raises:
        LocationUnavailable: there is no token. The message names the variable or file.
    """
    if not auth:
        return None
    return read_secret(auth.get("token_env"), auth.get("token_file"), "token")


def read_secret(variable: str | None, file_name: str | None, what: str) -> str:
    """The content of an environment variable, or else of a file. ``what`` names it in errors.

    Raises:
        LocationUnavailable: there is nothing usable. The message names the variable or file.
    """
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
