"""What is in a map directory, by its descriptor: what was looked at is what is changed, wherever its path leads then.

Nothing is removed but what a server has put there: names of maps, and those of a log only where the store was in
memory, in directories that belong to a user who may decide over them. No link is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType

from shards.files import locks, safe_files
from shards.files.trusted_path import Planted, user_name

LOCK, OWNER = "lock", "owner"
OWNER_NEW = OWNER + ".new"

_MAPS = r"lock|\.lock\..*|owner(?:\.new)?|shard-[0-9]{1,3}\.(?:[0-9a-f]{1,16}(?:\.old)?|new|ballast)"
_OURS = {False: re.compile(_MAPS), True: re.compile(rf"{_MAPS}|locks|log")}
"""The names that a server gives to what is in a map directory, by whether the store is in memory."""
_OURS_WITHIN = (
    (re.compile(r"shard-.*"), re.compile(r"(?:data|lock)\.mdb")),
    (re.compile("locks"), re.compile(r"append|flush|snapshot|store|backup|shard-[0-9]{1,3}|\..*")),
    (re.compile("log"), re.compile(r"[0-9]{12}\.log(?:\.new|\.spare)*")),
)
"""The same of what is in a directory of its own there: files, all of it."""
_NOTHING = re.compile(r"(?!)")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Contents:
    """An open map directory. A context manager, which closes it.

    Attributes:
        path: where it was when it was opened.
        fd: its descriptor.
    """

    def __init__(self, path: Path, believed: Collection[int]) -> None:
        """Open the directory `path`, which is no link. Raises `Planted` if it belongs to none of the users
        `believed`, `OSError`."""
        self.path, self._believed = path, believed
        self.fd = os.open(path, _DIRECTORY)
        owner = os.fstat(self.fd).st_uid
        if owner not in believed:
            os.close(self.fd)
            raise Planted(path, f"the directory {path} belongs to {user_name(owner)}")

    def __enter__(self) -> Contents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        os.close(self.fd)

    def names(self) -> set[str]:
        """The names of all that is in it."""
        return _names(self.fd)

    def strangers(self, in_memory: bool) -> set[str]:
        """The names of what no server has put there; `in_memory`: the store has its log there, too."""
        names, found = self.names(), set()
        for name in names:
            mode = self._mode(name)
            if not _OURS[in_memory].fullmatch(name) or stat.S_ISLNK(mode):
                found.add(name)
            elif stat.S_ISDIR(mode):
                with self._within(name) as directory:
                    ours = _names_within(name)
                    found |= {
                        f"{name}/{each}"
                        for each in _names(directory)
                        if not ours.fullmatch(each) or not stat.S_ISREG(_mode(each, directory))
                    }
        return found

    def taken(self) -> int:
        """The bytes that maps, and what is kept free for them, take."""
        size = 0
        for name in self.names():
            if not name.startswith("shard-"):
                continue
            status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                with contextlib.suppress(FileNotFoundError), self._within(name) as directory:
                    size += os.stat("data.mdb", dir_fd=directory, follow_symlinks=False).st_blocks * 512
            elif name.endswith(".ballast"):
                size += status.st_blocks * 512
        return size

    def lock(self, timeout_s: float) -> int | None:
        """Take its lock for life; the descriptor, or None if another has it. Raises `OSError`, `FileNotFoundError` if
        the lock was removed in the meantime: by a process that took the directory for stale."""
        with self._naming():
            lock = locks.open_lock(Path(f"/proc/self/fd/{self.fd}") / LOCK)  # in this directory, whatever its path
        if not locks.acquire_for_life(lock, timeout_s=timeout_s):
            os.close(lock)
            return None
        if not self.holds(lock):
            os.close(lock)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path / LOCK))
        return lock

    def holds(self, lock: int) -> bool:
        """Whether the open file `lock` is the lock in it."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(lock), os.stat(LOCK, dir_fd=self.fd, follow_symlinks=False))
        return False

    def empty(self, in_memory: bool) -> None:
        """Remove what is ours but the lock, the owner last: a directory is known by it for as long as there is anything
        else. What is not ours stays, and the directory that it is in. Raises `OSError`."""
        with self._naming():
            for name in self.names() - {LOCK, OWNER}:
                if not _OURS[in_memory].fullmatch(name):
                    continue
                if stat.S_ISDIR(self._mode(name)):
                    self._remove_directory(name)
                else:
                    os.unlink(name, dir_fd=self.fd)
            self.remove_file(OWNER)

    def read(self, name: str, most: int) -> bytes:
        """All of the file `name`. Raises `OSError`, also if it has more than `most` bytes."""
        with self._naming():
            return safe_files.read_regular(Path(name), most, self.fd)

    def write_owner(self, content: bytes) -> None:
        """Say whose it is, in place of what is there. Raises `OSError`."""
        with self._naming():
            self.remove_file(OWNER_NEW)  # it may be a link
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(OWNER_NEW, flags, 0o600, dir_fd=self.fd)
            try:
                if os.write(fd, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), OWNER_NEW)
            finally:
                os.close(fd)
            os.rename(OWNER_NEW, OWNER, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def remove_file(self, name: str) -> None:
        """Remove the file `name` if it is there. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def remove(self, in_memory: bool) -> None:
        """Remove all that is ours and the directory itself. Raises `OSError`: it is not empty then, for instance."""
        self.empty(in_memory)
        self.remove_file(LOCK)
        if self.is_at_its_path():
            self.path.rmdir()

    def is_at_its_path(self) -> bool:
        """Whether the path still leads to it."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self.fd), self.path.lstat())
        return False

    def _remove_directory(self, name: str) -> None:
        ours = _names_within(name)
        with self._within(name) as directory:
            if os.fstat(directory).st_uid not in self._believed:
                return
            for each in _names(directory):
                if ours.fullmatch(each) and not stat.S_ISDIR(_mode(each, directory)):
                    os.unlink(each, dir_fd=directory)
        try:
            os.rmdir(name, dir_fd=self.fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    @contextlib.contextmanager
    def _within(self, name: str) -> Iterator[int]:
        """A descriptor of the directory `name` in it."""
        fd = os.open(name, _DIRECTORY, dir_fd=self.fd)
        try:
            yield fd
        finally:
            os.close(fd)

    def _mode(self, name: str) -> int:
        return _mode(name, self.fd)

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Have errors name the directory: what is opened by a descriptor has no path."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path / Path(error.filename or "").name)) from None


def _names(directory: int) -> set[str]:
    with os.scandir(directory) as entries:
        return {entry.name for entry in entries}


def _mode(name: str, directory: int) -> int:
    return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode


def _names_within(directory: str) -> re.Pattern[str]:
    """The names of what a server puts into the directory of that name in a map directory."""
    return next((names for pattern, names in _OURS_WITHIN if pattern.fullmatch(directory)), _NOTHING)
