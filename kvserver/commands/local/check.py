"""`kvserver check`: verifies a store or a backup, and repairs a damaged log by cutting it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from kvserver.commands.interrupts import interruptible
from kvserver.commands.local.backup import restorable_range
from kvserver.commands.local.local_store import (
    CommandRefused,
    believed,
    lower_priority,
    open_running_board,
    settings_of,
    stopped_store,
)
from kvserver.commands.options import setting_options
from kvserver.commands.terminal import exit_with, print_line
from kvserver.serve.store import explain_os_error
from kvserver.settings import ServerSettings
from shards.backup.archive import Archive, ArchiveError
from shards.backup.check import Finding, LogCheck, check_archived_log, check_counters, check_log
from shards.backup.sandbox import Sandbox
from shards.host.board import Board, BoardError
from shards.log.epoch import boot_id
from shards.log.manifest import NAME, Manifest, ManifestError
from shards.log.pins import NoPlace, pin_log
from shards.log.recovery import Examined, OlderCopy, examine_log, last_board
from shards.log.repair import Loss, cut_at_damage, give_up_below, loss_of
from shards.maps.build import kept_applied
from shards.maps.directory.choose import usual_places
from shards.maps.layout import MapError, map_generations, map_path

HELP = """Verify the store of --data-dir, also while a server runs on it; or the backup in the directory BACKUP.

Reads everything: manifest, snapshot, each record of the log, and each map, which it compares with snapshot and log.
Prints a line for each part. The status is 0 if all is well, else 1.

--repair cuts the log of a stopped store where it is damaged. It prints what is lost, and asks first. Feed readers must
start over afterwards. Prefer a backup, if there is one.
"""


def check_command(backup: str | None, cut: bool, yes: bool, **given: str | None) -> None:
    """Run the command; exit with 1 if anything is wrong."""
    settings = settings_of(given)
    interruptible()
    lower_priority()
    try:
        if cut:
            _repair_log(settings, yes)
        elif not _print_findings(_check_backup(Path(backup)) if backup is not None else _check_store(settings)):
            exit_with(f"{backup or settings.data_dir} is not as it should be")
    except (CommandRefused, ManifestError, ArchiveError, NoPlace, BoardError) as error:
        exit_with(error)
    except OSError as error:
        exit_with(explain_os_error(error, settings.data_dir))


def _print_findings(findings: Iterator[Finding]) -> bool:
    """Print each finding; return whether all are good."""
    good = True
    with Console(stderr=True).status("checking"):
        for finding in findings:
            good = good and finding.good
            print_line(f"{finding.subject:<10}{'' if finding.good else 'WRONG: '}{finding.text}")
    return good


def _check_backup(directory: Path) -> Iterator[Finding]:
    if (directory / NAME).exists():
        raise CommandRefused(f"{directory} is the data directory of a store: kvserver check --data-dir {directory}")
    archive = Archive.load(directory)
    yield Finding("backup", True, f"of store {archive.manifest.store}: {restorable_range(archive)}")
    with Sandbox() as apart:
        yield apart.check_snapshot(directory, archive.manifest)
    yield check_archived_log(directory, archive)


def _check_store(settings: ServerSettings) -> Iterator[Finding]:
    board = open_running_board(settings)
    if board is not None:
        with contextlib.closing(board):
            if board.facts.in_memory:
                raise CommandRefused("this server keeps its store in memory: there are no files to check")
            yield from _check_running(board, settings.data_dir)
    else:
        if settings.in_memory:
            raise CommandRefused("a store in memory has no files to check")
        Manifest.load(settings.data_dir)
        with stopped_store(settings.data_dir), Sandbox() as apart:
            yield from _check_stopped(settings, apart)


def _check_running(board: Board, data_dir: Path) -> Iterator[Finding]:
    facts = board.facts
    with pin_log(data_dir / "locks"), Sandbox() as apart:
        while True:
            manifest = Manifest.load(data_dir)
            tail, following = board.history()
            found = [apart.check_snapshot(data_dir, manifest)]
            for shard, row in enumerate(board.shards):
                if found[0].good and row.map_generation:
                    path = map_path(Path(facts.map_dir), shard, row.map_generation)
                    found.append(apart.check_map(path, shard, facts.shards, data_dir, manifest, served=True))
            if Manifest.load(data_dir) == manifest:  # else a new snapshot took the place of the one that was read
                break
        yield _describe_manifest(manifest)
        yield found[0]
        yield check_log(data_dir / "log", manifest, tail).finding
        yield check_counters(manifest, board, tail, following)
        yield from found[1:]


def _check_stopped(settings: ServerSettings, apart: Sandbox) -> Iterator[Finding]:
    data_dir = settings.data_dir
    manifest = Manifest.load(data_dir)
    yield _describe_manifest(manifest)
    snapshot = apart.check_snapshot(data_dir, manifest)
    yield snapshot
    found, log = _examine_log(settings, manifest, apart)
    yield log.finding
    if snapshot.good and log.damaged_at is None:
        end = found.fold.next_revision - 1
        if manifest.end_revision > end and not manifest.new_history:
            yield Finding(
                "counters", False, f"the manifest knows of revision {manifest.end_revision}, the log of {end}"
            )
        for path, shard, shards in _kept_maps(settings, manifest, apart):
            yield apart.check_map(path, shard, shards, data_dir, manifest, served=False)


def _describe_manifest(manifest: Manifest) -> Finding:
    return Finding("manifest", True, f"store {manifest.store}, epoch {manifest.epoch or 'to begin'}")


def _map_dirs(settings: ServerSettings, manifest: Manifest) -> list[Path]:
    return [settings.map_dir] if settings.map_dir else usual_places(manifest.store, settings.data_dir)


def _examine_log(settings: ServerSettings, manifest: Manifest, apart: Sandbox) -> tuple[Examined, LogCheck]:
    """Examine the log as the next start would. Changes nothing."""
    boot, log_dir = boot_id(), settings.data_dir / "log"
    applied = [
        lsn
        for place in _map_dirs(settings, manifest)
        for lsn in kept_applied(place, manifest.store, boot, manifest.epoch, apart.read_meta)
    ]
    board = last_board(settings.board_path, manifest, boot, believed(settings))
    try:
        found = examine_log(log_dir, manifest, old_board=board, applied=applied)
    finally:
        if board is not None:
            board.close()
    return found, check_log(log_dir, manifest, found.fold.lsn, found)


def _kept_maps(settings: ServerSettings, manifest: Manifest, apart: Sandbox) -> Iterator[tuple[Path, int, int]]:
    """Yield path, shard and number of shards of each map that the next start may keep."""
    history = (manifest.store, manifest.epoch, boot_id())
    for place in _map_dirs(settings, manifest):
        for shard, generation in map_generations(place):
            path = map_path(place, shard, generation)
            with contextlib.suppress(MapError):
                identity, (lsn, _) = apart.read_meta(path)
                whose = identity and (identity.store, identity.epoch, identity.boot_id)
                if identity and whose == history and lsn >= manifest.replay_lsn:
                    yield path, shard, identity.shards


def _repair_log(settings: ServerSettings, yes: bool) -> None:
    board = open_running_board(settings)
    if board is not None:
        board.close()
        raise CommandRefused(f"a server runs on {settings.data_dir}: stop it first")
    if settings.in_memory:
        raise CommandRefused("a store in memory has nothing to repair")
    Manifest.load(settings.data_dir)
    _require_own_store(settings.data_dir)
    with stopped_store(settings.data_dir), Sandbox() as apart:
        manifest = Manifest.load(settings.data_dir)
        found, log = _examine_log(settings, manifest, apart)
        if log.damaged_at is None:
            print_line("the log is whole, nothing to repair")
            return
        print_line(log.finding.text)
        if found.damage is None:
            _confirm_cut("Feed readers after it must start over; nothing else is lost.", yes)
            if not give_up_below(settings.data_dir, manifest, log.damaged_at):
                raise CommandRefused("a restart needs that segment: the next snapshots will remove the damage")
        else:
            _confirm_cut(_describe_loss(loss_of(found, manifest), isinstance(found.damage, OlderCopy)), yes)
            cut_at_damage(settings.data_dir, manifest, found)
        print_line("done: start the server")


def _require_own_store(data_dir: Path) -> None:
    """Raise `CommandRefused` if another user owns the store: the owner could not read a manifest written by root."""
    owner = (data_dir / NAME).stat().st_uid
    if owner != os.geteuid():
        raise CommandRefused(f"the store in {data_dir} belongs to the user with id {owner}: repair it as that user")


def _describe_loss(loss: Loss, is_older_copy: bool) -> str:
    if is_older_copy:
        return (
            f"All changes acknowledged after revision {loss.first - 1} are given up: this copy never held them, so "
            "their number is unknown. Feed readers must start over."
        )
    if loss.last < loss.first:
        return "No change is known to be lost, but feed readers must start over."
    return f"Of the changes {loss.first} to {loss.last} and any later ones, only those in the snapshot remain."


def _confirm_cut(what: str, yes: bool) -> None:
    """Print what is lost and ask for confirmation. Raises `CommandRefused` without it."""
    print_line(what)
    if not yes and not sys.stdin.isatty():
        raise CommandRefused("nothing was done: --yes is needed without a terminal")
    if not yes and not click.confirm("Cut the log there?"):
        raise CommandRefused("nothing was done")


COMMAND = click.Command(
    "check",
    callback=check_command,
    params=[
        click.Argument(["backup"], required=False, metavar="[BACKUP]"),
        click.Option(["--repair", "cut"], is_flag=True, help="Cut the log of a stopped store where it is damaged."),
        click.Option(["--yes"], is_flag=True, help="Do not ask for confirmation."),
        *setting_options("data_dir", "run_dir", "map_dir"),
    ],
    help=HELP,
)
