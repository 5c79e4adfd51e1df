"""`kvserver restore`: makes a data directory from a backup, at its end or at any earlier point in its range."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kvserver.api.times import parse_rfc3339, rfc3339
from kvserver.commands.interrupts import interruptible
from kvserver.commands.local.backup import restorable_range
from kvserver.commands.local.local_store import CommandRefused, serving_pid, settings_of, stopped_store
from kvserver.commands.options import setting_options
from kvserver.commands.terminal import Report, exit_with, print_line, progress_bar
from kvserver.serve.store import explain_os_error
from kvserver.settings import ServerSettings
from shards.backup.archive import Archive, ArchiveError, Cut, OutOfReach, RestoreTarget, find_cut
from shards.backup.restore import NotEmpty, restore_backup, see_that_it_is_empty
from shards.files.trusted_path import Care, Planted, require_private_directory, resolve_path, user_name
from shards.maps.layout import MapError, MapFull
from shards.maps.snapshot import SnapshotError
from shards.wire.errors import BadRequest

HELP = """Make a data directory from the backup in FROM: --data-dir, which must be new or empty.

--until restores an earlier revision or time within the backup's range, which `kvserver check FROM` prints. An atomic
batch is restored entirely or not at all. Keys that have expired since then expire when the server starts. The restored
store begins a new history: feed readers must start over.

--for-cluster makes a machine of a cluster from a backup of another one: one that is new, or was away for longer than
the order reaches back. It goes on with the history of the cluster.
"""


def restore_store(source: str, until: str | None, for_cluster: bool, **given: str | None) -> None:
    """Run the command: print the restored revision, or exit with 1."""
    settings, place = settings_of(given), parse_until(until)
    if for_cluster and until is not None:
        raise click.UsageError("a machine of a cluster goes on where the backup ends: leave --until out")
    interruptible()
    try:
        with progress_bar("restore") as report:
            archive, cut = _restore_backup(settings, Path(source), place, report, for_cluster)
    except (CommandRefused, NotEmpty, ArchiveError, SnapshotError, MapError, MapFull) as error:
        exit_with(error)
    except OSError as error:
        exit_with(f"the restore was not finished: {explain_os_error(error, settings.data_dir)}")
    if cut.within_batch:
        print_line(f"revision {place.revision} lies within an atomic batch, which is left out as a whole")
    whole = "" if cut.revision < archive.last_revision else ", all of the backup"
    print_line(f"{settings.data_dir} is at revision {cut.revision} of {rfc3339(cut.time_ms)}{whole}")
    more = " --node NAME --cluster ADDRESSES" if for_cluster else ""
    print_line(f"start it with: kvserver serve --data-dir {settings.data_dir}{more}")


def _restore_backup(
    settings: ServerSettings, source: Path, until: RestoreTarget, report: Report, for_cluster: bool
) -> tuple[Archive, Cut]:
    if settings.in_memory:
        raise CommandRefused("a store in memory cannot be restored: restore into a data directory")
    data_dir = settings.data_dir
    pid = serving_pid(data_dir)
    if pid is not None:
        raise CommandRefused(
            f"the store in {data_dir} is served by another process (pid {pid}): name an empty directory"
        )
    _require_own_directory(data_dir)
    archive = Archive.load(source)
    try:
        cut = find_cut(archive, source, until)
    except OutOfReach:
        raise CommandRefused(
            f"the backup in {source} does not reach that: it can be restored to {restorable_range(archive)}"
        ) from None
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    see_that_it_is_empty(data_dir)
    with stopped_store(data_dir):
        see_that_it_is_empty(data_dir)
        restore_backup(archive, source, data_dir, cut, report, for_cluster=for_cluster)
    return archive, cut


def _require_own_directory(data_dir: Path) -> None:
    """Raise `CommandRefused` if another user could replace `data_dir`, or put something into it."""
    try:
        real = resolve_path(data_dir, Care.WRITE)
        if real.is_dir():
            require_private_directory(real, Care.WRITE)
            owner = real.stat().st_uid
            if owner != os.geteuid():
                raise Planted(real, f"{real} belongs to {user_name(owner)}: restore it as that user")
    except Planted as error:
        raise CommandRefused(f"nothing is restored into a directory that others can change: {error}") from None


def parse_until(text: str | None) -> RestoreTarget:
    """Parse the value of --until. Raises `click.BadParameter`."""
    if text is None:
        return RestoreTarget()
    if text.isascii() and text.isdigit() and len(text) < 20:
        return RestoreTarget(revision=int(text))
    try:
        return RestoreTarget(time_ms=parse_rfc3339(text))
    except BadRequest as error:
        raise click.BadParameter(f"{text!r} is neither a revision nor a time: {error.detail}") from None


COMMAND = click.Command(
    "restore",
    callback=restore_store,
    params=[
        click.Argument(["source"], metavar="FROM"),
        click.Option(
            ["--until"],
            metavar="REVISION|TIME",
            help="The last revision to restore, or a time like 2026-11-22T11:40:00.123Z: the store as it was then. "
            "Default: all of the backup.",
        ),
        click.Option(["--for-cluster"], is_flag=True, help="Make a machine of the cluster that the backup is of."),
        *setting_options("data_dir"),
    ],
    help=HELP,
)
