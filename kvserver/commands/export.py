"""`kvserver export`: what a running server holds, as the lines of a file."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from kvserver.commands.place import end_tidily, size_text
from kvserver.commands.remote import open_remote, records, remote_options
from kvserver.commands.terminal import bar, fail, say
from kvserver.transfer.exporter import Exporter
from kvserver.transfer.remote import TransferError

HELP = """Write every key of a running server, with value, content type and expiry, to FILE, or - for standard output.

A line is a record of JSON, as `kvserver import` reads it; they are in the order of keys, so that two exports can be
compared. It is not the state of one moment: what is written meanwhile may be in it or not. `kvserver backup` is.

FILE gets its name when it is whole; its owner alone can read it. With a token, those keys are written that it may read.
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
        why = _run(exporter, to)
    if why:
        left = f"only {records(exporter.exported)} came out" if to == "-" else "nothing was exported"
        fail(f"{why}; {left}")
    if to != "-":
        say(f"exported {records(exporter.exported)} to {to}: {size_text(exporter.size)}")


def _run(exporter: Exporter, to: str) -> str:
    """Export; why it ended early, if it did."""
    try:
        with _opened(to) as file:
            exporter.run(file)
    except TransferError as error:
        return str(error)
    except BrokenPipeError:
        # Who read it has gone. Python would say so once more when it flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "nobody reads the output any more"
    except OSError as error:
        return f"{to} cannot be written: {error.strerror}"
    return ""


@contextmanager
def _opened(to: str) -> Iterator[BinaryIO]:
    """Where to write. A file gets its name when it is whole; what is none, such as a pipe, is written as it is."""
    if to == "-":
        if sys.stdout is None:  # as after >&-
            raise OSError(errno.EBADF, "it is closed")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(to).resolve()
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open("wb") as file:
            yield file
        return
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    begun = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(fd)
        begun.replace(path)
    except BaseException:
        begun.unlink(missing_ok=True)
        raise


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
