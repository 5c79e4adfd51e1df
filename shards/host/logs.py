"""Writes events to standard error: one event, one line, whatever its message holds.

For people: time, process, level, message; a traceback follows, each line of it indented, so that a line which begins
with a time is always the beginning of an event. For programs: a JSON object a line, the traceback in a field.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import threading
import time
from typing import Any, Final

FORMATS: Final = ("text", "json")

REPEAT_S: Final = 10.0
"""Seconds between two reports of an event that recurs."""

TRACE: Final = 5
"""Level below DEBUG: one line per request or group."""

_CONTROLS: Final = (*range(0x20), *range(0x7F, 0xA0))
"""C0, DEL and C1: what ends a line, moves the cursor, or begins a command to the terminal."""
_BREAKS: Final = (0x2028, 0x2029)
_BIDI: Final = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Marks that have other text shown in another order (UAX #9)."""
_SURROGATES: Final = range(0xD800, 0xE000)
"""Halves of characters, by which Python represents bytes of a file name that is not UTF-8. No encoding has them."""
_ESCAPED: Final = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (*_CONTROLS, *_BREAKS, *_BIDI, *_SURROGATES)
} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


def escape_controls(text: str) -> str:
    """Return `text` as one line in which a terminal obeys nothing: each such character is replaced by its escape.

    All text for people that may come from a server, a client, a file or a command line goes through this function.
    """
    return text.translate(_ESCAPED)


def print_error(message: str) -> None:
    """Write `message` as a line to standard error. Does nothing if that is closed."""
    with contextlib.suppress(OSError, ValueError):
        print(f"kvserver: {escape_controls(message)}", file=sys.stderr, flush=True)


class _Formatter(logging.Formatter):
    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    @staticmethod
    def _format_time(record: logging.LogRecord) -> str:
        seconds, fraction = divmod(record.created, 1)  # `msecs` is below 0 before 1970
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(fraction * 1000):03d}Z"

    def _format_traceback(self, record: logging.LogRecord) -> str:
        texts = [self.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
        return "\n".join([*texts, *([record.stack_info] if record.stack_info else [])])


class TextFormatter(_Formatter):
    """Formats events for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the lines of its traceback."""
        head = f"{self._format_time(record)} {self._name}[{record.process}] {record.levelname} "
        lines = [head + escape_controls(record.getMessage())]
        lines += ["    " + escape_controls(line) for line in self._format_traceback(record).split("\n") if line]
        return "\n".join(lines)


class JsonFormatter(_Formatter):
    """Formats events for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        event: dict[str, Any] = {
            "time": self._format_time(record),
            "process": self._name,
            "pid": record.process,
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        event |= getattr(record, "fields", {})
        if traceback := self._format_traceback(record):
            event["traceback"] = traceback
        return json.dumps(event)


class Recurring:
    """An event that a shortage or a client can cause very often.

    The first is logged at once, then at most one in `REPEAT_S` seconds, with the number of those left out before it.
    """

    def __init__(self, log: logging.Logger, level: int, message: str) -> None:
        """`message`: with places for arguments, as `logging` has them."""
        self._log, self._level, self._message = log, level, message
        self._left_out = 0
        self._quiet_until = -math.inf

    def report(self, *arguments: object, error: bool = False, now: float | None = None) -> None:
        """Log the event, or count it if one was logged lately.

        `error`: add the traceback of the exception that is being handled. `now`: time.monotonic(); None: ask for it.
        """
        now = time.monotonic() if now is None else now
        if now < self._quiet_until:
            self._left_out += 1
            return
        more = f" (and {self._left_out} more like this before)" if self._left_out else ""
        self._quiet_until, self._left_out = now + REPEAT_S, 0
        self._log.log(self._level, self._message + more, *arguments, exc_info=error)


def configure_logging(level: str, name: str, format: str = "text") -> None:
    """Log to standard error, as the process `name`: log records, warnings, and uncaught exceptions."""
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(name) if format == "json" else TextFormatter(name))
    logging.basicConfig(level=TRACE if level == "trace" else level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda arguments: _log_uncaught(
        arguments.exc_type, arguments.exc_value, arguments.exc_traceback
    )


def report_fatal(message: str) -> None:
    """Report why the process must end: as an event in JSON logs, else as commands print errors."""
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers):
        logging.getLogger("kvserver").critical("%s", message)
    else:
        print_error(message)


def _log_uncaught(kind: Any, error: Any, traceback: Any) -> None:
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        log = logging.getLogger("kvserver")
        log.critical("unexpected error, exiting", exc_info=(kind, error, traceback))
