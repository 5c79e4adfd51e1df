"""`kvserver restore`: a data directory made of a backup, as it was at its end or at any moment it reaches."""

from __future__ import annotations

from pathlib import Path

import click

from kvserver.api.times import parse_rfc3339, rfc3339
from kvserver.commands.backup import reach
from kvserver.commands.local_store import Refused, end_tidily, serving_pid, settings_of, stopped
from kvserver.commands.options import options
from kvserver.commands.terminal import Report, bar, fail, say
from kvserver.serve.store import explain
from kvserver.settings import ServerSettings
from shards.backup.archive import Archive, ArchiveError, Cut, OutOfReach, RestoreTarget, find_cut
from shards.backup.restore import NotEmpty, restore_backup, see_that_it_is_empty
from shards.maps.layout import MapError, MapFull
from shards.maps.snapshot import SnapshotError
from shards.wire.errors import BadRequest

HELP = """Make a data directory of the backup in FROM: --data-dir, which must be new or empty.

--until takes it to an earlier revision, or to an earlier time, that the backup reaches (`kvserver check FROM` tells).
Of an atomic batch all is restored or nothing. Keys whose expiry has passed meanwhile expire when the server starts.
The restored store begins a new history: whoever follows its feed starts anew.
"""


def restore(source: str, until: str | None, **given: str | None) -> None:
    """The command."""
    settings, place = settings_of(given), parse_until(until)
    end_tidily()
    try:
        with bar("restore") as report:
            archive, cut = _restore(settings, Path(source), place, report)
    except (Refused, NotEmpty, ArchiveError, SnapshotError, MapError, MapFull) as error:
        fail(error)
    except OSError as error:
        fail(f"the restore was not finished: {explain(error, settings.data_dir)}")
    if cut.within_batch:
        say(f"revision {place.revision} lies within an atomic batch, which is left out as a whole")
    whole = "" if cut.revision < archive.last_revision else ", all of the backup"
    say(f"{settings.data_dir} is at revision {cut.revision} of {rfc3339(cut.time_ms)}{whole}")
    say(f"start it with: kvserver serve --data-dir {settings.data_dir}")


def _restore(settings: ServerSettings, source: Path, until: RestoreTarget, report: Report) -> tuple[Archive, Cut]:
    if settings.in_memory:
        raise Refused("a store in memory cannot be restored: restore into a data directory")
    data_dir = settings.data_dir
    pid = serving_pid(data_dir)
    if pid is not None:
        raise Refused(f"the store in {data_dir} is served by another process (pid {pid}): name an empty directory")
    archive = Archive.load(source)
    try:
        cut = find_cut(archive, source, until)
    except OutOfReach:
        raise Refused(f"the backup in {source} does not reach that: it can be restored to {reach(archive)}") from None
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    see_that_it_is_empty(data_dir)
    with stopped(data_dir):
        see_that_it_is_empty(data_dir)
        restore_backup(archive, source, data_dir, cut, report)
    return archive, cut


def parse_until(text: str | None) -> RestoreTarget:
    """What --until says. Raises `click.BadParameter`."""
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
    callback=restore,
    params=[
        click.Argument(["source"], metavar="FROM"),
        click.Option(
            ["--until"],
            metavar="REVISION|TIME",
            help="The last revision to restore, or a time like 2026-11-22T11:40:00.123Z: the store as it was then. "
            "Default: all of the backup.",
        ),
        *options("data_dir"),
    ],
    help=HELP,
    short_help="Make a data directory of a backup.",
)
