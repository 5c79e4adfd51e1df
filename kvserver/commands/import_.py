"""`kvserver import`: the lines of a file into a running server."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from kvserver.commands.local_store import end_tidily
from kvserver.commands.remote import open_remote, records, remote_options
from kvserver.commands.terminal import bar, fail, say
from kvserver.transfer.importer import LANES, Importer
from kvserver.transfer.records import LineError
from kvserver.transfer.remote import TransferError
from shards.files.safe_files import open_named
from shards.files.trusted_path import Care
from shards.host.logs import print_error

HELP = """Store the records in FILE, or - for standard input, in a running server.

A record is a line of JSON: key, one of value (text) and value_base64 (anything), and if need be content_type and
expires (a time like 2026-11-22T11:40:00.123Z). That is what `kvserver export` writes.

It stops at the first record that is wrong or refused, names its line, and says how many are stored. The same file can
be imported again at any time: records that are stored already are stored once more. A record whose expiry has passed
is left out, and counted.
"""


def import_(source: str, url: str | None, token_file: Path | None, patience: float) -> None:
    """The command."""
    end_tidily()
    begun = time.monotonic()
    with _opened(source) as file, open_remote(url, token_file, LANES) as remote, bar("import") as report:
        size = _size(file)
        importer = Importer(remote, patience, lambda done: report(done, size))
        why, status = _run(importer, file, "standard input" if source == "-" else source)
    stored = f"stored {records(importer.imported)}"
    expired = f", left out {records(importer.expired)} expired by now" if importer.expired else ""
    if status:
        print_error(why)
        print_error(f"{stored}{expired}; all of it can be imported again")
        sys.exit(status)
    say(f"{stored} in {time.monotonic() - begun:.1f} s{expired}")


def _run(importer: Importer, file: BinaryIO, name: str) -> tuple[str, int]:
    """Import; why it ended early, if it did, and the status that says so."""
    try:
        importer.run(file)
    except LineError as error:
        return f"{name}:{error.line}: {error.why}", 1
    except TransferError as error:
        return str(error), 1
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}", 1
    except KeyboardInterrupt:
        return "interrupted", 128 + signal.SIGINT
    except SystemExit as ended:
        return "told to end", int(ended.code or 1)
    return "", 0


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        if sys.stdin is None:  # as after <&-
            fail("standard input is closed")
        yield sys.stdin.buffer
        return
    try:
        file = open_named(Path(source), Care.READ)  # what fails later is no failure to open it
    except OSError as error:
        fail(f"{source} cannot be read: {error.strerror}")
    with file:
        yield file


def _size(file: BinaryIO) -> int | None:
    """Its bytes, if it is a file."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


COMMAND = click.Command(
    "import",
    callback=import_,
    params=[click.Argument(["source"], metavar="FILE"), *remote_options()],
    help=HELP,
    short_help="Store the lines of a file in a running server.",
)
