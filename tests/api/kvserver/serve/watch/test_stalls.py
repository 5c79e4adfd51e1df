"""Who is named as standing still: real locks and processes, a clock that the test moves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kvserver.serve.watch.stalls import STALLED_S, StallWatch, has_open
from shards.files import locks
from shards.host.board import NONE, Board, Facts, ProcessRow, ShardRow
from tests.system.harness import wait_for

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
if len(sys.argv) > 2:
    print(flush=True)
fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""

BOTH = """
import fcntl, sys
files = [open(name, "w") for name in sys.argv[1:]]
for file in files:
    fcntl.flock(file, fcntl.LOCK_EX)
"""


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    (tmp_path / "locks").mkdir()
    facts = Facts(
        version="1",
        store="s",
        epoch="e",
        boot_id="b",
        secret=7,
        shards=2,
        sync="always",
        in_memory=False,
        data_dir="/d",
        lock_dir=str(tmp_path / "locks"),
        log_dir="/d/log",
        map_dir="/m",
        max_value=10,
        clock_offset_ms=0,
        supervisor_pid=1,
        started_ms=0,
    )
    made = Board.create(tmp_path / "board", facts)
    made.install()
    yield made
    made.close()


@contextmanager
def holding(path: Path, *first: str) -> Iterator[int]:
    """The pid of a process that holds the flock of `path`, or, with something in `first`, is about to take it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), *first], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def watch(board: Board, *ours: int, exempt: int = 0) -> StallWatch:
    return StallWatch(board, lambda pid: pid in ours, lambda pid: pid == exempt)


def named(watcher: StallWatch, now: float) -> list[int]:
    return [culprit.pid for culprit in watcher.find_culprits(now)]


@pytest.mark.parametrize("name", ["append", "flush"])
def test_who_holds_a_lock_of_the_log_for_long(board: Board, name: str) -> None:
    with holding(Path(board.facts.lock_dir) / name) as pid:
        watcher = watch(board, pid)
        assert named(watcher, 0) == named(watcher, STALLED_S - 0.1) == []
        assert named(watcher, STALLED_S) == [pid]


def test_a_busy_holder_is_not_named(board: Board) -> None:
    with (
        holding(Path(board.facts.lock_dir) / "append") as append,
        holding(Path(board.facts.lock_dir) / "flush") as flush,
    ):
        watcher = watch(board, append, flush)
        for now in range(10):
            assert named(watcher, now) == []
            board.advance(now, now)
            board.log.synced += 1


def test_a_new_holder_starts_anew(board: Board) -> None:
    path = Path(board.facts.lock_dir) / "append"
    watcher = watch(board)
    for now in (0, 2, 4):
        with holding(path):
            assert named(watcher, now) == []


def waits(pid: int) -> bool:
    return any(line.split()[1] == "->" and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


@pytest.mark.parametrize("name", ["append", "flush"])
def test_who_waits_for_a_lock_that_another_does_not_give_back_is_innocent(board: Board, name: str) -> None:
    path = Path(board.facts.lock_dir) / name
    with holding(path) as stopped, holding(path, "soon") as waiting:
        wait_for(lambda: waits(waiting), "the wait")
        row, watcher = board.shards[0], watch(board, stopped, waiting)
        up(row, waiting)
        row.open = 100
        assert named(watcher, 0) == []
        assert named(watcher, STALLED_S) == [stopped]
        os.kill(stopped, signal.SIGKILL)
        wait_for(lambda: not waits(waiting), "its turn")
        assert named(watcher, STALLED_S + 1) == named(watcher, 2 * STALLED_S) == []  # the time is its own from now on
        board.advance(1, 1)
        board.log.synced += 1
        assert named(watcher, 2 * STALLED_S + 1) == [waiting]


def test_who_holds_one_lock_and_waits_for_the_other_is_innocent(board: Board) -> None:
    append, flush = (Path(board.facts.lock_dir) / name for name in ("append", "flush"))
    with holding(flush) as stopped:
        waiter = subprocess.Popen([sys.executable, "-c", BOTH, str(append), str(flush)])
        try:
            wait_for(lambda: waits(waiter.pid), "the wait")
            watcher = watch(board, stopped, waiter.pid)
            assert named(watcher, 0) == []
            assert named(watcher, STALLED_S) == [stopped]
        finally:
            waiter.kill()
            waiter.wait()


def test_strangers_are_left_alone(board: Board) -> None:
    with holding(Path(board.facts.lock_dir) / "append") as pid:
        watcher = watch(board)
        assert named(watcher, 0) == named(watcher, 100) == []
        board.shards[0].pid = pid  # a row says so, but its shard's lock for life is free
        assert named(watcher, 200) == []


def test_a_registered_shard_that_lives_may_be_somebody_else_s_child(board: Board) -> None:
    life = locks.open_lock(Path(board.facts.lock_dir) / "shard-1")
    assert locks.try_acquire_for_life(life)
    with holding(Path(board.facts.lock_dir) / "append") as pid:
        board.shards[1].pid = pid
        watcher = watch(board)
        assert named(watcher, 0) == []
        assert named(watcher, STALLED_S) == [pid]
    os.close(life)


def up(row: ShardRow, pid: int) -> None:
    row.pid, row.state, row.incarnation = pid, ProcessRow.UP, 1
    row.record_heartbeat()


def test_what_was_appended_and_is_not_applied(board: Board) -> None:
    row, watcher = board.shards[0], watch(board, 11)
    up(row, 11)
    row.open = 100
    assert named(watcher, 0) == []
    row.open = 200
    assert named(watcher, 2) == named(watcher, 4) == []
    assert named(watcher, 5) == [11]
    row.open = NONE
    assert named(watcher, 6) == named(watcher, 20) == []


def test_a_shard_that_starts_may_take_its_time_to_replay(board: Board) -> None:
    row, watcher = board.shards[0], watch(board, 11, 12)
    up(row, 11)
    row.open = 100
    assert named(watcher, 0) == []
    row.pid, row.state = 12, ProcessRow.STARTING
    assert named(watcher, 10) == []
    row.state, row.incarnation = ProcessRow.UP, 2
    assert named(watcher, 20) == named(watcher, 22) == []
    assert named(watcher, 23) == [12]


def test_a_stalled_heartbeat_alone_is_nothing(board: Board) -> None:
    up(board.shards[0], 11)
    board.shards[0].heartbeat_ns = 0
    watcher = watch(board, 11)
    assert named(watcher, 0) == named(watcher, 1000) == []


def pinned(board: Board, pid: int) -> float:
    """Have shard 0 report `pid`; the time of its last sign of life."""
    row = board.shards[0]
    up(row, 11)
    row.publish_figures(dict.fromkeys(ShardRow.FIGURES, 0) | {"pinned_pid": pid})
    return row.heartbeat_ns * 1e-9


def test_a_reader_that_pins_a_map(board: Board) -> None:
    now = pinned(board, 12)
    assert named(watch(board, 12), now) == [12]
    assert named(watch(board, 12, exempt=12), now) == []  # a snapshot
    assert named(watch(board), now) == []  # a stranger
    assert named(watch(board, os.getpid()), pinned(board, os.getpid())) == []


def test_what_a_dead_shard_reported_is_over(board: Board) -> None:
    now = pinned(board, 12)
    assert named(watch(board, 12), now + 60) == []
    board.shards[0].state = ProcessRow.STARTING
    assert named(watch(board, 12), now) == []


def test_who_has_a_file_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("w"):
        assert has_open(os.getpid(), path.stat())
    wait_for(lambda: not has_open(os.getpid(), path.stat()), "the end of it")
    assert not has_open(1 << 30, path.stat())
