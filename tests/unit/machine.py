"""A machine in memory for the log: processes that stop between any two steps, a disk behind a page cache.

Processes are greenlets that run the product's own code. They reach disk, locks and board only through objects made
here, and each such access is a step: before it, the scheduler may let another process go on, kill this one, or have
the kernel write a page back. A killed process takes no further step, not even to clean up.

The disk keeps whole pages. What was written is in the page cache; `fdatasync` brings a file's dirty pages to the
disk, or fails and forgets them; of a failure each open file is told once, as by Linux. Power loss keeps any subset of
the dirty pages, each as it was at any moment since it became dirty, and any beginning of the changes of names that the
directory was not synced after.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from greenlet import getcurrent, greenlet

from shards.board import NONE, Board, Facts, LogWords, ShardRow
from shards.disk import Disk, Lock

PAGE = 32
_ROWS_AT, _ROW = 1024, 64


class Killed(BaseException):
    """Thrown into a process that is killed."""


class Inode:
    """A file: what the page cache shows, what the disk has, and which pages differ."""

    def __init__(self) -> None:
        self.cache, self.disk = bytearray(), bytearray()
        self.dirty: set[int] = set()
        self.failures, self.told = 0, True  # of writing back; whether anybody was told of the last

    def resize(self, size: int) -> None:
        for content in (self.cache, self.disk):
            content.extend(bytes(max(0, size - len(content))))

    def write(self, data: bytes, at: int) -> None:
        self.resize(at + len(data))
        self.cache[at : at + len(data)] = data
        self.dirty.update(range(at // PAGE, (at + len(data) - 1) // PAGE + 1))

    def fail(self, page: int) -> None:
        """Writing `page` back fails: it is clean now, and not on the disk."""
        self.dirty.discard(page)
        self.failures, self.told = self.failures + 1, False

    def write_back(self, page: int) -> None:
        begin, end = page * PAGE, (page + 1) * PAGE
        self.disk[begin:end] = self.cache[begin:end]
        self.dirty.discard(page)


class Process:
    """A greenlet that lives until it is killed or its function ends."""

    def __init__(self, machine: Machine, name: str, run: Callable[[Process], None]) -> None:
        self.machine, self.name, self.dead, self.error = machine, name, False, cast(BaseException | None, None)
        self.greenlet = greenlet(lambda: self._run(run), machine.scheduler)

    def _run(self, run: Callable[[Process], None]) -> None:
        try:
            run(self)
        except Killed:
            pass
        except BaseException as error:  # an assertion: the scheduler raises it
            self.error = error
        self.machine.forget(self)

    def step(self) -> None:
        """Between two steps: others may go on, or it is over."""
        if not self.dead and self.machine.chance(0.7):
            self.machine.scheduler.switch()
        if self.dead:
            raise Killed


class Words(list[int]):
    """The board's words, as one process sees them: every access is a step."""

    def __init__(self, process: Process, words: list[int]) -> None:
        self._process, self._words = process, words

    def __getitem__(self, index: Any) -> Any:
        self._process.step()
        return self._words[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._process.step()
        self._words[index] = value


class MachineBoard(Board):
    """The board's own code over a machine's words."""

    def __init__(self, words: list[int], facts: Facts) -> None:
        self.words = cast("memoryview[int]", words)
        self.facts = facts
        self.log = LogWords(self.words, self._LOG_AT)
        self.shards = [ShardRow(self.words, _ROWS_AT + _ROW * i) for i in range(facts.shards)]  # type: ignore[assignment]

    def is_over(self) -> bool:
        return False

    def now_ms(self) -> int:
        return 1


def new_words(facts: Facts) -> list[int]:
    """The words of a new board."""
    words = [0] * (_ROWS_AT + _ROW * facts.shards)
    for row in MachineBoard(words, facts).shards:
        row.open = row.open_revision = NONE
    return words


class MachineLock:
    """A lock that dies with its holder."""

    def __init__(self, process: Process, path: Path) -> None:
        self._process, self._path = process, path

    def __enter__(self) -> None:
        holders = self._process.machine.holders
        self._process.step()
        while self._path in holders:
            self._process.step()
        holders[self._path] = self._process

    def __exit__(self, *_: object) -> None:
        if not self._process.dead:
            self._process.step()
            del self._process.machine.holders[self._path]

    def close(self) -> None:
        """Nothing is held."""


class MachineDisk(Disk):
    """The disk as one process uses it."""

    def __init__(self, process: Process) -> None:
        self._process, self._machine = process, process.machine

    def open(self, path: Path) -> int:
        self._process.step()
        if path.name not in self._machine.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return self._machine.opened(self._machine.names[path.name])

    def create(self, path: Path) -> int:
        self._process.step()
        inode = Inode()
        self._machine.change_names(lambda names: names.__setitem__(path.name, inode))
        return self._machine.opened(inode)

    def close(self, fd: int) -> None:
        if not self._process.dead:
            self._machine.fds.pop(fd)
            self._machine.heard.pop(fd)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        self._process.step()
        if self._machine.full:
            raise OSError(errno.ENOSPC, "no space")
        self._machine.fds[fd].resize(offset + length)

    def pread(self, fd: int, size: int, at: int) -> bytes:
        self._process.step()
        return bytes(self._machine.fds[fd].cache[at : at + size])

    def pwritev(self, fd: int, parts: list[bytes], at: int) -> int:  # type: ignore[override]
        self._process.step()
        data = b"".join(parts)
        if self._machine.chance(self._machine.short_writes):
            data = data[: self._machine.random.randrange(len(data))]
        # A kill in the middle of a write leaves a part of it.
        half = self._machine.random.randrange(len(data) + 1)
        inode = self._machine.fds[fd]
        if half:
            inode.write(data[:half], at)
        self._process.step()
        if data[half:]:
            inode.write(data[half:], at + half)
        return len(data)

    def fdatasync(self, fd: int) -> None:  # type: ignore[override]
        self._process.step()
        inode, chance = self._machine.fds[fd], self._machine.chance
        failing = chance(self._machine.failing_flushes)
        for page in sorted(inode.dirty):
            if failing and chance(0.5):
                inode.fail(page)
            else:
                inode.write_back(page)
            self._process.step()
        # Each open file is told once; one that was opened after somebody had been told is not.
        if self._machine.heard[fd] != inode.failures:
            self._machine.heard[fd], inode.told = inode.failures, True
            raise OSError(errno.EIO, "input/output error")

    def pause(self, seconds: float) -> None:  # type: ignore[override]
        self._process.step()

    def rename(self, old: Path, new: Path) -> None:
        self._process.step()
        self._machine.change_names(lambda names: names.__setitem__(new.name, names.pop(old.name)))

    def unlink(self, path: Path) -> None:
        self._process.step()
        self._machine.change_names(lambda names: names.pop(path.name, None))

    def names(self, directory: Path) -> list[str]:
        self._process.step()
        return list(self._machine.names)

    def sync_directory(self, directory: Path) -> None:
        for _ in range(10):  # it takes longer than others need to find the new name
            self._process.step()
        self._machine.durable_names = dict(self._machine.names)
        self._machine.renamings.clear()

    def turn(self, path: Path) -> Lock:
        return MachineLock(self._process, path)


class Machine:
    """Processes, page cache, disk. All chance comes from `random`."""

    def __init__(self, random_: random.Random) -> None:
        self.random = random_
        self.scheduler = getcurrent()
        self.processes: list[Process] = []
        self.holders: dict[Path, Process] = {}
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.renamings: list[Callable[[dict[str, Inode]], object]] = []
        self.fds: dict[int, Inode] = {}
        self.heard: dict[int, int] = {}  # by descriptor: of how many failures it was told, or need not be
        self._next_fd = 3
        self.full = False
        self.short_writes = self.failing_flushes = 0.0
        self.write_backs = 0.1

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def opened(self, inode: Inode) -> int:
        self._next_fd += 1
        self.fds[self._next_fd], self.heard[self._next_fd] = inode, inode.failures - (not inode.told)
        return self._next_fd

    def change_names(self, change: Callable[[dict[str, Inode]], object]) -> None:
        self.renamings.append(change)
        change(self.names)

    def spawn(self, name: str, run: Callable[[Process], None]) -> Process:
        """A process, which takes its first step when it is chosen."""
        process = Process(self, name, run)
        self.processes.append(process)
        return process

    def kill(self, process: Process) -> None:
        """SIGKILL: its locks are free, and it does nothing more."""
        process.dead = True
        for path in [path for path, holder in self.holders.items() if holder is process]:
            del self.holders[path]
        if process.greenlet:
            process.greenlet.throw(Killed)
        self.forget(process)

    def forget(self, process: Process) -> None:
        if process in self.processes:
            self.processes.remove(process)

    def turn(self) -> None:
        """Let one process take a step, and the kernel perhaps write a page back. Raises what a process raised."""
        process = self.random.choice(self.processes)
        process.greenlet.switch()
        if process.error is not None:
            raise process.error
        if self.chance(self.write_backs) and self.names:
            inode = self.random.choice(list(self.names.values()))
            if inode.dirty:
                inode.write_back(self.random.choice(sorted(inode.dirty)))

    def kill_all(self) -> None:
        for process in list(self.processes):
            self.kill(process)

    def lose_power(self) -> None:
        """All processes end; of what was not synced, any part is gone."""
        self.kill_all()
        for change in self.renamings[: self.random.randint(0, len(self.renamings))]:
            change(self.durable_names)
        self.renamings.clear()
        self.names = dict(self.durable_names)
        for inode in {id(inode): inode for inode in self.names.values()}.values():
            for page in sorted(inode.dirty):
                if self.chance(0.5):
                    inode.write_back(page)
            inode.dirty.clear()
            inode.cache[:] = inode.disk
