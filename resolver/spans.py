"""Spans: what took how long, for a tracing system. Without one nothing is made.

`resolver.otel_spans` makes them with OpenTelemetry. What is in this file needs no other package.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Attributes = Mapping[str, str | int]


class RequestSpan(Protocol):
    """One request to a location."""

    def headers(self) -> Mapping[str, str]:
        """The header fields by which the location knows what its own spans belong to."""

    def end(self, status: int | None, error: str = "") -> None:
        """``status``: of the answer; None where there is none, because of ``error``."""


class Spans(Protocol):
    """Makes spans."""

    def span(self, name: str, attributes: Attributes) -> AbstractContextManager[None]:
        """What is done in here, by tasks that are made here too, is a span. It belongs to the trace
        of the client's request, if there is one."""

    def request(self, method: str, host: str, port: int, path: str) -> RequestSpan | None:
        """A request to a location. None where it belongs to no span and to no trace, as health
        checks do."""


class NoSpans:
    """Makes none."""

    _nothing = nullcontext()

    def span(self, _: str, __: Attributes) -> AbstractContextManager[None]:
        return self._nothing

    def request(self, _: str, __: str, ___: int, ____: str) -> None:
        return None


NO_SPANS = NoSpans()
