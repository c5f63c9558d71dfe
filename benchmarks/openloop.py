"""Sends requests at a fixed rate, whatever the server does, and measures the latency of each.

A closed loop such as wrk's waits for a slow answer before it sends the next request. So it sends
least while the server is slow and hardly sees it ("coordinated omission"). Here each request is due
at a time of the clock. Latency counts from then, also if no connection was free.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections import deque
from collections.abc import Sequence

READ_BYTES = 1 << 16
"""Read from a socket at once; more than one answer."""

SHORTEST_SLEEP_SECONDS = 0.001
"""epoll oversleeps shorter times, so those are polled without sleeping."""


class OpenLoop:
    """Connections to one server."""

    def __init__(self, port: int, requests: Sequence[bytes], connections: int) -> None:
        """``requests`` are sent in turn, each as a whole."""
        self._requests = requests
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(connections):
            connection = socket.create_connection(("127.0.0.1", port), 10)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            self._sockets[connection.fileno()] = connection
            self._poll.register(connection.fileno(), select.EPOLLIN)

    def run(self, rate: float, seconds: float) -> list[float]:
        """Sends ``rate`` requests a second. Returns the latencies in seconds, sorted.

        Raises:
            RuntimeError: an answer was not a redirect.
        """
        gc.collect()
        gc.disable()  # a pause of this process must not count as the server's
        try:
            return sorted(self._run(rate, int(rate * seconds)))
        finally:
            gc.enable()

    def _run(self, rate: float, count: int) -> list[float]:
        now, requests, sockets = time.perf_counter, self._requests, self._sockets
        idle = deque(sockets)
        due_by_descriptor: dict[int, float] = {}
        latencies: list[float] = []
        sent = 0
        started = now()
        while len(latencies) < count:
            due = started + sent / rate
            while sent < count and idle and due <= now():
                descriptor = idle.popleft()
                due_by_descriptor[descriptor] = due
                sockets[descriptor].send(requests[sent % len(requests)])
                sent += 1
                due = started + sent / rate
            wait = due - now() if sent < count and idle else 1.0
            for descriptor, _ in self._poll.poll(wait if wait > SHORTEST_SLEEP_SECONDS else 0):
                if not sockets[descriptor].recv(READ_BYTES).startswith(b"HTTP/1.1 307"):
                    raise RuntimeError("an answer was not a redirect")
                latencies.append(now() - due_by_descriptor.pop(descriptor))
                idle.append(descriptor)
        return latencies

    def close(self) -> None:
        for connection in self._sockets.values():
            connection.close()
        self._poll.close()
