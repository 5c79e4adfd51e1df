"""Finds stalled processes that block others, so that the supervisor kills and restarts them.

A process that is stopped (SIGSTOP, a debugger, a hung disk) while it holds the append or the flush lock blocks every
shard; one that stops between append and apply holds back the feed. Words of the board that do not change show both
cases. A process that waits for one of these locks is not stalled: the holder of the lock is to blame. An old heartbeat
alone proves nothing and is ignored, because a loop may be busy for long.

Only processes of this store are ever reported: descendants of the supervisor, and shards registered on the board.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

from shards.files import locks
from shards.host.board import NONE, Board, ProcessRow

STALLED_S = 3.0


class Culprit(NamedTuple):
    """A process to kill, and the reason."""

    pid: int
    why: str


class Unchanged:
    """Measures for how long values have not changed. Pure: the caller passes the time."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[object, float]] = {}

    def unchanged_s(self, name: Hashable, value: object, now: float) -> float:
        """Return for how many seconds `name` has had `value` at each call; None means there is no value to watch."""
        if value is None:
            self._seen.pop(name, None)
            return 0.0
        before = self._seen.get(name)
        if before is None or before[0] != value:
            self._seen[name] = value, now
            return 0.0
        return now - before[1]

    def forget(self, name: Hashable) -> None:
        """Restart the measurement of `name`."""
        self._seen.pop(name, None)


def parse_flocks(proc_locks: str, inode: int) -> tuple[list[int], set[int]]:
    """Return the pids that hold a flock on a file of this inode, and those that wait for it. Pure.

    `proc_locks`: the text of /proc/locks (proc_locks(5)), with lines such as `1: FLOCK ADVISORY WRITE 4242 08:01:131 0
    EOF`; a waiting process has `->` after the number. The device is ignored: on some file systems stat(2) reports
    another one.
    """
    holders: list[int] = []
    waiters: set[int] = set()
    for line in proc_locks.splitlines():
        fields = line.split()
        waits = fields[1:2] == ["->"]
        if waits:
            del fields[1]
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            pid = int(fields[4])
            if pid > 0 and waits:
                waiters.add(pid)
            elif pid > 0:
                holders.append(pid)
    return holders, waiters


def has_open(pid: int, status: os.stat_result) -> bool:
    """Return whether `pid` has the file of `status` open. Compares devices, too: inode numbers repeat."""
    with contextlib.suppress(OSError):  # the process is gone, or belongs to another user
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed in the meantime
                other = descriptor.stat()
                if (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino):
                    return True
    return False


class StallWatch:
    """Searches board and locks for stalled processes, several times a second."""

    def __init__(self, board: Board, is_ours: Callable[[int], bool], is_exempt: Callable[[int], bool]) -> None:
        """`is_ours`: whether this supervisor started a pid. `is_exempt`: whether a pid may pin maps (snapshots)."""
        self._board, self._is_ours, self._is_exempt = board, is_ours, is_exempt
        self._unchanged = Unchanged()
        lock_dir = Path(board.facts.lock_dir)
        self._locks = {"append": lock_dir / "append", "flush": lock_dir / "flush"}
        self._lives = [locks.open_lock(lock_dir / f"shard-{i}") for i in range(len(board.shards))]

    def find_culprits(self, now: float) -> Iterator[Culprit]:
        """Yield the processes to kill now. `now`: time.monotonic(). Raises `OSError`."""
        held, waiting = self._look_at_locks()
        yield from self._stalled_in_a_lock(now, held, waiting)
        yield from self._stalled_before_applying(now, waiting)
        yield from self._pinning_a_map(now)

    def _may_kill(self, pid: int) -> bool:
        return pid != os.getpid() and (self._is_ours(pid) or self._is_shard(pid))

    def _is_shard(self, pid: int) -> bool:
        """Return whether `pid` is the pid on the board of a living shard, whose life lock is held."""
        rows = zip(self._board.shards, self._lives, strict=True)
        return any(row.pid == pid and locks.is_held(fd) for row, fd in rows)

    def _look_at_locks(self) -> tuple[dict[str, tuple[int, os.stat_result]], set[int]]:
        """Return holder and file of each log lock that is held, and the pids that wait for one."""
        held, waiting = {}, set()
        text = Path("/proc/locks").read_text()
        for name, path in self._locks.items():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                holders, waiters = parse_flocks(text, status.st_ino)
                if holders:
                    held[name] = holders[0], status
                waiting |= waiters
        return held, waiting

    def _stalled_in_a_lock(
        self, now: float, held: dict[str, tuple[int, os.stat_result]], waiting: set[int]
    ) -> Iterator[Culprit]:
        # A busy shard may hold the lock at every check, so the word that the lock guards must not change either.
        progress = {"append": self._board.log.turn, "flush": self._board.log.synced}
        for name in self._locks:
            holder, status = held.get(name, (0, None))
            state = (holder, progress[name]) if status and holder not in waiting else None
            stalled = self._unchanged.unchanged_s(name, state, now) >= STALLED_S
            if stalled and status and self._may_kill(holder) and has_open(holder, status):
                self._unchanged.forget(name)  # do not report it again while the kernel ends it
                yield Culprit(holder, f"it has held the log's {name} lock for {STALLED_S:.0f} s")

    def _stalled_before_applying(self, now: float, waiting: set[int]) -> Iterator[Culprit]:
        for i, row in enumerate(self._board.shards):
            # A starting shard may take long to replay what its predecessor left unapplied.
            serving = row.state == ProcessRow.UP and row.open != NONE and row.pid not in waiting
            state = (row.pid, row.incarnation, row.open) if serving else None
            if self._unchanged.unchanged_s(("open", i), state, now) >= STALLED_S and self._may_kill(row.pid):
                self._unchanged.forget(("open", i))
                yield Culprit(row.pid, f"as shard {i} it has not applied what it appended {STALLED_S:.0f} s ago")

    def _pinning_a_map(self, now: float) -> Iterator[Culprit]:
        for i, row in enumerate(self._board.shards):
            pid = row.read_figures()["pinned_pid"]
            # Ignore the report of a shard that died or stalled: it may be outdated.
            fresh = row.state == ProcessRow.UP and now - row.heartbeat_ns * 1e-9 < 2.0
            if pid and fresh and pid != os.getpid() and self._is_ours(pid) and not self._is_exempt(pid):
                yield Culprit(pid, f"it keeps a reader open on the map of shard {i}, which therefore grows")
