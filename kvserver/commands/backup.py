"""`kvserver backup`: the whole store at one revision, copied beside the running server."""

from __future__ import annotations

from pathlib import Path

import click

from kvserver import __version__
from kvserver.api.times import rfc3339
from kvserver.commands.local_store import (
    Refused,
    end_tidily,
    let_others_first,
    running,
    see_that_it_is_a_store,
    settings_of,
    size_text,
    stopped,
)
from kvserver.commands.options import options
from kvserver.commands.terminal import Report, bar, fail, say
from kvserver.serve.store import explain
from kvserver.settings import ServerSettings
from shards.backup.archive import Archive
from shards.backup.take import BackupError, RunningStore, StoppedStore, back_up
from shards.log.files import LogError
from shards.log.manifest import ManifestError
from shards.log.pins import NoPlace
from shards.log.recovery import Damaged

HELP = """Copy the whole store, as it is at one revision, to the new or empty directory TO.

The server may run, and is not held up. The backup can be restored to that revision and to every earlier one back to
the last snapshot that the store took by itself; what it reaches is printed.
"""


def backup(to: str, **given: str | None) -> None:
    """The command."""
    settings, target = settings_of(given), Path(to)
    end_tidily()
    let_others_first()
    try:
        with bar("backup") as report:
            archive = _back_up(settings, target, report)
    except (Refused, BackupError, ManifestError, LogError, NoPlace, Damaged) as error:
        fail(error)
    except OSError as error:
        fail(f"no backup was taken: {explain(error, None)}")
    files = len(archive.manifest.files) + len(archive.log) + 1
    say(f"revision {archive.last_revision} is in {target}: {size_text(archive.size)} in {files} files")
    say(f"it can be restored to {reach(archive)}")


def _back_up(settings: ServerSettings, target: Path, report: Report) -> Archive:
    if settings.in_memory:
        raise Refused("a store in memory cannot be backed up: it has no snapshots and keeps no history")
    board = running(settings)
    if board is not None:
        try:
            if board.facts.in_memory:
                raise Refused("this server keeps its store in memory, which cannot be backed up: it keeps no history")
            return back_up(RunningStore(board), target, __version__, report)
        finally:
            board.close()
    see_that_it_is_a_store(settings)
    with stopped(settings.data_dir):
        return back_up(StoppedStore(settings.data_dir), target, __version__, report)


def reach(archive: Archive) -> str:
    """The states that a backup can be restored to, in words."""
    return (
        f"revisions {archive.first_revision} to {archive.last_revision}, "
        f"times {rfc3339(archive.first_ms)} to {rfc3339(archive.taken_ms)}"
    )


COMMAND = click.Command(
    "backup",
    callback=backup,
    params=[click.Argument(["to"], metavar="TO"), *options("data_dir", "run_dir")],
    help=HELP,
    short_help="Copy the store while it runs.",
)
