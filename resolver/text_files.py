"""Small files that operators write and change while a process runs: secrets and certificates."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

FileStamp = tuple[int, ...]
"""Differs after a file was changed or replaced."""


def file_stamp(path: Path) -> FileStamp:
    """The stamp of a file as it is now. Raises OSError where there is none."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading. Anything else, such as a FIFO, is refused and never waited
    for.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.fdopen(descriptor, "rb")


MAX_PEM_BYTES = 16 * 1024 * 1024
"""Of a file with certificates. All that a system trusts take a quarter of a megabyte."""


def read_bytes(path: Path, max_bytes: int, *, may_be_pipe: bool = False) -> bytes:
    """The content of a regular file; with ``may_be_pipe`` also of what has to be waited for.

    Raises:
        OSError: it cannot be read, or is longer than ``max_bytes``.
    """
    with path.open("rb") if may_be_pipe else open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it is longer than {max_bytes} bytes")
    return content


def read_text(path: Path, max_bytes: int, errors: str = "strict") -> str:
    """The text of a regular file. ``errors``: as for `bytes.decode`, about bytes that are not
    ASCII.

    Raises:
        OSError, ValueError: it cannot be read, is longer than ``max_bytes``, or is not ASCII text.
    """
    return read_bytes(path, max_bytes).decode("ascii", errors)
