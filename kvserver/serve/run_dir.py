"""The run directory: sockets, the board and metrics of one running server. Locked for as long as it lives.

It is emptied at each start, so it has to be the server's own: its `lock` says so. A directory that holds anything else
is refused as it is, also if that has the names of ours.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from kvserver.access import cuts, tickets, tokens
from shards.files import locks
from shards.files.kept_file import inode_of
from shards.files.safe_files import read_regular
from shards.host.board import Board, BoardError
from shards.host.settings import default_run_dir
from shards.keys import last_use
from shards.wire.errors import what_helps

LONGEST_NAME = "shard-255-ffffffffffffffff.req"
LONGEST_SOCKET_PATH = 107  # unix(7), sun_path

_LOCK, _BOARD, _METRICS = "lock", "board", "metrics"
_MARK = b"the run directory of a kvserver\n"
_SOCKETS = ("shard-*.req", "shard-*.pub", "gateway-*.handover", "gateway-*.activity", "gateway.sock", "gateway.reload")
_FILES = (tokens.FILE, cuts.FILE, last_use.NAME, _BOARD)  # each may also be there as `.new`
_OURS = re.compile(
    r"shard-[0-9]+-[0-9a-f]+\.req|shard-[0-9]+\.pub|gateway-[0-9]+\.(?:handover|activity)|gateway\.(?:sock|reload)"
    rf"|(?:{'|'.join(_FILES)})(?:\.new)?|{_LOCK}|\.{_LOCK}\..*|{_METRICS}|{tickets.DIRECTORY}"
)
"""The names that a server gives to what is in its run directory."""
_OURS_WITHIN = {_METRICS: re.compile(r"[a-z_]+_[0-9a-z]+\.db.*"), tickets.DIRECTORY: re.compile(r"[0-9a-f]{64}.*")}
"""The names of files below its directories."""


class RunDirError(Exception):
    """The run directory cannot be used; the message says why and what to do."""


class RunDir:
    """A run directory that this process has made or taken, empty of what a predecessor left but its board."""

    def __init__(self, path: Path, wait_s: float = 5.0, transient: bool = False) -> None:
        """Make `path` if it is missing and lock it, waiting `wait_s` seconds for a predecessor that is dying.

        `transient`: the directory is this run's alone and removed at the end. Raises `RunDirError`.
        """
        self.path, self._transient = path, transient
        if len(os.fsencode(path / LONGEST_NAME)) > LONGEST_SOCKET_PATH:
            raise RunDirError(
                f"the run directory {path} has too long a path: socket paths are limited to {LONGEST_SOCKET_PATH} "
                "bytes; name a shorter one with --run-dir"
            )
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check(path)
            self._lock = locks.open_lock(path / _LOCK)
        except OSError as error:
            raise _unusable(path, error) from None
        if not locks.acquire_for_life(self._lock, timeout_s=wait_s):
            os.close(self._lock)
            raise RunDirError(
                f"the run directory {path} is in use by another server: stop it, or name another with --run-dir"
            )
        self.metrics, self._has_cuts = path / _METRICS, False
        try:
            os.pwrite(self._lock, _MARK, 0)
            self._remove_all_but_board()
            self.metrics.mkdir(mode=0o700)
            (path / tickets.DIRECTORY).mkdir(mode=0o700)
        except OSError as error:
            os.close(self._lock)
            raise _unusable(path, error) from None

    @classmethod
    def of_a_store_in_memory(cls) -> RunDir:
        """A new one for this run alone. Removes those that dead servers left."""
        pattern = default_run_dir("memory-*")
        for old in pattern.parent.glob(pattern.name):
            with contextlib.suppress(OSError, RunDirError):
                _remove_if_free(old)
        return cls(default_run_dir(f"memory-{secrets.token_hex(4)}"), transient=True)

    def clean(self) -> None:
        """Remove what is in it: the run is over."""
        if self._transient:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        self._remove_all_but_board()
        (self.path / _BOARD).unlink(missing_ok=True)

    def look_after(self, board: Board) -> set[str]:
        """Make again what somebody has removed and processes may still want; the names of what was removed.

        The table of cuts is made by the next worker that starts. Sockets are looked after by who has bound them, the
        tokens by their watch. Raises `RunDirError` if another server has taken the directory meanwhile, `OSError`.
        """
        lost = set()
        if not self.metrics.is_dir():
            self.metrics.mkdir(mode=0o700)
            lost.add(_METRICS)
        if board.facts.on_full == "evict" and not (self.path / last_use.NAME).exists():
            last_use.make_stamps(self.path, board.steady_ms())
            lost.add(last_use.NAME)
        has_cuts = (self.path / cuts.FILE).exists()
        if self._has_cuts and not has_cuts:
            lost.add(cuts.FILE)
        self._has_cuts = has_cuts
        if inode_of(self.path / _LOCK) != os.fstat(self._lock).st_ino:
            self._lock_again()
            lost.add(_LOCK)
        return lost

    def _lock_again(self) -> None:
        new = locks.open_lock(self.path / _LOCK)
        if not locks.try_acquire_for_life(new):
            os.close(new)
            raise RunDirError(f"the lock of the run directory {self.path} was removed, and another server has taken it")
        os.pwrite(new, _MARK, 0)
        os.close(self._lock)
        self._lock = new

    def close(self) -> None:
        """Give the directory up."""
        os.close(self._lock)

    def _remove_all_but_board(self) -> None:
        for pattern in (*_SOCKETS, tokens.FILE, cuts.FILE, last_use.NAME, *(f"{name}.new" for name in _FILES)):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)
        for directory in (self.metrics, self.path / tickets.DIRECTORY):
            shutil.rmtree(directory, ignore_errors=True)


def _unusable(path: Path, error: OSError) -> RunDirError:
    about = f" ({error.filename})" if error.filename not in (None, str(path)) else ""
    return RunDirError(
        f"the run directory {path} cannot be used: {error.strerror}{about}: {what_helps(error)}, or name another with "
        "--run-dir"
    )


def _check(path: Path) -> None:
    """The default is below /tmp, where another user may have put something in wait. Raises `RunDirError`."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise RunDirError(f"the run directory {path} must be a directory of this user: choose another with --run-dir")
    names = {entry.name for entry in path.iterdir()}
    strangers = {name for name in names if not _OURS.fullmatch(name)}
    for directory, ours in _OURS_WITHIN.items():
        strangers |= {str(found) for found in _files_below(path, directory) if not ours.fullmatch(found.name)}
    if not strangers and not _is_a_server_s(path):
        strangers = names if _mark(path) else names - {_LOCK}
    if strangers:
        raise RunDirError(
            f"the run directory {path} holds other files ({min(strangers)}): name a new or an empty directory with "
            "--run-dir"
        )
    path.chmod(0o700)  # its sockets let whoever reaches them write


def _files_below(path: Path, directory: str) -> Iterator[Path]:
    """The files below `directory` in `path`, relative to `path`. No link is followed."""
    for where, directories, files in os.walk(path / directory):
        links = [name for name in directories if (Path(where) / name).is_symlink()]
        yield from ((Path(where) / name).relative_to(path) for name in files + links)


def _is_a_server_s(path: Path) -> bool:
    """Whether a server has had the run directory `path`: it has marked the lock, or left a board there."""
    if _mark(path) == _MARK:
        return True
    with contextlib.suppress(BoardError):
        Board.open(path / _BOARD).close()
        return True
    return False


def _mark(path: Path) -> bytes:
    """What stands in the lock of the run directory `path`; nothing if it has none. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        return read_regular(path / _LOCK, len(_MARK))
    return b""


def _remove_if_free(path: Path) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode) or path.lstat().st_uid != os.getuid():
        return
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if locks.try_acquire_for_life(lock):
            _check(path)
            shutil.rmtree(path)
    finally:
        os.close(lock)
