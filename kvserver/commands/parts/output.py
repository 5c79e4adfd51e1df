"""Standard output for data, standard error for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import click

from kvserver.commands.terminal import exit_for_output
from shards.host.logs import escape_controls, print_error


class Output:
    """Where a command writes.

    Data goes to standard output, byte for byte; a terminal gets it escaped and, unless forbidden, in colors. A pipe
    that has no reader ends the process silently with status 141.
    """

    def __init__(self, no_color: bool = False, quiet: bool = False) -> None:
        """`no_color`: no colors on terminals either; `quiet`: no words for people but errors."""
        self._no_color, self._quiet = no_color or bool(os.environ.get("NO_COLOR")), quiet
        self.is_terminal = sys.stdout is not None and sys.stdout.isatty()
        self.is_for_people = sys.stderr is not None and sys.stderr.isatty() and not quiet

    @property
    def is_colored(self) -> bool:
        """Whether standard output is a terminal that gets colors."""
        return self.is_terminal and not self._no_color and os.environ.get("TERM") != "dumb"

    def data(self, text: bytes) -> None:
        """Write bytes to standard output as they are; `flush` sends what is written."""
        try:
            _stdout().write(text)
        except OSError as error:
            exit_for_output(error)

    def flush(self) -> None:
        """Send what was written."""
        try:
            if sys.stdout is not None:
                sys.stdout.buffer.flush()
        except OSError as error:
            exit_for_output(error)

    def line(self, text: str, *, tabs: bool = False, styled: bool = False) -> None:
        """Write a line of words to standard output, escaped; `tabs`: but its tabs; `styled`: it is escaped already."""
        shown = text if styled else "\t".join(map(escape_controls, text.split("\t"))) if tabs else escape_controls(text)
        self.data(shown.encode("utf-8", "backslashreplace") + b"\n")

    def colored(self, text: str, style: str) -> str:
        """Return `text` in a color if standard output has colors; `style` is an SGR parameter such as `1;32`."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.is_colored else text

    def name(self, key: str, end: bytes = b"\n") -> None:
        """Write a key as a line; escaped only on a terminal."""
        shown = escape_controls(key) if self.is_terminal else key
        self.data(shown.encode("utf-8", "backslashreplace") + end)

    def document(self, document: Any) -> None:
        """Write a line of JSON, which holds no control characters."""
        self.data(json_line(document).encode() + b"\n")

    def confirm(self, question: str) -> bool:
        """Ask on the terminal, by standard error. Raises `click.Abort` if there is no answer."""
        return click.confirm(escape_controls(question), err=True)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show that work is in progress, and for how long, if standard error is a terminal and it takes a while."""
        if not self.is_for_people:
            yield
            return
        from rich.console import Console  # slow to load, which is no matter where people wait

        with Console(stderr=True, no_color=self._no_color).status(what):
            yield

    @contextmanager
    def progress(self, what: str, total: float) -> Iterator[Callable[[float], object]]:
        """Show a bar if standard error is a terminal; yield the function to call with how much of `total` is done."""
        if not self.is_for_people:
            yield lambda done: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True, no_color=self._no_color)
        with Progress(
            TextColumn(what), BarColumn(), TimeRemainingColumn(), console=console, transient=True
        ) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.update(task, completed=done)

    def say(self, text: str) -> None:
        """Write a line for people to standard error, escaped, unless the command is quiet."""
        if not self._quiet:
            with suppress(OSError, ValueError):
                print(escape_controls(text), file=sys.stderr, flush=True)


def json_line(document: Any) -> str:
    """Return a document as one line of JSON, in ASCII if a terminal might obey anything of it."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    if escape_controls(text) == text:
        return text
    return json.dumps(document, separators=(",", ":")).replace("\x7f", "\\u007f")


def _stdout() -> BinaryIO:
    if sys.stdout is None:  # as after >&-
        print_error("standard output is closed")
        sys.exit(1)
    return sys.stdout.buffer
