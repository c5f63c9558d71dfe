"""Where a location's credential comes from. The registry names the place, never the secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from resolver.errors import LocationUnavailable

MAX_TOKEN = 16_384
"""Bytes; a Keystone PKI token is the largest known kind."""


def token_of(auth: Mapping[str, str] | None) -> str | None:
    """The token to send, read anew each time, so that a rotated one is taken up.

    Raises:
        LocationUnavailable: the place it should be in has none. The message names the place.
    """
    if not auth:
        return None
    if variable := auth.get("token_env"):
        where = f"environment variable {variable}"
        token = os.environ.get(variable, "")
    else:
        where = f"file {auth['token_file']}"
        try:
            with Path(auth["token_file"]).open(encoding="ascii") as file:
                token = file.read(MAX_TOKEN + 1)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise LocationUnavailable(
                f"cannot read the token from {where}: {why}", code="no-credential"
            ) from error
    token = token.strip()
    if not token or len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable():
        raise LocationUnavailable(f"{where} holds no token", code="no-credential")
    return token
