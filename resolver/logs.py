"""Structured logs: for people on a terminal, JSON lines otherwise."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import structlog

SHARED: list[Any] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name]
"""What is done to every line, ours or a library's."""


class RequestLog:
    """A line a request. structlog takes 35 us to make one, which is more than a redirect takes;
    as JSON it is made here in a tenth of that, and the lines of one turn of the event loop are
    written together."""

    def __init__(self) -> None:
        self.quick = False
        """Whether lines are JSON on standard error and nobody else wants them."""
        self._lines: list[str] = []
        self._log = structlog.get_logger("access")

    def note(self, **fields: Any) -> None:
        if not self.quick:
            self._log.info("request", **fields)
            return
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        fields |= {"event": "request", "level": "info", "logger": "access", "timestamp": at}
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write)
        self._lines.append(json.dumps(fields))

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        sys.stderr.write("\n".join([*lines, ""]))
        sys.stderr.flush()


requests = RequestLog()


def configure(*, level: str, form: str) -> None:
    """Sends our log lines and those of libraries to standard error, in one form.

    Args:
        level: the least level shown: debug, info, warning or error.
        form: ``text``, ``json``, or ``auto`` for text where standard error is a terminal.
    """
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text)
    if text:
        last: list[Any] = [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=16)
        ]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, stamp, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    requests.quick = not text and root.isEnabledFor(logging.INFO)
    route()


def route() -> None:
    """Sends our own log lines through the standard library's logging, where handlers are."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
