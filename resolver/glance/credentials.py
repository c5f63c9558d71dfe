"""Where a location's secrets come from. The registry names the place, never the secret."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from resolver.errors import LocationUnavailable

MAX_SECRET = 16_384
"""Bytes; a Keystone PKI token is the largest known kind."""


def token_of(auth: Mapping[str, str] | None) -> str | None:
    """The token to send, read anew each time, so that a rotated one is taken up.

    Raises:
        LocationUnavailable: the place it should be in has none. The message names the place.
    """
    if not auth:
        return None
    return secret(auth.get("token_env"), auth.get("token_file"), "token")


def read_text(path: Path, most: int) -> str:
    """What a file holds; nothing else than a file is waited for.

    Raises:
        OSError, ValueError: it cannot be read, is longer than ``most`` bytes, or is no ASCII text.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(number, "rb") as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        text = file.read(most + 1)
    if len(text) > most:
        raise OSError(errno.EFBIG, f"it is longer than {most} bytes")
    return text.decode("ascii")


def secret(variable: str | None, file_name: str | None, what: str) -> str:
    """What stands in an environment variable, or else in a file.

    Raises:
        LocationUnavailable: nothing usable does. The message names the place.
    """
    if variable:
        where = f"environment variable {variable}"
        text = os.environ.get(variable, "")
    else:
        where = f"file {file_name}"
        try:
            text = read_text(Path(file_name or ""), MAX_SECRET)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise LocationUnavailable(
                f"cannot read the {what} from {where}: {why}", code="no-credential"
            ) from error
    text = text.strip()
    if not text or len(text) > MAX_SECRET or not text.isascii() or not text.isprintable():
        raise LocationUnavailable(f"{where} holds no {what}", code="no-credential")
    return text
