"""Structured logs: readable text on a terminal, JSON lines otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any

import structlog

SHARED_PROCESSORS: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
]
"""Applied to every line, both ours and those of libraries."""


_PLAIN_TEXT = re.compile(r"[ !#-\[\]-~]*")
"""ASCII that is the same in JSON."""


class RequestLog:
    """Writes one line per request.

    structlog takes 35 µs to make a line, which is more than a redirect takes. With ``json_lines``
    the line is made here in a tenth of that time, and all lines of one turn of the event loop are
    written with one call.
    """

    def __init__(self, *, json_lines: bool, is_shown: bool = True) -> None:
        """Args:
        json_lines: write JSON directly to standard error, past structlog and logging.
        is_shown: whether the lowest level of the log lets these lines through.
        """
        self._json_lines = json_lines
        self.is_shown = is_shown
        self._pending: list[str] = []
        self._structlog = structlog.get_logger("access")
        self._second = 0
        self._second_text = ""
        """`_second`, of `time.time`, as text."""
        self._turn_text = ""
        """When the lines of this turn were begun."""

    def write(
        self,
        request_id: str,
        method: str,
        path: str,
        status: int,
        seconds: float,
        client: str | None,
        outcome: object = "",
        admin: str = "",
        trace_id: str = "",
    ) -> None:
        """Writes the line now, or at the end of this turn of the event loop.

        Request ids, methods, addresses and names of tokens have no character that JSON must escape.
        """
        if not self._json_lines:
            more = {"outcome": outcome} if outcome else {}
            if admin:
                more["admin"] = admin
            if trace_id:
                more["trace_id"] = trace_id
            self._structlog.info(
                "request",
                request_id=request_id,
                method=method,
                path=path,
                status=status,
                ms=round(seconds * 1000, 3),
                client=client,
                **more,
            )
            return
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._flush)
            self._turn_text = self._timestamp()
        path_json = f'"{path}"' if _PLAIN_TEXT.fullmatch(path) else json.dumps(path)
        client_json = f'"{client}"' if client else "null"
        if isinstance(outcome, str):
            outcome_json = f', "outcome": "{outcome}"' if outcome else ""
        else:
            outcome_json = f', "outcome": {json.dumps(outcome)}'
        if admin:
            outcome_json += f', "admin": "{admin}"'
        if trace_id:
            outcome_json += f', "trace_id": "{trace_id}"'
        self._pending.append(
            f'{{"request_id": "{request_id}", "method": "{method}", "path": {path_json}, '
            f'"status": {status}, "ms": {seconds * 1000:.3f}, "client": {client_json}'
            f'{outcome_json}, "event": "request", "level": "info", "logger": "access", '
            f'"timestamp": "{self._turn_text}"}}\n'
        )

    def _timestamp(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{int((now - second) * 1_000_000):06d}Z"

    def _flush(self) -> None:
        lines, self._pending = self._pending, []
        with contextlib.suppress(OSError):  # as `logging` does: a full disk ends no service
            sys.stderr.write("".join(lines))
            sys.stderr.flush()


_request_log = RequestLog(json_lines=False)


def request_log() -> RequestLog:
    """Where lines about requests go, in the format that `configure` chose."""
    return _request_log


_announces_json = False


def announce(text: str, *, level: str = "info") -> None:
    """Writes a line about the start or the end of this process. It is shown whatever the lowest
    level of the log is; as text until `configure` was called."""
    if _announces_json:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        line = {"event": text, "level": level, "logger": "serve", "timestamp": now}
        text = json.dumps(line, ensure_ascii=False)
    with contextlib.suppress(OSError):  # a full disk ends no service
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def configure(*, level: str, log_format: str) -> None:
    """Sends our log lines and those of libraries to standard error, in one format.

    Args:
        level: the lowest level that is shown: debug, info, warning or error.
        log_format: ``text``, ``json``, or ``auto`` for text if standard error is a terminal.
    """
    global _request_log, _announces_json  # noqa: PLW0603 - logging is configured once per process
    text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text)
    if text:
        renderers: list[Any] = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=16,
                # The default shows local variables where Rich is installed: tokens, too.
                exception_formatter=structlog.dev.plain_traceback,
            )
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
    _announces_json = not text
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    is_shown = root.isEnabledFor(logging.INFO)
    _request_log = RequestLog(json_lines=not text and is_shown, is_shown=is_shown)
    use_standard_logging()


_STANDARD_PROCESSORS = [
    structlog.stdlib.filter_by_level,
    *SHARED_PROCESSORS,
    structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
]
"""One list for all loggers, also those that have it already when it is configured again."""


def use_standard_logging() -> None:
    """Sends structlog's lines through the standard library's loggers and their handlers."""
    structlog.configure(
        processors=_STANDARD_PROCESSORS,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
