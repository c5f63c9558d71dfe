"""What a process reports to the service manager that started it, by sd_notify(3).

With ``Type=notify`` systemd waits for ``READY=1`` before it starts what needs the service, and with
``WatchdogSec=`` it restarts the service when ``WATCHDOG=1`` does not come in time.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping

import structlog

READY = "READY=1"
"""The process serves."""

STOPPING = "STOPPING=1"
"""The process ends."""

ALIVE = "WATCHDOG=1"
"""The event loop runs."""

SENDS_PER_WATCHDOG = 3
"""How often `ALIVE` is sent in the time within which one must come."""

log = structlog.get_logger()


class ServiceManager:
    """The service manager of this process and its workers; without one, nothing is sent."""

    def __init__(self, address: str = "", watchdog_seconds: float = 0.0) -> None:
        """Args:
        address: path of a Unix datagram socket; an abstract one begins with ``@``.
        watchdog_seconds: within which time `ALIVE` must come; 0: it need not.
        """
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_seconds = watchdog_seconds

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> ServiceManager:
        """That of ``$NOTIFY_SOCKET`` and ``$WATCHDOG_USEC``. Both are removed: what this process
        starts, gunicorn among it, must not speak in its name."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        process = environ.pop("WATCHDOG_PID", "")
        is_watched = microseconds.isdecimal() and process in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if is_watched else 0.0)

    def notify(self, state: str) -> None:
        """Sends `READY`, `STOPPING` or `ALIVE`. A failure is logged: the process can serve."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(state.encode(), self._address)
        except OSError as error:
            log.warning("service manager not notified", state=state, reason=str(error))

    async def keep_alive(self) -> None:
        """Sends `ALIVE` until it is cancelled. Returns at once where nobody waits for it."""
        while self._watchdog_seconds:
            self.notify(ALIVE)
            await asyncio.sleep(self._watchdog_seconds / SENDS_PER_WATCHDOG)
