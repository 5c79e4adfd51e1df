"""Who stands still and holds up the others: to be killed, so that a restart mends it.

A process that is stopped (SIGSTOP, a debugger, a hung disk) while it holds the append or the flush lock stops every
shard; one that stands between append and apply holds back the feed. Both are seen by words of the board that do not
change. Who waits for one of these locks is not stopped, and others are to blame for what it does not get done. A
heartbeat that stands still proves nothing by itself and is not looked at: a loop may be long busy.

Only processes that belong to this store are ever named: descendants of the supervisor, or shards registered on the
board.
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
    """A process to kill, and why."""

    pid: int
    why: str


class Unchanged:
    """For how long values have been what they are. Pure: the caller tells the time."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[object, float]] = {}

    def seconds(self, name: Hashable, value: object, now: float) -> float:
        """How long `name` has had this value, at every look; None counts as nothing to watch."""
        if value is None:
            self._seen.pop(name, None)
            return 0.0
        before = self._seen.get(name)
        if before is None or before[0] != value:
            self._seen[name] = value, now
            return 0.0
        return now - before[1]

    def forget(self, name: Hashable) -> None:
        """Begin to count `name` anew."""
        self._seen.pop(name, None)


def flocks(proc_locks: str, inode: int) -> tuple[list[int], set[int]]:
    """Pids that hold a flock on a file of this inode, and pids that wait for it, of the text of /proc/locks. Pure.

    A line: `1: FLOCK ADVISORY WRITE 4242 08:01:131 0 EOF`; of one that waits, an arrow stands after the number.
    The device is left out of account: what stat(2) says is another one on some file systems.
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
    """Whether `pid` has the file of `status` open: tells inodes of the same number on different devices apart."""
    with contextlib.suppress(OSError):  # it is gone, or not ours to look at
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                other = descriptor.stat()
                if (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino):
                    return True
    return False


class Watch:
    """Looks at the board, each fraction of a second."""

    def __init__(self, board: Board, is_ours: Callable[[int], bool], is_exempt: Callable[[int], bool]) -> None:
        """`is_ours`: whether a pid was started by this supervisor. `is_exempt`: whether it may pin maps (snapshots)."""
        self._board, self._is_ours, self._is_exempt = board, is_ours, is_exempt
        self._unchanged = Unchanged()
        lock_dir = Path(board.facts.lock_dir)
        self._locks = {"append": lock_dir / "append", "flush": lock_dir / "flush"}
        self._lives = [locks.open_lock(lock_dir / f"shard-{i}") for i in range(len(board.shards))]

    def culprits(self, now: float) -> Iterator[Culprit]:
        """Whom to kill now."""
        held, waiting = self._look_at_locks()
        yield from self._stuck_in_a_lock(now, held, waiting)
        yield from self._stuck_before_applying(now, waiting)
        yield from self._pinning(now)

    def _may_kill(self, pid: int) -> bool:
        return pid != os.getpid() and (self._is_ours(pid) or self._is_shard(pid))

    def _is_shard(self, pid: int) -> bool:
        """Whether a shard that lives (its lock for life is held) says on the board that this is its pid."""
        rows = zip(self._board.shards, self._lives, strict=True)
        return any(row.pid == pid and locks.is_held(fd) for row, fd in rows)

    def _look_at_locks(self) -> tuple[dict[str, tuple[int, os.stat_result]], set[int]]:
        """Holder and file of each of the log's locks that is held, and all who wait for one of them."""
        held, waiting = {}, set()
        text = Path("/proc/locks").read_text()
        for name, path in self._locks.items():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                holders, waiters = flocks(text, status.st_ino)
                if holders:
                    held[name] = holders[0], status
                waiting |= waiters
        return held, waiting

    def _stuck_in_a_lock(
        self, now: float, held: dict[str, tuple[int, os.stat_result]], waiting: set[int]
    ) -> Iterator[Culprit]:
        # A busy shard may hold the lock at every look, so the word that the lock guards must stand still as well.
        progress = {"append": self._board.log.turn, "flush": self._board.log.synced}
        for name in self._locks:
            holder, status = held.get(name, (0, None))
            state = (holder, progress[name]) if status and holder not in waiting else None
            stalled = self._unchanged.seconds(name, state, now) >= STALLED_S
            if stalled and status and self._may_kill(holder) and has_open(holder, status):
                self._unchanged.forget(name)  # not named again at every look while the kernel ends it
                yield Culprit(holder, f"it has held the log's {name} lock for {STALLED_S:.0f} s")

    def _stuck_before_applying(self, now: float, waiting: set[int]) -> Iterator[Culprit]:
        for i, row in enumerate(self._board.shards):
            # A shard that starts may take long to replay what its predecessor left open.
            serving = row.state == ProcessRow.UP and row.open != NONE and row.pid not in waiting
            state = (row.pid, row.incarnation, row.open) if serving else None
            if self._unchanged.seconds(("open", i), state, now) >= STALLED_S and self._may_kill(row.pid):
                self._unchanged.forget(("open", i))
                yield Culprit(row.pid, f"as shard {i} it has not applied what it appended {STALLED_S:.0f} s ago")

    def _pinning(self, now: float) -> Iterator[Culprit]:
        for i, row in enumerate(self._board.shards):
            pid = row.read_figures()["pinned_pid"]
            # What a shard reported before it died, or stood still, may be over.
            fresh = row.state == ProcessRow.UP and now - row.heartbeat_ns * 1e-9 < 2.0
            if pid and fresh and pid != os.getpid() and self._is_ours(pid) and not self._is_exempt(pid):
                yield Culprit(pid, f"it has kept a reader open on the map of shard {i}, which therefore grows")
