"""Processes that append to a store's log and are killed, for `test_log_faults`.

`python -m tests.system.appenders BOARD SEGMENT DIR DEATHS SEED` keeps one appender per shard alive until DEATHS of
them were killed with SIGKILL: half by this process, at random moments, half by themselves, before a line of the log's
own code that was chosen beforehand. Each writes what it may acknowledge to `DIR/<shard>`: number, LSN and revision of
a record.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from shards.host.board import NONE, Board
from shards.log.appender import LogAppender
from shards.log.reader import LogReader

TRACED = (
    "shards/log/appender.py",
    "shards/log/files.py",
    "shards/host/board.py",
    "shards/host/board_words.py",
    "shards/files/locks.py",
)


def payload_of(shard: int, number: int) -> bytes:
    """What an appender's record number `number` says; of various lengths."""
    return b"%d %d " % (shard, number) + b"x" * (number * 37 % 900)


def append_for_ever(board_path: Path, segment: int, acknowledged: Path, shard: int, rng: random.Random) -> None:
    """An appender's life: what its predecessor left open, then record after record."""
    board = Board.open(board_path)
    log, row = LogAppender(board, shard, segment=segment), board.shards[shard]
    fd = os.open(acknowledged, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    number = int.from_bytes(os.urandom(6), "big")  # a predecessor's numbers do not return
    if row.open != NONE:
        tail, _ = board.history()
        log.flush(tail)
        reader, lsn = LogReader(Path(board.facts.log_dir), board.facts.secret, segment=segment), row.open
        while lsn < tail:
            _, lsn = reader.read(lsn, tail)
    row.clear_open()
    while True:
        number += 1
        record = log.append(payload_of(shard, number), rng.randint(1, 5), board.now())
        log.flush(record.end)
        row.clear_open()
        os.write(fd, b"%d %d %d\n" % (number, record.lsn, record.revision))


def die_before_line(count: int) -> None:
    """Kill this process before the `count`-th line from now that it executes in the log's code."""
    left = count

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(TRACED):
            return None
        left -= event == "line"
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def main() -> None:
    board_path, segment, directory = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    deaths, rng = int(sys.argv[4]), random.Random(int(sys.argv[5]))
    shards = len(Board.open(board_path).shards)
    children: dict[int, int] = {}
    while deaths > 0:
        for shard in set(range(shards)) - set(children.values()):
            count, seed = rng.randint(1, 400) if rng.random() < 0.5 else 0, rng.random()
            pid = os.fork()  # a child by command line would live for less time than it takes to start
            if pid == 0:
                if count:
                    die_before_line(count)
                append_for_ever(board_path, segment, directory / str(shard), shard, random.Random(seed))
            children[pid] = shard
        time.sleep(rng.random() * 0.01)
        if rng.random() < 0.5:
            os.kill(rng.choice(list(children)), signal.SIGKILL)
        while (found := os.waitpid(-1, os.WNOHANG if children else 0))[0]:
            pid, status = found
            del children[pid]
            assert os.WIFSIGNALED(status), f"an appender ended by itself: {status}"
            deaths -= 1
            if not children:
                break
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
