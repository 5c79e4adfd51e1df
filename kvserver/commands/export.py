"""`kvserver export`: writes the keys of a running server as the lines of a file."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from pathlib import Path
from typing import BinaryIO

import click

from kvserver.commands.interrupts import interruptible
from kvserver.commands.parts.texts import size_text
from kvserver.commands.remote import open_remote, records_text, remote_options
from kvserver.commands.terminal import exit_with, print_line, progress_bar
from kvserver.transfer.exporter import ItemExporter
from kvserver.transfer.remote import TransferError
from shards.files.safe_files import writing_to

HELP = """Write every key of a running server, with value, content type and expiry, to FILE, or - for standard output.

Each line is a JSON record that `kvserver import` reads. Lines are sorted by key, so that two exports can be compared.
An export is not a snapshot: it may or may not contain writes made while it runs. For a consistent copy use
`kvserver backup`.

FILE appears under its name when it is complete, and only its owner can read it. A FIFO or a device such as /dev/stdout
is written to directly. A link that another user may have made is not followed.

With a token, only the keys that it may read are exported.
"""


def export_items(to: str, prefix: str, url: str | None, token_file: Path | None, patience: float) -> None:
    """Run the command: print how many records were exported, or exit with 1."""
    try:
        prefix.encode()
    except UnicodeEncodeError:
        raise click.UsageError("the prefix is not UTF-8, which all keys are") from None
    interruptible()
    with open_remote(url, token_file, 1) as remote, progress_bar("export") as report:
        exporter = ItemExporter(remote, prefix, patience, lambda done: report(done, None))
        why, target = _run_export(exporter, to)
    if why:
        left = (
            "nothing was exported"
            if target is OutputKind.FILE
            else f"at most {records_text(exporter.exported)} came out"
        )
        exit_with(f"{why}; {left}")
    if target is not OutputKind.OUTPUT:
        print_line(f"exported {records_text(exporter.exported)} to {to}: {size_text(exporter.size)}")


class OutputKind(Enum):
    """Kind of output of an export."""

    FILE = auto()
    """A regular file, which gets its name when it is complete."""
    OPEN = auto()
    """Something else that can be opened, such as a FIFO."""
    OUTPUT = auto()
    """Standard output under any name: nothing else may be written there."""


def _run_export(exporter: ItemExporter, to: str) -> tuple[str, OutputKind]:
    """Run the export. Return why it ended early, or an empty text, and the kind of its output."""
    target = OutputKind.FILE
    try:
        with _open_target(to) as file:
            target = _kind_of(to, file)
            exporter.run(file)
    except TransferError as error:
        return str(error), target
    except BrokenPipeError:
        if sys.stdout is not None:  # otherwise Python reports it again when it flushes the rest
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "the output is no longer read", target
    except OSError as error:
        return f"{to} cannot be written: {error.strerror}", target
    return "", target


def _kind_of(to: str, file: BinaryIO) -> OutputKind:
    if to == "-":
        return OutputKind.OUTPUT
    status = os.fstat(file.fileno())
    with suppress(OSError):  # it is closed
        if sys.stdout is not None and os.path.samestat(status, os.fstat(sys.stdout.fileno())):
            return OutputKind.OUTPUT
    return OutputKind.FILE if stat.S_ISREG(status.st_mode) else OutputKind.OPEN


_STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


@contextmanager
def _open_target(to: str) -> Iterator[BinaryIO]:
    """Open the output. A file gets its name when it is complete; a pipe or device is written to directly."""
    if sys.stdout is None and to in _STANDARD_OUTPUT:  # as after >&-
        raise OSError(errno.EBADF, "it is closed")
    if to == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with writing_to(Path(to)) as file:
        yield file


COMMAND = click.Command(
    "export",
    callback=export_items,
    params=[
        click.Argument(["to"], metavar="FILE"),
        click.Option(["--prefix"], metavar="PREFIX", default="", help="Export only keys that begin with this."),
        *remote_options(),
    ],
    help=HELP,
)
