"""`kvserver stop`: ask the running server to end, and wait for it; give back the memory of its maps."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from kvserver.commands.local_store import Refused, running, serving_pid, settings_of, size_text
from kvserver.commands.options import options
from kvserver.commands.terminal import fail, say
from kvserver.serve.store import explain
from kvserver.settings import ServerSettings
from shards.host.board import Board
from shards.log.manifest import Manifest, ManifestError, NoManifest
from shards.maps.directory import release_all, release_maps, usual_places
from shards.maps.directory_content import MapDirError

HELP = """Stop the running server in order, as SIGTERM does, and wait until it is gone.

Its maps stay in memory, so that the next start is instant. With --release they are removed, also those that a server
has left which does not run any more: the next start builds them again from snapshot and log. With --all, too, so are
those of this user that belong to nobody: their data directory was removed, or their store was in memory.

The status is 1 if no server runs (but with --release), or if it could not end in order.
"""

LOOK_S = 0.1


def stop(release_maps: bool, of_all: bool, **given: str | None) -> None:
    """The command."""
    settings = settings_of(given)
    if of_all and not release_maps:
        raise click.UsageError("--all says whose maps --release gives back: give both")
    try:
        board = running(settings)
        places = [Path(board.facts.map_dir)] if board else []
        if board is not None:
            try:
                _end(board, settings)
            finally:
                board.close()
        elif (pid := serving_pid(settings.data_dir)) is not None:
            raise Refused(
                f"a server (pid {pid}) runs on {settings.data_dir}, but not in the run directory "
                f"{settings.resolved_run_dir()}: name its own with --run-dir"
            )
        elif not release_maps:
            raise Refused(f"no server runs on the store in {settings.data_dir}")
        if release_maps and not settings.in_memory and (not of_all or _is_a_store(settings.data_dir)):
            say(f"{size_text(_release(settings, places))} of maps were given back")
        if of_all:
            say(f"{size_text(release_all())} of maps that belonged to nobody were given back")
    except (Refused, ManifestError, MapDirError) as error:
        fail(error)
    except OSError as error:
        fail(explain(error, settings.data_dir))


def _end(board: Board, settings: ServerSettings) -> None:
    """Send SIGTERM to the supervisor and wait for its end. Raises `Refused` if it does not end in order."""
    pid = board.facts.supervisor_pid
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not _has_open(pid, board):
            raise Refused(f"pid {pid} is not the server that runs here: it lives in another PID namespace")
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
        except PermissionError:
            raise _is_another_user_s(pid) from None
        with Console(stderr=True).status("stopping") as status:
            while not select.select([process], [], [], LOOK_S)[0]:
                status.update(f"stopping: {_stage(board)}")
    finally:
        os.close(process)
    # It takes them away last, when the log is closed.
    if (settings.resolved_run_dir() / "metrics").exists():
        raise Refused(f"the server (pid {pid}) has ended, but not in order: its messages say why; start it again")


def _has_open(pid: int, board: Board) -> bool:
    """Whether process `pid` has the board open: the number alone may mean another process."""
    ours = os.fstat(board.fd)
    return any(os.path.samestat(each, ours) for each in _open_files(pid))


def _is_another_user_s(pid: int) -> Refused:
    return Refused(f"the server (pid {pid}) belongs to another user: stop it as that user, or as root")


def _open_files(pid: int) -> Iterator[os.stat_result]:
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        raise _is_another_user_s(pid) from None
    except (FileNotFoundError, ProcessLookupError):
        return
    for entry in entries:
        with contextlib.suppress(OSError):
            yield entry.stat()


def _stage(board: Board) -> str:
    if board.workers.living_rows():
        return "requests are answered"
    if board.gateways.living_rows():
        return "feeds are told"
    return "the log is closed"


def _is_a_store(data_dir: Path) -> bool:
    """Whether there is a store. Raises `ManifestError` if that cannot be read."""
    try:
        Manifest.load(data_dir)
    except NoManifest:
        return False
    return True


def _release(settings: ServerSettings, places: list[Path]) -> int:
    """Remove the maps of the store, in `places` or wherever they should be; the bytes of them."""
    data_dir = settings.data_dir
    store = Manifest.load(data_dir).store
    if settings.map_dir is not None:
        places = [*places, settings.map_dir]
    return release_maps([*places, *usual_places(store, data_dir)], store, data_dir)


COMMAND = click.Command(
    "stop",
    callback=stop,
    params=[
        click.Option(["--release", "release_maps"], is_flag=True, help="Give back the memory that the maps take."),
        click.Option(["--all", "of_all"], is_flag=True, help="With --release: also of maps that belong to nobody."),
        *options("data_dir", "run_dir", "map_dir", "in_memory"),
    ],
    help=HELP,
    short_help="Stop the running server, and wait for it.",
)
