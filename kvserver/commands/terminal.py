"""Output of the commands. All of it passes through `shards.host.logs.escape_controls`, so that text from a server or a
file cannot control the terminal."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import NoReturn

import click

from kvserver.commands.parts.statuses import INTERRUPTED, PIPE_CLOSED
from shards.host.logs import escape_controls, print_error
from shards.host.process import mute_stream

Report = Callable[[int, int | None], object]
"""Takes the bytes done and the total, None if it is unknown."""


def prepare_streams() -> None:
    """Make the standard streams accept every character, and escape tracebacks. Installs `sys.excepthook`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = show_uncaught


def print_line(line: str) -> None:
    """Write `line` to standard output. Exits if that fails, with the status of `exit_for_output`."""
    try:
        print(escape_controls(line), flush=True)
    except OSError as error:
        exit_for_output(error)


def exit_for_output(error: OSError) -> NoReturn:
    """Exit: standard output cannot be written. The status is 141 if its reader has closed it, else 1."""
    mute_stream(sys.stdout)
    if isinstance(error, BrokenPipeError):  # who has closed the pipe needs no message
        sys.exit(PIPE_CLOSED)
    print_error(f"cannot write to standard output: {error.strerror}")
    sys.exit(1)


def exit_aborted(error: click.Abort) -> NoReturn:
    """Exit: with 130 after Ctrl-C, with 1 if there was no answer to a question."""
    if isinstance(error.__cause__, EOFError):
        exit_with("the question was not answered")
    print_error("interrupted")
    sys.exit(INTERRUPTED)


def is_of_output(error: OSError) -> bool:
    """Return whether `error` was raised while click wrote a help page or the version."""
    return list(traceback.walk_tb(error.__traceback__))[-1][0].f_globals.get("__name__") == click.utils.__name__


def exit_with(message: object) -> NoReturn:
    """Print `message` to standard error and exit with status 1."""
    print_error(str(message))
    sys.exit(1)


@contextmanager
def progress_bar(title: str) -> Iterator[Report]:
    """Show progress in bytes if standard error is a terminal; yield the function to report it to.

    `title`: a constant of the command, never text from elsewhere.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    # Imported here, because loading rich takes longer than most commands.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(title), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def show_misuse(error: click.ClickException) -> None:
    """Print a usage error to standard error, escaped, because it may quote any text."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    lines = []
    if context is not None:
        lines += [*context.get_usage().splitlines(), f"Try '{context.command_path} --help' for help.", ""]
    _to_stderr([*lines, f"Error: {error.format_message()}"])


def show_uncaught(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    """Print a traceback, escaped line by line; the `sys.excepthook` of commands."""
    _to_stderr("".join(traceback.format_exception(kind, error, frames)).splitlines())


def _to_stderr(lines: Iterable[str]) -> None:
    with suppress(OSError, ValueError):
        for line in lines:
            print(escape_controls(line), file=sys.stderr, flush=True)
