"""`serve` reports to its service manager when it serves, that it lives, and when it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from resolver.service_manager import ALIVE, READY, STOPPING, ServiceManager
from tests.cli.test_serve import get, serve
from tests.support.wait import wait_until


class Manager:
    """Receives what services send."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        self.states: list[str] = []

    def received(self) -> list[str]:
        """All states until now, each only when it differs from the one before."""
        while True:
            try:
                state = self._socket.recv(4096).decode()
            except BlockingIOError:
                return self.states
            if self.states[-1:] != [state]:
                self.states.append(state)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(short_path: Path) -> Iterator[Manager]:
    manager = Manager(str(short_path / "notify"))
    yield manager
    manager.close()


@pytest.mark.parametrize(
    "workers", [(), pytest.param(("--workers", "2"), marks=pytest.mark.redis)], ids=["1", "2"]
)
async def test_a_service_is_ready_alive_and_stopping(
    short_path: Path, manager: Manager, workers: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    environ = {"NOTIFY_SOCKET": str(short_path / "notify"), "WATCHDOG_USEC": "300000"}
    if workers:
        environ["RESOLVER_REDIS_URL"] = request.getfixturevalue("redis_url")
    async with serve(*workers, **environ) as server:
        await wait_until(lambda: READY in manager.received())
        assert (await get(f"{server.url}/livez"))[0] == 200
        manager.states.clear()
        await wait_until(lambda: ALIVE in manager.received())
        assert STOPPING not in manager.received()
        server.process.send_signal(signal.SIGTERM)
        assert await server.process.wait() == 0
    assert manager.received()[-1] == STOPPING


async def test_a_service_manager_that_is_gone_stops_nothing(short_path: Path) -> None:
    async with serve(NOTIFY_SOCKET=str(short_path / "none")) as server:
        assert (await get(f"{server.url}/livez"))[0] == 200
        await wait_until(lambda: "service manager not notified" in server.output)


def test_an_abstract_address_begins_with_an_at_sign() -> None:
    name = f"glance-resolver-{os.getpid()}"
    with closing(Manager(f"\0{name}")) as manager:
        ServiceManager(f"@{name}").notify(READY)
        assert manager.received() == [READY]


def test_child_processes_do_not_inherit_the_service_manager() -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    ServiceManager.from_environment(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"},
    ],
)
async def test_nothing_is_sent_without_a_watchdog(environ: dict[str, str]) -> None:
    async with asyncio.timeout(5):
        await ServiceManager.from_environment(environ).keep_alive()
