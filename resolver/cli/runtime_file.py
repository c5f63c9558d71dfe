"""A small file that says where this host's `serve` listens, for `healthcheck`.

Settings say where a gateway listens, unless `serve` has ``--host`` or ``--port`` or picks a free
port: only that process knows those. The image's health check is another process, so `serve` then
writes its URL to ``$XDG_RUNTIME_DIR``. The image sets that variable; without it no file is
written.
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def url_file(configured_port: int) -> Path | None:
    """The file for the gateway whose settings, without options, say this port; None without
    ``$XDG_RUNTIME_DIR``. Gateways that share the folder have different ports there."""
    folder = os.environ.get("XDG_RUNTIME_DIR")
    return Path(folder, f"glance-resolver-{configured_port}.url") if folder else None


def read_url(configured_port: int) -> str | None:
    """The URL that a running `serve` wrote; None if there is none."""
    file = url_file(configured_port)
    try:
        return file.read_text("ascii").strip() if file else None
    except (OSError, ValueError):
        return None


def write_url(configured_port: int, url: str) -> None:
    """Writes the URL, whole or not at all. A failure is a warning: the gateway can serve."""
    file = url_file(configured_port)
    if file is None:
        return
    try:
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with open(descriptor, "w", encoding="ascii") as part:
            part.write(f"{url}\n")
        os.replace(name, file)
    except OSError as error:
        from resolver import logs  # noqa: PLC0415 - only where it fails

        logs.announce(
            f"glance-resolver: cannot write {file}: {error.strerror}; `healthcheck` needs the same "
            "--host and --port as `serve`",
            level="warning",
        )


@contextmanager
def temporary_url_file(configured_port: int) -> Iterator[None]:
    """Removes the file at the end, except in forks of this process; and at the start, as it may be
    from a process that was killed."""
    file, pid = url_file(configured_port), os.getpid()
    if file is None:
        yield
        return
    with suppress(OSError):
        file.unlink(missing_ok=True)
    try:
        yield
    finally:
        if os.getpid() == pid:
            with suppress(OSError):
                file.unlink(missing_ok=True)


def loopback_url(host: str, port: int, *, tls: bool) -> str:
    """The URL of a gateway of this host that listens on ``host``; wildcards become loopback."""
    with_brackets = host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass  # a name
    else:
        if address.is_unspecified:
            address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
        with_brackets = f"[{address}]" if address.version == 6 else str(address)
    return f"{'https' if tls else 'http'}://{with_brackets}:{port}"
