"""Structured logs: readable text on a terminal, JSON lines otherwise."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

import structlog

SHARED_PROCESSORS: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
]
"""Applied to every line, both ours and those of libraries."""


class RequestLog:
    """Writes one line per request.

    structlog takes 35 µs to make a line, which is more than a redirect takes. With ``json_lines``
    the line is made here in a tenth of that time, and all lines of one turn of the event loop are
    written with one call.
    """

    def __init__(self, *, json_lines: bool) -> None:
        """``json_lines``: write JSON directly to standard error, past structlog and logging."""
        self._json_lines = json_lines
        self._pending: list[str] = []
        self._structlog = structlog.get_logger("access")

    def write(self, **fields: Any) -> None:
        """Writes the line now, or at the end of this turn of the event loop."""
        if not self._json_lines:
            self._structlog.info("request", **fields)
            return
        timestamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        fields |= {"event": "request", "level": "info", "logger": "access", "timestamp": timestamp}
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pending.append(json.dumps(fields))

    def _flush(self) -> None:
        lines, self._pending = self._pending, []
        sys.stderr.write("\n".join([*lines, ""]))
        sys.stderr.flush()


_request_log = RequestLog(json_lines=False)


def log_request(**fields: Any) -> None:
    """Writes one line about a request, in the format that `configure` chose."""
    _request_log.write(**fields)


def configure(*, level: str, log_format: str) -> None:
    """Sends our log lines and those of libraries to standard error, in one format.

    Args:
        level: the lowest level that is shown: debug, info, warning or error.
        log_format: ``text``, ``json``, or ``auto`` for text if standard error is a terminal.
    """
    global _request_log  # noqa: PLW0603 - logging is configured once per process
    text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text)
    if text:
        renderers: list[Any] = [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=16)
        ]
    else:
        renderers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    handler = logging.StreamHandler(sys.stderr)
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=SHARED_PROCESSORS, processors=[remove_meta, stamp, *renderers]
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    _request_log = RequestLog(json_lines=not text and root.isEnabledFor(logging.INFO))
    use_standard_logging()


def use_standard_logging() -> None:
    """Sends structlog's lines through the standard library's loggers and their handlers."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *SHARED_PROCESSORS,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
