"""Room for the maps: how much is left, what is reserved before it is needed, and readers that make a map grow."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Self

from shards.wire.errors import NO_SPACE

BALLAST_BYTES = 32 << 20
PIN_SECONDS = 2.0
GROWTH_BYTES = 1 << 20
"""A map's file grows by at least so much, or by an eighth of what it has, while there is room."""

_CGROUPS = Path("/sys/fs/cgroup")


def free_bytes(path: Path) -> int:
    """Bytes that files at `path` may still take: what the file system has free and, where it lives in memory, no more
    than the machine and this process's control group can give."""
    status = os.statvfs(path)
    free = status.f_bavail * status.f_frsize
    return min(free, available_memory()) if in_memory(path) else free


def growth_left(size: int) -> int:
    """Return the bytes by which this process may enlarge a file of `size` bytes (RLIMIT_FSIZE)."""
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return 1 << 62 if most == resource.RLIM_INFINITY else max(most - size, 0)


def in_memory(path: Path) -> bool:
    """Whether the file system at `path` keeps its files in memory."""
    device = path.stat().st_dev
    return _file_system(os.major(device), os.minor(device)) in {"tmpfs", "ramfs"}


@lru_cache
def _file_system(major: int, minor: int) -> str:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == f"{major}:{minor}":
            return source.split()[0]
    return ""


def available_memory() -> int:
    """Return the bytes of memory that can be taken before the kernel kills: of the machine, and of the control groups
    above.
    """
    return min([_parse_meminfo(Path("/proc/meminfo").read_text()), *_group_rooms()])


def _parse_meminfo(text: str) -> int:
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 1 << 62


def _group_rooms() -> list[int]:
    """Room in each control group (version 2) that holds this process and has a limit."""
    rooms = []
    with contextlib.suppress(OSError):
        name = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip().lstrip("/")
        group = _CGROUPS / name
        for directory in (group, *group.parents):
            if not directory.is_relative_to(_CGROUPS):
                break
            with contextlib.suppress(OSError, ValueError):  # the root group has no limit, and "max" is none
                limit = int((directory / "memory.max").read_text())
                current = int((directory / "memory.current").read_text())
                rooms.append(group_room(limit, current, (directory / "memory.stat").read_text()))
    return rooms


def group_room(limit: int, current: int, stat: str) -> int:
    """Room in a control group: its page cache counts as used but is given up when needed; shared memory is not."""
    figures = dict(line.split() for line in stat.splitlines())
    cache = int(figures.get("inactive_file", 0)) + int(figures.get("active_file", 0))
    return max(limit - current + cache, 0)


def _has_room_for(path: Path, size: int) -> bool:
    """Whether there is room for a file at `path` to have `size` bytes. To be asked before they are taken: taking memory
    that is not there calls the kernel's killer."""
    there = path.stat().st_blocks * 512 if path.exists() else 0
    return free_bytes(path.parent) + there >= size


class Ballast:
    """A file that only reserves room, so that a full file system has some to give back: LMDB needs new pages even to
    delete.
    """

    def __init__(self, path: Path, size: int = BALLAST_BYTES) -> None:
        """Take the room; without room, `there` is False. Raises `OSError` for anything else."""
        self.path, self._size = path, size
        self.there = False
        self.restore()

    def restore(self) -> bool:
        """Take the room again if possible; whether it is taken. Raises `OSError` as `__init__` does."""
        if not self.there and _has_room_for(self.path, self._size):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, self._size)
                self.there = True
            except OSError as error:
                os.ftruncate(fd, 0)
                if error.errno not in (*NO_SPACE, errno.EFBIG):
                    raise OSError(error.errno, error.strerror, str(self.path)) from None
            finally:
                os.close(fd)
        return self.there

    def drop(self) -> bool:
        """Give the room back; False if none was reserved."""
        had, self.there = self.there, False
        if had:
            os.truncate(self.path, 0)
        return had


class Reserve:
    """The file of a map in memory, all of whose bytes are there before the map is written by way of its mapping: where
    the file system has no room for a page, a write is an error, and touching the page a SIGBUS.

    Attributes:
        size: bytes of the file.
    """

    def __init__(self, path: Path) -> None:
        """Fill the holes of the file at `path`. Raises `OSError`, if there is no room for them ENOSPC."""
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        status = os.fstat(self._fd)
        size = max(status.st_size, GROWTH_BYTES)
        self.size = 0
        try:
            if status.st_size == size == status.st_blocks * 512:  # no holes: to look at each page of it takes long
                self.size = size
            elif not (_has_room_for(path, size) and self._allocate(size)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            os.close(self._fd)
            raise

    def grow(self, least: int = GROWTH_BYTES) -> bool:
        """Make the file larger, by `least` bytes or an eighth, or by what there still is; False if there is nothing."""
        room = min(free_bytes(self._path), growth_left(self.size)) >> 16 << 16
        return room > 0 and self._allocate(self.size + min(max(least, self.size >> 3 >> 16 << 16), room))

    def _allocate(self, size: int) -> bool:
        """Have all of `size` bytes, more than `self.size`, on the file system, which was asked for room."""
        try:
            os.posix_fallocate(self._fd, self.size, size - self.size)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            return False
        self.size = size
        return True

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ReaderSlot(NamedTuple):
    """A slot of LMDB's reader table in use."""

    pid: int
    thread: str
    txnid: int


def parse_readers(table: str) -> list[ReaderSlot]:
    """Parse the output of `Environment.readers()`: the readers that are in a transaction."""
    readers = []
    for line in table.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[0].isdigit() and fields[2].isdigit():
            readers.append(ReaderSlot(int(fields[0]), fields[1], int(fields[2])))
    return readers


class PinWatch:
    """Finds readers that hold a transaction while the map grows, among those seen by chance. Pure.

    A transaction of an id that is not the newest can only be an old one. Seen twice with the same id and a map that
    has more pages than then, it keeps the pages that the map therefore cannot use again.
    """

    def __init__(self) -> None:
        self._seen: dict[ReaderSlot, tuple[float, int]] = {}

    def observe(self, now_s: float, readers: list[ReaderSlot], pages: int) -> list[tuple[int, float]]:
        """Record the current readers; return those that pin old pages: pid, and seconds since first seen."""
        self._seen = {reader: self._seen.get(reader, (now_s, pages)) for reader in readers}
        return [
            (reader.pid, now_s - since)
            for reader, (since, pages_then) in self._seen.items()
            if now_s - since >= PIN_SECONDS and pages > pages_then
        ]
