"""What commands say to people. All of it goes through here, and so through `escape_controls`: whatever a
server or a file holds, a terminal shows it and does not obey it."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import NoReturn

import click

from shards.host.logs import escape_controls, print_error
from shards.host.process import mute_stream

Report = Callable[[int, int | None], object]
"""Told how much is done, and of how much; None: nobody knows."""


def prepare() -> None:
    """Have nothing that is written to the standard streams fail for its characters, or reach them unseen."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = show_uncaught


def say(line: str) -> None:
    """Write `line` to standard output. Where that cannot be done, the command ends with status 1."""
    try:
        print(escape_controls(line), flush=True)
    except OSError as error:
        mute_stream(sys.stdout)
        if not isinstance(error, BrokenPipeError):  # who has read enough wants to hear no more
            print_error(f"standard output cannot be written: {error.strerror}")
        sys.exit(1)


def fail(message: object) -> NoReturn:
    """End the command: `message` to standard error, status 1."""
    print_error(str(message))
    sys.exit(1)


@contextmanager
def bar(title: str) -> Iterator[Report]:
    """A function to tell progress to, in bytes; shown if standard error is a terminal. `title` is the command's own."""
    # Here, because it takes longer to load than most commands to run.
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
    """Write what is wrong with a command line to standard error. What it quotes may come from anywhere."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    lines = []
    if context is not None:
        lines += [*context.get_usage().splitlines(), f"Try '{context.command_path} --help' for help.", ""]
    _to_stderr([*lines, f"Error: {error.format_message()}"])


def show_uncaught(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    """`sys.excepthook` of commands: the traceback, a line for each of its lines."""
    _to_stderr("".join(traceback.format_exception(kind, error, frames)).splitlines())


def _to_stderr(lines: Iterable[str]) -> None:
    with suppress(OSError, ValueError):
        for line in lines:
            print(escape_controls(line), file=sys.stderr, flush=True)
