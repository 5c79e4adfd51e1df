"""The store that a command works on: named by the settings of `kvserver serve`, running or stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

from kvserver.serve.store import WAIT_S, StoreError, take_store_lock
from kvserver.settings import ServerSettings
from shards.files import locks
from shards.files.safe_files import open_regular
from shards.files.trusted_path import is_read_only, trusted_about, trusted_uids
from shards.host.board import Board, BoardError, BoardNotBelieved, BoardOutOfReach
from shards.host.logs import print_error
from shards.host.settings import SettingError, ignored_variables, load_settings
from shards.log.manifest import Manifest
from shards.log.recovery import StillRunning, quiesce


class CommandRefused(Exception):
    """The command refuses to run; the message says why and what to do instead."""


def settings_of(given: dict[str, str | None]) -> ServerSettings:
    """Load the settings from the options `given` and the environment. Prints which variables are ignored.

    Raises `click.UsageError`.
    """
    for sentence in ignored_variables(ServerSettings):
        print_error(sentence)
    try:
        return load_settings(ServerSettings, given, os.environ)
    except SettingError as error:
        raise click.UsageError(str(error)) from None


def open_running_board(settings: ServerSettings) -> Board | None:
    """Open the board of the server that runs on the store; None if no server does.

    Says on standard error if a board is there that is not trusted. Raises `CommandRefused` if the server serves another
    store, or if this cannot be determined.
    """
    try:
        board = Board.open(settings.board_path, believed(settings))
    except SettingError as error:
        if settings.in_memory:
            raise CommandRefused(str(error)) from None
        return None
    except BoardOutOfReach as error:
        raise CommandRefused(str(error)) from None
    except BoardNotBelieved as error:
        print_error(f"there is no server in the run directory: {error}")
        return None
    except BoardError:
        return None
    if board.is_over():
        board.close()
        return None
    data_dir = Path(board.facts.data_dir)
    if not board.facts.in_memory and not (settings.data_dir.exists() and data_dir.samefile(settings.data_dir)):
        raise CommandRefused(
            f"the server in the run directory {settings.resolved_run_dir()} serves {data_dir}, not "
            f"{settings.data_dir}: name it with --data-dir"
        )
    return board


def believed(settings: ServerSettings) -> Sequence[int]:
    """The users whose word on the running server counts: this one, root, and for root the owner of the data
    directory."""
    return trusted_uids() if settings.in_memory else trusted_about(settings.data_dir)


def serving_pid(data_dir: Path) -> int | None:
    """Return the pid of the server that holds the store in `data_dir`, whatever its run directory; None if no server
    does, 0 if the lock does not name its owner.

    Raises `OSError` if this cannot be determined.
    """
    try:
        fd = open_regular(data_dir / "locks" / "store")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        pid = os.pread(fd, 32, 0).strip()
        return (int(pid) if pid.isdigit() else 0) if locks.is_held(fd) else None
    finally:
        os.close(fd)


@contextmanager
def stopped_store(data_dir: Path) -> Iterator[None]:
    """Lock the store in `data_dir` as a server does, so that no server runs and no earlier process writes to it.

    Creates the directory of locks. Raises `CommandRefused`.
    """
    if is_read_only(data_dir):
        raise CommandRefused(
            f"the file system of {data_dir} is mounted read-only, so no lock can be taken that keeps a server away: "
            "copy the data directory to where it can be written, and name the copy with --data-dir"
        )
    (data_dir / "locks").mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.callback(os.close, take_store_lock(data_dir))
            stack.enter_context(quiesce(data_dir / "locks", WAIT_S))
        except StoreError as error:
            raise CommandRefused(f"{error}; if it was started with --run-dir, pass the same here") from None
        except StillRunning as error:
            raise CommandRefused(str(error)) from None
        yield


def require_store(settings: ServerSettings) -> None:
    """Check that there is a store on disk. Raises `CommandRefused` for a store in memory, else `ManifestError`."""
    if settings.in_memory:
        raise CommandRefused("a store in memory has no files")
    Manifest.load(settings.data_dir)


def lower_priority() -> None:
    """Lower the priority of this process: a running server is more urgent."""
    with suppress(OSError):
        os.nice(10)
