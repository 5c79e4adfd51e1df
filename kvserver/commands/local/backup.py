"""`kvserver backup`: copies the whole store at one revision, while a server may run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from kvserver import __version__
from kvserver.api.times import rfc3339
from kvserver.commands.interrupts import interruptible
from kvserver.commands.local.local_store import (
    CommandRefused,
    lower_priority,
    open_running_board,
    require_store,
    settings_of,
    stopped_store,
)
from kvserver.commands.options import setting_options
from kvserver.commands.parts.texts import size_text
from kvserver.commands.terminal import Report, exit_for_output, exit_with, print_line, progress_bar
from kvserver.serve.store import explain_os_error
from kvserver.settings import ServerSettings
from shards.backup.archive import Archive
from shards.backup.copies import BackupError
from shards.backup.take import BackupSource, RunningStore, StoppedStore, back_up, stream_backup
from shards.host.logs import escape_controls
from shards.log.files import LogError
from shards.log.manifest import ManifestError
from shards.log.pins import NoPlace
from shards.log.recovery import Damaged

STREAM: Final = "-"

HELP = """Copy the whole store, as it is at one revision, to the new or empty directory TO.

With - for TO the backup goes to standard output, as a tar archive of such a directory.

The server may run: no write waits for the backup, but it shares processor and disk. The backup can be restored to that
revision and to every earlier one back to the store's own last snapshot; the command prints that range.
"""


Take = Callable[[BackupSource, Report], Archive]
"""Takes a backup of a store."""


def back_up_store(to: str, **given: str | None) -> None:
    """Run the command: print the backup's range, or exit with 1."""
    settings = settings_of(given)
    interruptible()
    lower_priority()
    try:
        take = _choose_take(to)
        with progress_bar("backup") as report:
            archive = _back_up(settings, take, report)
    except (CommandRefused, BackupError, ManifestError, LogError, NoPlace, Damaged) as error:
        exit_with(error)
    except OSError as error:
        exit_with(f"no backup was taken: {explain_os_error(error, None)}")
    files = len(archive.manifest.files) + len(archive.log) + 1
    where = "was written to standard output" if to == STREAM else f"is in {Path(to)}"
    for line in (
        f"revision {archive.last_revision} {where}: {size_text(archive.size)} in {files} files",
        f"it can be restored to {restorable_range(archive)}",
    ):
        if to == STREAM:
            click.echo(escape_controls(line), err=True)
        else:
            print_line(line)


def _choose_take(to: str) -> Take:
    """Return what takes a backup to the directory `to`, or to standard output. Raises `CommandRefused`."""
    if to != STREAM:
        return lambda source, report: back_up(source, Path(to), __version__, report)
    if sys.stdout is None:
        raise CommandRefused("standard output is closed: redirect it, as in `kvserver backup - > store.tar`")
    if sys.stdout.isatty():
        raise CommandRefused("the backup would go to the terminal: redirect it, as in `kvserver backup - > store.tar`")
    return _stream


def _stream(source: BackupSource, report: Report) -> Archive:
    try:
        archive = stream_backup(source, sys.stdout.buffer, __version__, report)
        sys.stdout.buffer.flush()
    except OSError as error:
        if error.filename is not None:  # of the store
            raise
        exit_for_output(error)
    return archive


def _back_up(settings: ServerSettings, take: Take, report: Report) -> Archive:
    if settings.in_memory:
        raise CommandRefused("a store in memory cannot be backed up: it has no snapshots and no history")
    board = open_running_board(settings)
    if board is not None:
        try:
            if board.facts.in_memory:
                raise CommandRefused(
                    "this server keeps its store in memory, which cannot be backed up: it has no history"
                )
            return take(RunningStore(board), report)
        finally:
            board.close()
    require_store(settings)
    with stopped_store(settings.data_dir):
        return take(StoppedStore(settings.data_dir), report)


def restorable_range(archive: Archive) -> str:
    """Describe the states that a backup can be restored to."""
    return (
        f"revisions {archive.first_revision} to {archive.last_revision}, "
        f"times {rfc3339(archive.first_ms)} to {rfc3339(archive.taken_ms)}"
    )


COMMAND = click.Command(
    "backup",
    callback=back_up_store,
    params=[click.Argument(["to"], metavar="TO"), *setting_options("data_dir", "run_dir")],
    help=HELP,
)
