"""`kvserver export`: what a running server holds, as the lines of a file."""

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

from kvserver.commands.local_store import end_tidily, size_text
from kvserver.commands.remote import open_remote, records, remote_options
from kvserver.commands.terminal import bar, fail, say
from kvserver.transfer.exporter import Exporter
from kvserver.transfer.remote import TransferError
from shards.files.safe_files import writing_to

HELP = """Write every key of a running server, with value, content type and expiry, to FILE, or - for standard output.

A line is a record of JSON, as `kvserver import` reads it; they are in the order of keys, so that two exports can be
compared. It is not the state of one moment: what is written meanwhile may be in it or not. `kvserver backup` is.

FILE gets its name when it is whole; its owner alone can read it. What is no file, such as a FIFO or /dev/stdout, is
written to. A link that another user may have made is not followed.

With a token, those keys are written that it may read.
"""


def export(to: str, prefix: str, url: str | None, token_file: Path | None, patience: float) -> None:
    """The command."""
    try:
        prefix.encode()
    except UnicodeEncodeError:
        raise click.UsageError("the prefix is not UTF-8, which all keys are") from None
    end_tidily()
    with open_remote(url, token_file, 1) as remote, bar("export") as report:
        exporter = Exporter(remote, prefix, patience, lambda done: report(done, None))
        why, target = _run(exporter, to)
    if why:
        left = "nothing was exported" if target is Target.FILE else f"only {records(exporter.exported)} came out"
        fail(f"{why}; {left}")
    if target is not Target.OUTPUT:
        say(f"exported {records(exporter.exported)} to {to}: {size_text(exporter.size)}")


class Target(Enum):
    """Where an export goes."""

    FILE = auto()
    """A file that gets its name when it is whole."""
    OPEN = auto()
    """What is no file, such as a FIFO."""
    OUTPUT = auto()
    """Standard output, by whatever name: nothing else may be written there."""


def _run(exporter: Exporter, to: str) -> tuple[str, Target]:
    """Export; why it ended early, if it did, and where it went."""
    target = Target.FILE
    try:
        with _opened(to) as file:
            target = _target(to, file)
            exporter.run(file)
    except TransferError as error:
        return str(error), target
    except BrokenPipeError:
        if sys.stdout is not None:  # Python would say so once more when it flushes what is left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "nobody reads the output any more", target
    except OSError as error:
        return f"{to} cannot be written: {error.strerror}", target
    return "", target


def _target(to: str, file: BinaryIO) -> Target:
    if to == "-":
        return Target.OUTPUT
    status = os.fstat(file.fileno())
    with suppress(OSError):  # it is closed
        if sys.stdout is not None and os.path.samestat(status, os.fstat(sys.stdout.fileno())):
            return Target.OUTPUT
    return Target.FILE if stat.S_ISREG(status.st_mode) else Target.OPEN


_STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


@contextmanager
def _opened(to: str) -> Iterator[BinaryIO]:
    """Where to write. A file gets its name when it is whole; what is none, such as a pipe, is written to."""
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
    callback=export,
    params=[
        click.Argument(["to"], metavar="FILE"),
        click.Option(["--prefix"], metavar="PREFIX", default="", help="Only keys that begin with this."),
        *remote_options(),
    ],
    help=HELP,
    short_help="Write what a running server holds to a file.",
)
