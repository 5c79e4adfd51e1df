"""The store a command is about: named by the settings that `kvserver serve` has, served by somebody or not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import click

from kvserver.serve.store import WAIT_S, StoreError, take_store_lock
from kvserver.settings import ServerSettings
from shards.files import locks
from shards.host.board import Board, BoardError, BoardOutOfReach
from shards.host.logs import print_error
from shards.host.settings import SettingError, ignored_variables, load_settings
from shards.log.manifest import Manifest
from shards.log.recovery import StillRunning, quiesce


class Refused(Exception):
    """The command cannot do it; the message says why and what would be right."""


def settings_of(given: dict[str, str | None]) -> ServerSettings:
    """The settings that the options `given` and the environment make. Says which variables are ignored. Raises
    `click.UsageError`."""
    for sentence in ignored_variables(ServerSettings):
        print_error(sentence)
    try:
        return load_settings(ServerSettings, given, os.environ)
    except SettingError as error:
        raise click.UsageError(str(error)) from None


def running(settings: ServerSettings) -> Board | None:
    """The board of the server that runs on the store; None if none does. Raises `Refused` if it serves another one, or
    if that cannot be seen."""
    try:
        board = Board.open(settings.board_path)
    except SettingError as error:
        if settings.in_memory:
            raise Refused(str(error)) from None
        return None
    except BoardOutOfReach as error:
        raise Refused(str(error)) from None
    except BoardError:
        return None
    if board.is_over():
        board.close()
        return None
    data_dir = Path(board.facts.data_dir)
    if not board.facts.in_memory and not (settings.data_dir.exists() and data_dir.samefile(settings.data_dir)):
        raise Refused(
            f"the server in the run directory {settings.resolved_run_dir()} serves {data_dir}, not "
            f"{settings.data_dir}: name it with --data-dir"
        )
    return board


def serving_pid(data_dir: Path) -> int | None:
    """The pid of the server that holds the store in `data_dir`, whatever its run directory; None if nobody does.

    Raises `OSError` if that cannot be seen.
    """
    try:
        fd = os.open(data_dir / "locks" / "store", os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return int(os.pread(fd, 32, 0) or b"0") if locks.is_held(fd) else None
    finally:
        os.close(fd)


@contextmanager
def stopped(data_dir: Path) -> Iterator[None]:
    """Hold the store in `data_dir` as a server would: nobody serves it, nothing of an earlier run writes to it.

    Raises `Refused`.
    """
    (data_dir / "locks").mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.callback(os.close, take_store_lock(data_dir))
            stack.enter_context(quiesce(data_dir / "locks", WAIT_S))
        except StoreError as error:
            raise Refused(f"{error}; if it has a --run-dir, it is needed here, too") from None
        except StillRunning as error:
            raise Refused(str(error)) from None
        yield


def see_that_it_is_a_store(settings: ServerSettings) -> None:
    """Raises `Refused` for a store in memory, `ManifestError` where there is no store."""
    if settings.in_memory:
        raise Refused("a store in memory has nothing on a disk")
    Manifest.load(settings.data_dir)


def end_tidily() -> None:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does, so that it can take away what it has begun."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def let_others_first() -> None:
    """Give processor time up to whoever wants it: a server that answers is more urgent."""
    with suppress(OSError):
        os.nice(10)


def size_text(size: float) -> str:
    """`12.3 MiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1 << 10:
            return f"{size:.4g} {unit}"
        size /= 1 << 10
    return f"{size:.1f} GiB"
