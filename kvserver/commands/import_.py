"""`kvserver import`: stores the lines of a file in a running server."""

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

from kvserver.commands.interrupts import interruptible
from kvserver.commands.remote import open_remote, records_text, remote_options
from kvserver.commands.terminal import exit_with, print_line, progress_bar
from kvserver.transfer.importer import LANES, ItemImporter
from kvserver.transfer.records import LineError
from kvserver.transfer.remote import TransferError
from shards.files.safe_files import open_named
from shards.files.trusted_path import Care
from shards.host.logs import print_error

HELP = """Store the records in FILE, or - for standard input, in a running server.

A record is a line of JSON: key, either value (text) or value_base64 (any bytes), and optionally content_type and
expires (a time like 2026-11-22T11:40:00.123Z). `kvserver export` writes the same format.

The import stops at the first record that is invalid or refused, names its line, and prints how many records are
stored. The same file can be imported again at any time: records already stored are stored again. Expired records are
skipped and counted.
"""


def import_items(source: str, url: str | None, token_file: Path | None, patience: float) -> None:
    """Run the command: print how many records are stored; exit with 1 if the import stopped early."""
    interruptible()
    begun = time.monotonic()
    with _open_source(source) as file, open_remote(url, token_file, LANES) as remote, progress_bar("import") as report:
        size = _file_size(file)
        importer = ItemImporter(remote, patience, lambda done: report(done, size))
        why, status = _run_import(importer, file, "standard input" if source == "-" else source)
    stored = f"stored {records_text(importer.imported)}"
    expired = f", left out {records_text(importer.expired)} expired by now" if importer.expired else ""
    if status:
        print_error(why)
        print_error(f"{stored}{expired}; the whole file can be imported again")
        sys.exit(status)
    print_line(f"{stored} in {time.monotonic() - begun:.1f} s{expired}")


def _run_import(importer: ItemImporter, file: BinaryIO, name: str) -> tuple[str, int]:
    """Run the import. Return why it ended early, or an empty text, and the exit status."""
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
        return "stopped by a signal", int(ended.code or 1)
    return "", 0


@contextmanager
def _open_source(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        if sys.stdin is None:  # as after <&-
            exit_with("standard input is closed")
        yield sys.stdin.buffer
        return
    try:
        file = open_named(Path(source), Care.READ)  # only errors of opening are handled here
    except OSError as error:
        exit_with(f"{source} cannot be read: {error.strerror}")
    with file:
        yield file


def _file_size(file: BinaryIO) -> int | None:
    """Return the size in bytes of a regular file, else None."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


COMMAND = click.Command(
    "import",
    callback=import_items,
    params=[click.Argument(["source"], metavar="FILE"), *remote_options()],
    help=HELP,
)
