"""The run directory: sockets, board and metrics of one running server, locked for the server's life.

Each start empties it, so it must belong to the server: a mark in its `lock` says so. A directory that holds any other
file is refused and left unchanged, even if the file has one of our names.
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
from kvserver.serve.cluster.files import USER_FILE
from shards.files import locks
from shards.files.kept_file import inode_of
from shards.files.safe_files import read_regular
from shards.host.board import STOP_NOTE, Board, BoardError
from shards.host.settings import default_run_dir
from shards.keys import last_use
from shards.wire.errors import what_helps

LONGEST_NAME = "shard-255-ffffffffffffffff.req"
LONGEST_SOCKET_PATH = 107  # unix(7), sun_path

_LOCK, _BOARD, _METRICS = "lock", "board", "metrics"
_MARK = b"the run directory of a kvserver\n"
_SOCKETS = (
    *("shard-*.req", "shard-*.pub", "gateway-*.handover", "gateway-*.activity"),
    *("gateway.sock", "gateway.reload", "order.sock"),
)
_FILES = (tokens.FILE, cuts.FILE, last_use.NAME, USER_FILE, STOP_NOTE, _BOARD)  # each may also exist as `.new`
_OURS = re.compile(
    r"shard-[0-9]+-[0-9a-f]+\.req|shard-[0-9]+\.pub|gateway-[0-9]+\.(?:handover|activity)|gateway\.(?:sock|reload)|"
    rf"order\.sock|(?:{'|'.join(_FILES)})(?:\.new)?|{_LOCK}|\.{_LOCK}\..*|{_METRICS}|{tickets.DIRECTORY}"
)
"""Names that a server uses in its run directory."""
_OURS_WITHIN = {_METRICS: re.compile(r"[a-z_]+_[0-9a-z]+\.db.*"), tickets.DIRECTORY: re.compile(r"[0-9a-f]{64}.*")}
"""Names of files in its subdirectories."""


class RunDirError(Exception):
    """The run directory cannot be used; the message says why and what to do."""


class RunDir:
    """A run directory that this process has created or taken over; only the board of a predecessor is kept."""

    def __init__(self, path: Path, wait_s: float = 5.0, transient: bool = False) -> None:
        """Create `path` if it is missing and lock it, waiting up to `wait_s` seconds for a dying predecessor.

        `transient`: the directory belongs to this run only and is removed at its end. Raises `RunDirError`.
        """
        self.path, self._transient = path, transient
        if len(os.fsencode(path / LONGEST_NAME)) > LONGEST_SOCKET_PATH:
            raise RunDirError(
                f"the path of the run directory {path} is too long: socket paths are limited to {LONGEST_SOCKET_PATH} "
                "bytes; choose a shorter one with --run-dir"
            )
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_directory(path)
            self._lock = locks.open_lock(path / _LOCK)
        except OSError as error:
            raise _unusable_error(path, error) from None
        if not locks.acquire_for_life(self._lock, timeout_s=wait_s):
            os.close(self._lock)
            raise RunDirError(
                f"the run directory {path} is in use by another server: stop it, or choose another with --run-dir"
            )
        self.metrics, self._has_cuts = path / _METRICS, False
        try:
            os.pwrite(self._lock, _MARK, 0)
            self._remove_all_but_board()
            self.metrics.mkdir(mode=0o700)
            (path / tickets.DIRECTORY).mkdir(mode=0o700)
        except OSError as error:
            os.close(self._lock)
            raise _unusable_error(path, error) from None

    @classmethod
    def for_memory_store(cls) -> RunDir:
        """Create one for this run only. Removes those left by dead servers."""
        pattern = default_run_dir("memory-*")
        for old in pattern.parent.glob(pattern.name):
            with contextlib.suppress(OSError, RunDirError):
                _remove_if_free(old)
        return cls(default_run_dir(f"memory-{secrets.token_hex(4)}"), transient=True)

    def remove_contents(self) -> None:
        """Remove all its files at the end of the run. Raises `OSError`."""
        if self._transient:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        self._remove_all_but_board()
        (self.path / _BOARD).unlink(missing_ok=True)

    def restore_missing(self, board: Board) -> set[str]:
        """Restore files that processes may still need and that were removed, or replaced. Return their names.

        The next worker that starts creates the table of cuts. Sockets are restored by the processes that bound them,
        tokens by the token watch. Raises `RunDirError` if another server has taken the directory, `OSError`.
        """
        lost = set()
        for directory in (self.metrics, self.path / tickets.DIRECTORY):
            if _clear(directory, stat.S_IFDIR) or (directory == self.metrics and not directory.exists()):
                directory.mkdir(mode=0o700)
                lost.add(directory.name)
        _clear(self.path / last_use.NAME, stat.S_IFREG)
        if board.facts.on_full == "evict" and not (self.path / last_use.NAME).exists():
            last_use.create_last_use_table(self.path, board.steady_ms())
            lost.add(last_use.NAME)
        _clear(self.path / cuts.FILE, stat.S_IFREG)
        has_cuts = (self.path / cuts.FILE).exists()
        if self._has_cuts and not has_cuts:
            lost.add(cuts.FILE)
        self._has_cuts = has_cuts
        if inode_of(self.path / _LOCK) != os.fstat(self._lock).st_ino:
            self._retake_lock()
            lost.add(_LOCK)
        return lost

    def _retake_lock(self) -> None:
        _clear(self.path / _LOCK, stat.S_IFREG)
        new = locks.open_lock(self.path / _LOCK)
        if not locks.try_acquire_for_life(new):
            os.close(new)
            raise RunDirError(f"the lock of the run directory {self.path} was removed, and another server has taken it")
        os.pwrite(new, _MARK, 0)
        os.close(self._lock)
        self._lock = new

    def close(self) -> None:
        """Release the directory."""
        os.close(self._lock)

    def _remove_all_but_board(self) -> None:
        for pattern in (
            *_SOCKETS,
            tokens.FILE,
            cuts.FILE,
            last_use.NAME,
            USER_FILE,
            STOP_NOTE,
            *(f"{name}.new" for name in _FILES),
        ):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)
        for directory in (self.metrics, self.path / tickets.DIRECTORY):
            _clear(directory, stat.S_IFDIR)
            shutil.rmtree(directory, ignore_errors=True)


def _clear(path: Path, kind: int) -> bool:
    """Remove what is at `path` if it is of another kind than processes need there; they might wait for it.

    `kind` is as of `stat.S_IFMT`. Returns whether anything was removed. Raises `OSError`.
    """
    with contextlib.suppress(FileNotFoundError):
        found = stat.S_IFMT(path.lstat().st_mode)
        if found != kind:
            path.rmdir() if found == stat.S_IFDIR else path.unlink()
            return True
    return False


def _unusable_error(path: Path, error: OSError) -> RunDirError:
    about = f" ({error.filename})" if error.filename not in (None, str(path)) else ""
    return RunDirError(
        f"the run directory {path} cannot be used: {error.strerror}{about}: {what_helps(error)}, or choose another "
        "with --run-dir"
    )


def _check_directory(path: Path) -> None:
    """Check that `path` is ours: its default is below /tmp, where another user may have prepared it.

    Sets its permissions. Raises `RunDirError`, `OSError`.
    """
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise RunDirError(f"the run directory {path} must be a directory of this user: choose another with --run-dir")
    names = {entry.name for entry in path.iterdir()}
    strangers = {name for name in names if not _OURS.fullmatch(name)}
    for directory, ours in _OURS_WITHIN.items():
        strangers |= {str(found) for found in _files_below(path, directory) if not ours.fullmatch(found.name)}
    if not strangers and not _was_used_by_server(path):
        strangers = names if _read_mark(path) else names - {_LOCK}
    if strangers:
        raise RunDirError(
            f"the run directory {path} holds other files ({min(strangers)}): choose a new or an empty directory "
            "with --run-dir"
        )
    path.chmod(0o700)  # every process that reaches its sockets can write to the store


def _files_below(path: Path, directory: str) -> Iterator[Path]:
    """Return the files below `directory` in `path`, relative to `path`. Follows no links."""
    for where, directories, files in os.walk(path / directory):
        links = [name for name in directories if (Path(where) / name).is_symlink()]
        yield from ((Path(where) / name).relative_to(path) for name in files + links)


def _was_used_by_server(path: Path) -> bool:
    """Return whether a server has used the run directory `path`: it marked the lock, or left a board."""
    if _read_mark(path) == _MARK:
        return True
    with contextlib.suppress(BoardError):
        Board.open(path / _BOARD).close()
        return True
    return False


def _read_mark(path: Path) -> bytes:
    """Return the content of the lock of the run directory `path`; empty if it has no lock. Raises `OSError`."""
    with contextlib.suppress(FileNotFoundError):
        return read_regular(path / _LOCK, len(_MARK))
    return b""


def _remove_if_free(path: Path) -> None:
    if not stat.S_ISDIR(path.lstat().st_mode) or path.lstat().st_uid != os.getuid():
        return
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if locks.try_acquire_for_life(lock):
            _check_directory(path)
            shutil.rmtree(path)
    finally:
        os.close(lock)
