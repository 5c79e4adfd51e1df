"""A machine in memory for the log: processes that stop between any two steps, a disk behind a page cache.

Its memory is weak, if asked for: what a process stores, in words, files and names alike, stays its own for a while and
becomes visible in any order; what it loads may be as old as its last fence. A fence, and giving a lock back, make its
stores visible; a fence, and taking a lock, make its loads new. One place keeps its order: nobody sees it go back.

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
import functools
import random
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from greenlet import getcurrent, greenlet

from shards.files.disk import Disk, Lock
from shards.host.board import NONE, Board, Facts, LogWords, ShardRow
from shards.host.board_words import LOG_AT
from shards.host.fences import Fence
from shards.wire.clock import Now

PAGE = 32
MACHINE_WORDS = 64
"""Words behind the rows that models may use for what else lies in shared memory."""
_ROWS_AT, _ROW = 1024, 64


class Killed(BaseException):
    """Thrown into a process that is killed."""


class Inode:
    """A file: what the page cache shows, what the disk has, and which pages differ."""

    def __init__(self, clock: Callable[[], int] = lambda: 0) -> None:
        self.clock = clock
        self.undo: list[tuple[int, int, bytes]] = []  # when, where and what was written over
        self.cache, self.disk = bytearray(), bytearray()
        self.dirty: set[int] = set()
        self.failures, self.told = 0, True  # of writing back; whether anybody was told of the last

    def resize(self, size: int) -> None:
        for content in (self.cache, self.disk):
            content.extend(bytes(max(0, size - len(content))))

    def write(self, data: bytes, at: int) -> None:
        self.resize(at + len(data))
        self.undo.append((self.clock(), at, bytes(self.cache[at : at + len(data)])))
        self.cache[at : at + len(data)] = data
        self.dirty.update(range(at // PAGE, (at + len(data) - 1) // PAGE + 1))

    def as_of(self, time: int) -> bytes:
        """What the page cache showed at `time`."""
        content = bytearray(self.cache)
        for when, at, old in reversed(self.undo):
            if when <= time:
                break
            content[at : at + len(old)] = old
        return bytes(content)

    def fail(self, page: int) -> None:
        """Writing `page` back fails: it is clean now, and not on the disk."""
        self.dirty.discard(page)
        self.failures, self.told = self.failures + 1, False

    def write_back(self, page: int) -> None:
        begin, end = page * PAGE, (page + 1) * PAGE
        self.disk[begin:end] = self.cache[begin:end]
        self.dirty.discard(page)


class Memory:
    """What all processes share, and since when: words, files, names.

    Attributes:
        clock: counts what became visible.
    """

    def __init__(self) -> None:
        self.clock = 0
        self.history: dict[Any, list[tuple[int, Any]]] = {}  # of a place: its values, and when each became visible

    def now(self) -> int:
        return self.clock

    def show(self, place: Any, before: Any, value: Any) -> None:
        """`place`, which held `before`, holds `value` from now on."""
        self.clock += 1
        self.history.setdefault(place, [(0, before)]).append((self.clock, value))

    def since(self, place: Any, time: int) -> list[tuple[int, Any]]:
        """What `place` held at `time`, and after."""
        values = self.history.get(place, [])
        first = max((i for i, (when, _) in enumerate(values) if when <= time), default=0)
        return values[first:]


class View:
    """The order in which one process's accesses are seen, and sees those of others."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._memory = machine, machine.memory
        self.is_weak = machine.is_weak
        self._pending: list[tuple[Any, Any, Callable[[], None]]] = []  # place, value, what makes it visible
        self._new_since = machine.memory.clock
        self._seen: dict[Any, int] = {}

    def store(self, place: Any, value: Any, show: Callable[[], None]) -> None:
        """Let `show` make `value` visible in `place`, soon."""
        if not self.is_weak:
            show()
            return
        self._pending.append((place, value, show))
        while self._pending and self._machine.chance(0.4):
            self._show(self._machine.random.randrange(len(self._pending)))

    def load(self, place: Any, current: Any) -> Any:
        """What this process sees in `place`, which holds `current`."""
        if not self.is_weak:
            return current
        for pending, value, _ in reversed(self._pending):
            if pending == place:
                return value
        return self._pick(place, current)

    def _pick(self, place: Any, current: Any) -> Any:
        values = self._memory.since(place, max(self._new_since, self._seen.get(place, 0)))
        if len(values) < 2 or self._machine.chance(0.5):
            self._seen[place] = self._memory.clock
            return current
        self._seen[place], value = self._machine.random.choice(values)
        return value

    def time_of(self, place: Any) -> int:
        """A time from which this process may see `place`, of which it has itself nothing pending."""
        self.settle(place)
        if not self.is_weak or self._machine.chance(0.5):
            self._seen[place] = self._memory.clock
        else:
            least = max(self._new_since, self._seen.get(place, 0))
            self._seen[place] = self._machine.random.randint(least, self._memory.clock)
        return self._seen[place]

    def settle(self, place: Any) -> None:
        """Make visible what this process has stored in `place`."""
        for at in reversed([i for i, (pending, _, _) in enumerate(self._pending) if pending == place][:1]):
            self._show(at)
            self.settle(place)

    def release(self) -> None:
        """Make all stores visible."""
        while self._pending:
            self._show(self._machine.random.randrange(len(self._pending)))

    def acquire(self) -> None:
        """Load nothing that is older than now."""
        self._new_since = self._memory.clock

    def drift(self) -> None:
        """Perhaps make a store visible: time passes."""
        if self._pending and self._machine.chance(0.2):
            self._show(self._machine.random.randrange(len(self._pending)))

    def _show(self, at: int) -> None:
        """Make the store at `at` visible, or that before it in the same place."""
        place = self._pending[at][0]
        first = next(i for i, (pending, _, _) in enumerate(self._pending) if pending == place)
        self._pending.pop(first)[2]()
        self._seen[place] = self._memory.clock


class Process:
    """A greenlet that lives until it is killed or its function ends."""

    def __init__(self, machine: Machine, name: str, run: Callable[[Process], None]) -> None:
        self.machine, self.name, self.dead, self.error = machine, name, False, cast(BaseException | None, None)
        self.view = View(machine)
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
        self.view.drift()

    def fence(self, fence: Fence) -> None:
        """Keep the order of what stands before and behind; or not, if that is what is being tried."""
        if fence is not self.machine.without:
            self.step()
            self.view.release()
            self.view.acquire()


class Words(list[int]):
    """The board's words, as one process sees them: every access is a step."""

    def __init__(self, process: Process, words: list[int]) -> None:
        self._process, self._words = process, words

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return array("Q", [self[at] for at in range(index.start, index.stop)])
        self._process.step()
        return self._process.view.load(index, self._words[index])

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            for at, one in zip(range(index.start, index.stop), value, strict=True):
                self[at] = one
            return
        self._process.step()
        self._process.view.store(index, value, lambda: self._show(index, value))

    def _show(self, index: int, value: int) -> None:
        if self._process.machine.is_weak:
            self._process.machine.memory.show(index, self._words[index], value)
        self._words[index] = value


class MachineBoard(Board):
    """The board's own code over a machine's words."""

    def __init__(self, words: list[int], facts: Facts, process: Process | None = None) -> None:
        self.words = cast("memoryview[int]", words)
        self.facts = facts
        fence = process.fence if process is not None and process.machine.is_weak else None
        self.log = LogWords(self.words, LOG_AT, fence)
        self.shards = [  # type: ignore[assignment]
            ShardRow(self.words, _ROWS_AT + _ROW * i, fence) for i in range(facts.shards)
        ]

    def is_over(self) -> bool:
        return False

    def now_ms(self) -> int:
        return 1

    def now(self) -> Now:
        return Now(1, 1)


def new_words(facts: Facts) -> list[int]:
    """The words of a new board."""
    words = [0] * (_ROWS_AT + _ROW * facts.shards + MACHINE_WORDS)
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
        self._process.view.acquire()

    def __exit__(self, *_: object) -> None:
        if not self._process.dead:
            self._process.step()
            self._process.view.release()
            del self._process.machine.holders[self._path]

    def close(self) -> None:
        """Nothing is held."""


class MachineDisk(Disk):
    """The disk as one process uses it."""

    def __init__(self, process: Process) -> None:
        self._process, self._machine = process, process.machine

    def open(self, path: Path) -> int:
        self._process.step()
        inode = self._process.view.load(path.name, self._machine.seen_names.get(path.name))
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return self._machine.opened(inode)

    def create(self, path: Path) -> int:
        self._process.step()
        inode = Inode(self._machine.memory.now)
        self._machine.change_names(self._process, {path.name: inode})
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
        inode = self._machine.fds[fd]
        return inode.as_of(self._process.view.time_of(inode))[at : at + size]

    def pwritev(self, fd: int, parts: list[bytes], at: int) -> int:  # type: ignore[override]
        self._process.step()
        data = b"".join(parts)
        if self._machine.chance(self._machine.short_writes):
            data = data[: self._machine.random.randrange(len(data))]
        # A kill in the middle of a write leaves a part of it.
        half = self._machine.random.randrange(len(data) + 1)
        inode = self._machine.fds[fd]
        if half:
            self._write(inode, data[:half], at)
        self._process.step()
        if data[half:]:
            self._write(inode, data[half:], at + half)
        return len(data)

    def _write(self, inode: Inode, data: bytes, at: int) -> None:
        def show() -> None:
            self._machine.memory.clock += 1
            inode.write(data, at)

        self._process.view.store(inode, None, show)

    def fdatasync(self, fd: int) -> None:  # type: ignore[override]
        self._process.step()
        inode, chance = self._machine.fds[fd], self._machine.chance
        self._process.view.settle(inode)
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
        inode = self._machine.names[old.name]
        self._machine.change_names(self._process, {old.name: None, new.name: inode})

    def unlink(self, path: Path) -> None:
        self._process.step()
        self._machine.change_names(self._process, {path.name: None})

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


def _change(names: dict[str, Inode], changes: dict[str, Inode | None]) -> None:
    for name, inode in changes.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


class Machine:
    """Processes, page cache, disk. All chance comes from `random`.

    Attributes:
        is_weak: whether its memory keeps no order but by fences and locks.
        without: a fence that does nothing.
    """

    def __init__(self, random_: random.Random, *, is_weak: bool = False, without: Fence | None = None) -> None:
        self.random, self.is_weak, self.without = random_, is_weak, without
        self.memory = Memory()
        self.scheduler = getcurrent()
        self.processes: list[Process] = []
        self.holders: dict[Path, Process] = {}
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.seen_names: dict[str, Inode] = {}  # as whoever looks now finds them
        self.renamings: list[dict[str, Inode | None]] = []
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

    def change_names(self, process: Process, changes: dict[str, Inode | None]) -> None:
        """Change the directory, whose own order is the kernel's; `open` of others sees it when its memory does."""
        self.renamings.append(changes)
        _change(self.names, changes)
        for name, inode in changes.items():
            process.view.store(name, inode, functools.partial(self._show_name, name, inode))

    def _show_name(self, name: str, inode: Inode | None) -> None:
        self.memory.show(name, self.seen_names.get(name), inode)
        _change(self.seen_names, {name: inode})

    def spawn(self, name: str, run: Callable[[Process], None]) -> Process:
        """A process, which takes its first step when it is chosen."""
        process = Process(self, name, run)
        self.processes.append(process)
        return process

    def observer(self) -> Process:
        """A process that nothing comes between, and that sees everything at once."""
        process = Process(self, "observer", lambda process: None)
        process.step = lambda: None  # type: ignore[method-assign]
        process.view.is_weak = False
        return process

    def kill(self, process: Process) -> None:
        """SIGKILL: its locks are free, what it stored becomes visible, and it does nothing more."""
        process.dead = True
        process.view.release()
        for path in [path for path, holder in self.holders.items() if holder is process]:
            del self.holders[path]
        if process.greenlet:
            process.greenlet.throw(Killed)
        self.forget(process)

    def forget(self, process: Process) -> None:
        process.view.release()
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
        for changes in self.renamings[: self.random.randint(0, len(self.renamings))]:
            _change(self.durable_names, changes)
        self.renamings.clear()
        self.names, self.seen_names = dict(self.durable_names), dict(self.durable_names)
        self.memory.history.clear()
        for inode in {id(inode): inode for inode in self.names.values()}.values():
            for page in sorted(inode.dirty):
                if self.chance(0.5):
                    inode.write_back(page)
            inode.dirty.clear()
            inode.cache[:] = inode.disk
