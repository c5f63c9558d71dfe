"""W3C Trace Context: what is well formed, and what is passed on."""

from __future__ import annotations

import asyncio

import pytest
import structlog

from resolver.trace_context import NO_TRACE, parse_trace, trace_headers, within

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "traceparent",
    [SENT, f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-x"],
)
def test_a_well_formed_trace_is_parsed(traceparent: str) -> None:
    """Later versions may have more fields."""
    trace = parse_trace([traceparent])
    assert (trace.traceparent, trace.trace_id) == (traceparent, TRACE)


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "x",
        SENT.upper(),
        f"{SENT}-x",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"cc-{TRACE}-{SPAN}-01x",
        f'00-{TRACE}-{SPAN}-01"',
        f"cc-{TRACE}-{SPAN}-01-{'x' * 10_000}",
    ],
)
def test_what_is_not_well_formed_is_no_trace(traceparent: str) -> None:
    assert parse_trace([traceparent], ["a=1"]) == NO_TRACE


def test_two_traceparents_are_no_trace() -> None:
    assert parse_trace([SENT, SENT]) == NO_TRACE
    assert parse_trace([]) == NO_TRACE


def test_states_are_joined_and_bounded() -> None:
    assert parse_trace([SENT], ["a=1", " b=2 "]).tracestate == "a=1,b=2"
    assert parse_trace([SENT], ["a=" + "x" * 600]).tracestate == ""
    assert parse_trace([SENT], ["a=\x01"]).tracestate == ""


async def test_tasks_belong_to_the_trace_in_which_they_are_made() -> None:
    async def look() -> tuple[dict[str, str], str]:
        await asyncio.sleep(0)
        return trace_headers(), structlog.contextvars.get_contextvars().get("trace_id", "")

    with within(parse_trace([SENT], ["a=1"])):
        inside = asyncio.create_task(look())
        assert trace_headers() == {"traceparent": SENT, "tracestate": "a=1"}
    outside = asyncio.create_task(look())
    assert await inside == ({"traceparent": SENT, "tracestate": "a=1"}, TRACE)
    assert await outside == ({}, "")
    with within(NO_TRACE):
        assert trace_headers() == {}
