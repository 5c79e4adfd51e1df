"""A store to test on, without a supervisor: `new_store(tmp_path, shards=2)`.

It has a data directory with `log/` (a START record, one segment, sparse), `locks/` and `snapshots/`, a map directory, a
run directory and an installed board on which shards can append, flush and read; no manifest. Nobody makes further
segments: whoever fills 64 MiB runs a `Segments` of its own, see `Store.segments`.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shards.host.board import Board, Facts
from shards.keys.last_use import create_last_use_table
from shards.log.epoch import boot_id, new_epoch
from shards.log.files import SEGMENT, segment_name
from shards.log.reader import LogReader
from shards.log.records import Start
from shards.log.recovery import begin_history
from shards.log.segments import Segments
from shards.wire.clock import Now

MOVES_CLOCK = "from tests.stores import moved_clock; clock = moved_clock({path!r}); clock.__enter__()"
"""What a process of a test runs first so that its clock moves, too."""
SECRET = 0x5EC2E7_0123_4567


@dataclass
class Store:
    """Where things are, and the board. `close()` when done."""

    board: Board
    data_dir: Path
    run_dir: Path
    map_dir: Path
    log_dir: Path
    segments: Segments
    segment: int

    def reader(self) -> LogReader:
        """A new reader of the log."""
        return LogReader(self.log_dir, self.board.facts.secret, segment=self.segment)

    def close(self) -> None:
        """Unmap the board."""
        self.board.close()


@contextmanager
def moved_clock(path: str) -> Iterator[memoryview[int]]:
    """Within it every board of this process is ahead by the milliseconds in the word it gives, which is a file's, so
    that several processes share it."""
    with Path(path).open("r+b") as file:
        word = memoryview(mmap.mmap(file.fileno(), 8)).cast("q")
    now = Board.now
    now_ms, steady_ms = Board.now_ms, Board.steady_ms
    Board.now = lambda board: Now(*(clock_ms + word[0] for clock_ms in now(board)))  # type: ignore[method-assign]
    Board.now_ms = lambda board: now_ms(board) + word[0]  # type: ignore[method-assign]
    Board.steady_ms = lambda board: steady_ms(board) + word[0]  # type: ignore[method-assign]
    try:
        yield word
    finally:
        Board.now, Board.now_ms, Board.steady_ms = now, now_ms, steady_ms  # type: ignore[method-assign]


def new_store(
    tmp_path: Path,
    shards: int = 2,
    *,
    sync: str = "always",
    in_memory: bool = False,
    max_value: int = 5_120_000,
    max_memory: int = 0,
    on_full: str = "reject",
    segment: int = SEGMENT,
    log_dir: Path | None = None,
    next_revision: int = 1,
    node: str = "",
    reads: str = "linear",
) -> Store:
    """A new, empty store below `tmp_path`. `log_dir`: where the log shall be, if not in the data directory.

    `node`: its machine's name in a cluster.
    """
    data_dir, run_dir, map_dir = tmp_path / "data", tmp_path / "run", tmp_path / "maps"
    log_dir = log_dir or (map_dir if in_memory else data_dir) / "log"
    lock_dir = (map_dir if in_memory else data_dir) / "locks"
    for directory in (data_dir, run_dir, map_dir, log_dir, lock_dir, data_dir / "snapshots"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (log_dir / segment_name(0)).open("wb") as file:
        file.truncate(segment)  # sparse: as good as filled, but for its speed
    now_ms = time.time_ns() // 1_000_000
    start = Start(store="test", epoch=new_epoch(), boot_id=boot_id(), sync=sync, version="test")
    tail, following = begin_history(log_dir, SECRET, start, 0, next_revision, Now(now_ms, now_ms), segment=segment)
    facts = Facts(
        version="test",
        store="test",
        epoch=start.epoch,
        boot_id=start.boot_id,
        secret=SECRET,
        shards=shards,
        sync=sync,
        in_memory=in_memory,
        data_dir=str(data_dir),
        lock_dir=str(lock_dir),
        log_dir=str(log_dir),
        map_dir=str(map_dir),
        max_value=max_value,
        max_memory=max_memory,
        on_full=on_full,
        supervisor_pid=os.getpid(),
        started_ms=now_ms,
        started_steady_ms=now_ms,
        first_revision=next_revision,
        clock_offset_ms=now_ms - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
        node=node,
        reads=reads,
    )
    if on_full == "evict":
        create_last_use_table(run_dir, now_ms)
    board = Board.create(run_dir / "board", facts)
    segments = Segments(board, segment=segment)
    segments.adopt_history(tail, following)
    board.install()
    return Store(board, data_dir, run_dir, map_dir, log_dir, segments, segment)
