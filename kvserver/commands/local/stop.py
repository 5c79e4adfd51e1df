"""`kvserver stop`: stops the running server and waits for its end; frees the memory of its maps."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from kvserver.commands.local.local_store import CommandRefused, open_running_board, serving_pid, settings_of
from kvserver.commands.options import patience_option, setting_options
from kvserver.commands.parts.texts import size_text
from kvserver.commands.terminal import exit_with, print_line
from kvserver.serve.store import explain_os_error
from kvserver.settings import ServerSettings
from shards.host.board import Board
from shards.log.manifest import Manifest, ManifestError, NoManifest
from shards.maps.directory.choose import release_all, release_maps, usual_places
from shards.maps.directory.ownership import MapDirError

HELP = """Stop the running server cleanly, as SIGTERM does, and wait until it has ended.

Its maps stay in memory, so that the next start is instant. --release removes them, including maps left by a server
that no longer runs; the next start rebuilds them from snapshot and log. --all also removes this user's maps without a
store: their data directory was removed, or their store was in memory.

The status is 1 if no server runs (except with --release), if it did not end cleanly, or if it has not ended within
--patience.
"""

LOOK_S = 0.1
PATIENCE_S = 600.0
"""How long to wait for the server's end: far longer than it takes by default."""


def stop_server(release_maps: bool, of_all: bool, patience: float, **given: str | None) -> None:
    """Run the command, or exit with 1."""
    settings = settings_of(given)
    if of_all and not release_maps:
        raise click.UsageError("--all only works together with --release")
    try:
        board = open_running_board(settings)
        places = [Path(board.facts.map_dir)] if board else []
        if board is not None:
            try:
                _stop_and_wait(board, settings, patience)
            finally:
                board.close()
        elif (pid := serving_pid(settings.data_dir)) is not None:
            raise CommandRefused(
                f"a server (pid {pid}) runs on {settings.data_dir}, but not in the run directory "
                f"{settings.resolved_run_dir()}: name its own with --run-dir"
            )
        elif not release_maps:
            where = f"no server runs on the store in {settings.data_dir}"
            raise CommandRefused(f"{where}; `kvserver stores` lists those that run")
        if release_maps and not settings.in_memory and (not of_all or _is_a_store(settings.data_dir)):
            print_line(f"{size_text(_release_maps(settings, places))} of maps were freed")
        if of_all:
            print_line(f"{size_text(release_all())} of maps without a store were freed")
    except (CommandRefused, ManifestError, MapDirError) as error:
        exit_with(error)
    except OSError as error:
        exit_with(explain_os_error(error, settings.data_dir))


def _stop_and_wait(board: Board, settings: ServerSettings, patience_s: float) -> None:
    """Send SIGTERM to the supervisor and wait for its end.

    Raises `CommandRefused` if it does not end cleanly, or within `patience_s` seconds.
    """
    pid = board.facts.supervisor_pid
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not _has_open(pid, board):
            raise CommandRefused(f"pid {pid} is not the server that runs here: it lives in another PID namespace")
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
        except PermissionError:
            raise _other_user_error(pid) from None
        give_up_at = time.monotonic() + patience_s
        with Console(stderr=True).status("stopping") as status:
            while not select.select([process], [], [], LOOK_S)[0]:
                if time.monotonic() >= give_up_at:
                    raise CommandRefused(
                        f"the server (pid {pid}) was asked to stop, but has not ended within {patience_s:g} s; it is "
                        f"{_stopping_stage(board)}: wait longer with --patience, or see its messages"
                    )
                status.update(f"stopping: {_stopping_stage(board)}")
    finally:
        os.close(process)
    # The server removes this directory last, after it has closed the log.
    if (settings.resolved_run_dir() / "metrics").exists():
        raise CommandRefused(f"the server (pid {pid}) did not end cleanly: its log says why; start it again")


def _has_open(pid: int, board: Board) -> bool:
    """Return whether process `pid` has the board open: the pid alone may belong to another process by now."""
    ours = os.fstat(board.fd)
    return any(os.path.samestat(each, ours) for each in _open_files(pid))


def _other_user_error(pid: int) -> CommandRefused:
    return CommandRefused(f"the server (pid {pid}) belongs to another user: stop it as that user, or as root")


def _open_files(pid: int) -> Iterator[os.stat_result]:
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        raise _other_user_error(pid) from None
    except (FileNotFoundError, ProcessLookupError):
        return
    for entry in entries:
        with contextlib.suppress(OSError):
            yield entry.stat()


def _stopping_stage(board: Board) -> str:
    if board.workers.living_rows():
        return "finishing requests"
    if board.gateways.living_rows():
        return "closing feeds"
    return "closing the log"


def _is_a_store(data_dir: Path) -> bool:
    """Return whether there is a store. Raises `ManifestError` for an unreadable manifest."""
    try:
        Manifest.load(data_dir)
    except NoManifest:
        return False
    return True


def _release_maps(settings: ServerSettings, places: list[Path]) -> int:
    """Remove the maps of the store in `places` and in all default places. Returns their size in bytes."""
    data_dir = settings.data_dir
    store = Manifest.load(data_dir).store
    if settings.map_dir is not None:
        places = [*places, settings.map_dir]
    return release_maps([*places, *usual_places(store, data_dir)], store, data_dir)


COMMAND = click.Command(
    "stop",
    callback=stop_server,
    params=[
        click.Option(["--release", "release_maps"], is_flag=True, help="Free the memory of the maps."),
        click.Option(["--all", "of_all"], is_flag=True, help="With --release: also remove maps without a store."),
        patience_option(PATIENCE_S, "How long to wait for the server to end."),
        *setting_options("data_dir", "run_dir", "map_dir", "in_memory"),
    ],
    help=HELP,
)
