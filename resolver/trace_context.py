"""The trace that a request belongs to (W3C Trace Context, https://www.w3.org/TR/trace-context/).

The trace's id is written into the log, and both header fields are passed on unchanged to the
locations that are asked for the sake of the request, as the recommendation allows; where spans are
made (`resolver.spans`), with the span of that question in place of the client's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import structlog

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"

MAX_STATE_CHARACTERS = 512
"""What every participant must pass on; more is dropped."""

_VERSION_0 = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}", re.ASCII)
_LATER = re.compile(
    r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-[!-~]{0,200})?", re.ASCII
)
_STATE = re.compile(r"[ -~]*", re.ASCII)


class TraceContext(NamedTuple):
    """What a client has sent."""

    traceparent: str
    tracestate: str
    trace_id: str
    """32 hexadecimal digits; empty where the request belongs to no trace."""


NO_TRACE = TraceContext("", "", "")

_current: ContextVar[TraceContext] = ContextVar("trace", default=NO_TRACE)


def parse_trace(traceparents: Sequence[str], tracestates: Sequence[str] = ()) -> TraceContext:
    """The trace of the values of both header fields; `NO_TRACE` where they are not well formed."""
    if len(traceparents) != 1:
        return NO_TRACE
    sent = traceparents[0].strip()
    form = _VERSION_0.fullmatch(sent)
    if form is None and not sent.startswith(("00", "ff")):
        form = _LATER.fullmatch(sent)
    if form is None or not form[1].strip("0") or not form[2].strip("0"):
        return NO_TRACE
    state = ",".join(part.strip() for part in tracestates)
    if len(state) > MAX_STATE_CHARACTERS or not _STATE.fullmatch(state):
        state = ""
    return TraceContext(sent, state, form[1])


def trace_headers() -> dict[str, str]:
    """The header fields for a request that is made for the sake of the current one."""
    trace = _current.get()
    if not trace.trace_id:
        return {}
    state = {TRACESTATE: trace.tracestate} if trace.tracestate else {}
    return {TRACEPARENT: trace.traceparent, **state}


@contextmanager
def within(trace: TraceContext) -> Iterator[None]:
    """What is done, and logged, in here belongs to the trace, tasks that are made here too."""
    if not trace.trace_id:
        yield
        return
    token = _current.set(trace)
    with structlog.contextvars.bound_contextvars(trace_id=trace.trace_id):
        try:
            yield
        finally:
            _current.reset(token)
