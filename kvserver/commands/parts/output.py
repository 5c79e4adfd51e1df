"""Standard output for data, standard error for people."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO, NoReturn

from kvserver.commands.parts.statuses import PIPE_CLOSED
from shards.host.logs import escape_controls, print_error
from shards.host.process import mute_stream


class Output:
    """Where a command writes.

    Data goes to standard output, byte for byte; a terminal gets it escaped and, unless forbidden, in colours. A pipe that
    nobody reads ends the process silently with status 141.
    """

    def __init__(self, no_color: bool = False, quiet: bool = False) -> None:
        """`no_color`: no colours on terminals either; `quiet`: no words for people but errors."""
        self._no_color, self._quiet = no_color or bool(os.environ.get("NO_COLOR")), quiet
        self.is_terminal = sys.stdout is not None and sys.stdout.isatty()

    @property
    def is_coloured(self) -> bool:
        """Whether standard output is a terminal that gets colours."""
        return self.is_terminal and not self._no_color and os.environ.get("TERM") != "dumb"

    def data(self, text: bytes) -> None:
        """Write bytes to standard output as they are."""
        try:
            stream = _stdout()
            stream.write(text)
            stream.flush()
        except OSError as error:
            _exit_for(error)

    def line(self, text: str) -> None:
        """Write a line of words to standard output, escaped."""
        self.data(escape_controls(text).encode("utf-8", "backslashreplace") + b"\n")

    def coloured(self, text: str, style: str) -> str:
        """Return `text` in a colour if standard output has colours; `style` is an SGR parameter such as `1;32`."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.is_coloured else text

    def name(self, key: str, end: bytes = b"\n") -> None:
        """Write a key as a line; escaped only on a terminal."""
        shown = escape_controls(key) if self.is_terminal else key
        self.data(shown.encode("utf-8", "backslashreplace") + end)

    def document(self, document: Any) -> None:
        """Write a line of JSON, which holds no control characters."""
        self.data(json_line(document).encode() + b"\n")

    def say(self, text: str) -> None:
        """Write a line for people to standard error, escaped, unless the command is quiet."""
        if not self._quiet:
            try:
                print(escape_controls(text), file=sys.stderr, flush=True)
            except (OSError, ValueError):
                pass


def json_line(document: Any) -> str:
    """Return a document as one line of JSON in ASCII wherever a terminal might obey it."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text if escape_controls(text) == text else json.dumps(document, separators=(",", ":")).replace("\x7f", "\\u007f")


def _stdout() -> BinaryIO:
    if sys.stdout is None:  # as after >&-
        print_error("standard output is closed")
        sys.exit(1)
    return sys.stdout.buffer


def _exit_for(error: OSError) -> NoReturn:
    """End the process: standard output cannot be written."""
    mute_stream(sys.stdout)
    if isinstance(error, BrokenPipeError):
        sys.exit(PIPE_CLOSED)
    print_error(f"cannot write to standard output: {error.strerror}")
    sys.exit(1)
