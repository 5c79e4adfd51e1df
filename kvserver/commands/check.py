"""`kvserver check`: is the store what it should be? And, knowingly, the cut of a damaged log."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from kvserver.commands.backup import reach
from kvserver.commands.local_store import Refused, end_tidily, let_others_first, running, settings_of, stopped
from kvserver.commands.options import options
from kvserver.commands.terminal import fail, say
from kvserver.serve.store import explain
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
from shards.maps.directory import usual_places
from shards.maps.layout import MapError, map_generations, map_path

HELP = """Verify the store of --data-dir, also while a server runs on it; or the backup in the directory BACKUP.

Reads everything: manifest, snapshot, each record of the log, and each map against what snapshot and log make of it.
Prints what it saw, a line each. The status is 0 if all is well, else 1.

--repair cuts the log of a stopped store where it is damaged. It says what is lost, and asks before it does. Whoever
follows the feed starts anew afterwards. A backup, if there is one, is the better way.
"""


def check(backup: str | None, cut: bool, yes: bool, **given: str | None) -> None:
    """The command."""
    settings = settings_of(given)
    end_tidily()
    let_others_first()
    try:
        if cut:
            _repair(settings, yes)
        elif not _show(_check_backup(Path(backup)) if backup is not None else _check_store(settings)):
            fail(f"{backup or settings.data_dir} is not as it should be")
    except (Refused, ManifestError, ArchiveError, NoPlace, BoardError) as error:
        fail(error)
    except OSError as error:
        fail(explain(error, settings.data_dir))


def _show(findings: Iterator[Finding]) -> bool:
    """Print what is found; whether all of it is good."""
    good = True
    with Console(stderr=True).status("checking"):
        for finding in findings:
            good = good and finding.good
            say(f"{finding.subject:<10}{'' if finding.good else 'WRONG: '}{finding.text}")
    return good


def _check_backup(directory: Path) -> Iterator[Finding]:
    archive = Archive.load(directory)
    yield Finding("backup", True, f"of store {archive.manifest.store}: {reach(archive)}")
    with Sandbox() as apart:
        yield apart.check_snapshot(directory, archive.manifest)
    yield check_archived_log(directory, archive)


def _check_store(settings: ServerSettings) -> Iterator[Finding]:
    board = running(settings)
    if board is not None:
        with contextlib.closing(board):
            if board.facts.in_memory:
                raise Refused("this server keeps its store in memory: there are no files to check")
            yield from _check_running(board)
    else:
        if settings.in_memory:
            raise Refused("a store in memory has no files to check")
        Manifest.load(settings.data_dir)
        with stopped(settings.data_dir), Sandbox() as apart:
            yield from _check_stopped(settings, apart)


def _check_running(board: Board) -> Iterator[Finding]:
    facts = board.facts
    data_dir = Path(facts.data_dir)
    with pin_log(Path(facts.lock_dir)), Sandbox() as apart:
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
        yield _about(manifest)
        yield found[0]
        yield check_log(Path(facts.log_dir), manifest, tail).finding
        yield check_counters(manifest, board, tail, following)
        yield from found[1:]


def _check_stopped(settings: ServerSettings, apart: Sandbox) -> Iterator[Finding]:
    data_dir = settings.data_dir
    manifest = Manifest.load(data_dir)
    yield _about(manifest)
    snapshot = apart.check_snapshot(data_dir, manifest)
    yield snapshot
    found, log = _examine(settings, manifest, apart)
    yield log.finding
    if snapshot.good and log.damaged_at is None:
        end = found.fold.next_revision - 1
        if manifest.end_revision > end and not manifest.new_history:
            yield Finding(
                "counters", False, f"the manifest knows of revision {manifest.end_revision}, the log of {end}"
            )
        for path, shard, shards in _kept_maps(settings, manifest, apart):
            yield apart.check_map(path, shard, shards, data_dir, manifest, served=False)


def _about(manifest: Manifest) -> Finding:
    return Finding("manifest", True, f"store {manifest.store}, epoch {manifest.epoch or 'to begin'}")


def _map_dirs(settings: ServerSettings, manifest: Manifest) -> list[Path]:
    return [settings.map_dir] if settings.map_dir else usual_places(manifest.store, settings.data_dir)


def _examine(settings: ServerSettings, manifest: Manifest, apart: Sandbox) -> tuple[Examined, LogCheck]:
    """What the next start would find."""
    boot, log_dir = boot_id(), settings.data_dir / "log"
    applied = [
        lsn
        for place in _map_dirs(settings, manifest)
        for lsn in kept_applied(place, manifest.store, boot, manifest.epoch, apart.read_meta)
    ]
    board = last_board(settings.board_path, manifest, boot)
    try:
        found = examine_log(log_dir, manifest, old_board=board, applied=applied)
    finally:
        if board is not None:
            board.close()
    return found, check_log(log_dir, manifest, found.fold.lsn, found)


def _kept_maps(settings: ServerSettings, manifest: Manifest, apart: Sandbox) -> Iterator[tuple[Path, int, int]]:
    """The maps that the next start may keep: path, shard, number of shards."""
    history = (manifest.store, manifest.epoch, boot_id())
    for place in _map_dirs(settings, manifest):
        for shard, generation in map_generations(place):
            path = map_path(place, shard, generation)
            with contextlib.suppress(MapError):
                identity, (lsn, _) = apart.read_meta(path)
                whose = identity and (identity.store, identity.epoch, identity.boot_id)
                if identity and whose == history and lsn >= manifest.replay_lsn:
                    yield path, shard, identity.shards


def _repair(settings: ServerSettings, yes: bool) -> None:
    board = running(settings)
    if board is not None:
        board.close()
        raise Refused(f"a server runs on {settings.data_dir}: stop it first")
    if settings.in_memory:
        raise Refused("a store in memory has nothing to repair")
    Manifest.load(settings.data_dir)
    _see_that_it_is_ours(settings.data_dir)
    with stopped(settings.data_dir), Sandbox() as apart:
        manifest = Manifest.load(settings.data_dir)
        found, log = _examine(settings, manifest, apart)
        if log.damaged_at is None:
            say("the log is whole, nothing is to be repaired")
            return
        say(log.finding.text)
        if found.damage is None:
            _agree("Readers of the feed that are behind it must start anew, nothing else is lost.", yes)
            if not give_up_below(settings.data_dir, manifest, log.damaged_at):
                raise Refused("that segment is needed by a restart: the damage goes with the next snapshots")
        else:
            _agree(_say(loss_of(found, manifest), isinstance(found.damage, OlderCopy)), yes)
            cut_at_damage(settings.data_dir, manifest, found)
        say("done: start the server")


def _see_that_it_is_ours(data_dir: Path) -> None:
    """Raises `Refused` if the store is another user's, who could not read the manifest that root would write."""
    owner = (data_dir / NAME).stat().st_uid
    if owner != os.geteuid():
        raise Refused(f"the store in {data_dir} belongs to the user with id {owner}: repair it as that user")


def _say(loss: Loss, is_older_copy: bool) -> str:
    if is_older_copy:
        return (
            f"Everything that was acknowledged after revision {loss.first - 1} is given up: this copy never held it, "
            "so how many changes that is cannot be told. Readers of the feed must start anew."
        )
    if loss.last < loss.first:
        return "No change is lost as far as is known, but readers of the feed must start anew."
    return f"Of the changes {loss.first} to {loss.last}, and any after, only those remain that the snapshot has."


def _agree(what: str, yes: bool) -> None:
    """Say what is lost, and go on only if that is wanted."""
    say(what)
    if not yes and not sys.stdin.isatty():
        raise Refused("nothing was done: --yes is needed where nobody can be asked")
    if not yes and not click.confirm("Cut the log there?"):
        raise Refused("nothing was done")


COMMAND = click.Command(
    "check",
    callback=check,
    params=[
        click.Argument(["backup"], required=False, metavar="[BACKUP]"),
        click.Option(["--repair", "cut"], is_flag=True, help="Cut the log of a stopped store where it is damaged."),
        click.Option(["--yes"], is_flag=True, help="Do not ask before it is cut."),
        *options("data_dir", "run_dir", "map_dir"),
    ],
    help=HELP,
    short_help="Verify a store or a backup; repair a log.",
)
