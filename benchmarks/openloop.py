"""Requests at a fixed rate, whatever the server does, and how late each answer came.

A closed loop such as wrk's waits for a slow answer before it asks again, so it asks least when
the server is slow and hardly sees it ("coordinated omission"). Here each request has its time by
the clock: latency counts from then, also for those that found every connection busy.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from collections import deque
from collections.abc import Sequence

PIPE = 1 << 16


class OpenLoop:
    """Connections to one server. ``requests`` are sent in turn, each whole."""

    def __init__(self, port: int, requests: Sequence[bytes], connections: int) -> None:
        self._requests = requests
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(connections):
            one = socket.create_connection(("127.0.0.1", port), 10)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.setblocking(False)
            self._sockets[one.fileno()] = one
            self._poll.register(one.fileno(), select.EPOLLIN)

    def run(self, rate: float, seconds: float) -> list[float]:
        """Seconds that each answer took from its request's time on, least first.

        Raises:
            RuntimeError: a request was not answered with a redirect.
        """
        gc.collect()
        gc.disable()  # a pause of ours must not count as the server's
        try:
            return sorted(self._run(rate, int(rate * seconds)))
        finally:
            gc.enable()

    def _run(self, rate: float, count: int) -> list[float]:
        now, requests, sockets = time.perf_counter, self._requests, self._sockets
        idle = deque(sockets)
        due: dict[int, float] = {}
        took: list[float] = []
        sent = 0
        begun = now()
        while len(took) < count:
            until = begun + sent / rate
            while sent < count and idle and until <= now():
                one = idle.popleft()
                due[one] = until
                sockets[one].send(requests[sent % len(requests)])
                sent += 1
                until = begun + sent / rate
            # Less than a millisecond is not slept: epoll would oversleep it.
            wait = until - now() if sent < count and idle else 1.0
            for one, _ in self._poll.poll(wait if wait > 0.001 else 0):
                if not sockets[one].recv(PIPE).startswith(b"HTTP/1.1 307"):
                    raise RuntimeError("an answer was no redirect")
                took.append(now() - due.pop(one))
                idle.append(one)
        return took

    def close(self) -> None:
        for one in self._sockets.values():
            one.close()
        self._poll.close()


def percentile(took: Sequence[float], share: float) -> float:
    """The time within which that share of the sorted ``took`` were answered."""
    return took[min(len(took) - 1, int(len(took) * share))]
