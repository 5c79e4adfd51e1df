"""What tests of the board share: the facts of a store, and a process that runs code on its board."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.host.board import Board, Facts

FACTS = Facts(
    version="1",
    store="s",
    epoch="e",
    boot_id="b",
    secret=7,
    shards=3,
    sync="always",
    in_memory=False,
    data_dir="/d",
    lock_dir="/d/locks",
    log_dir="/d/log",
    map_dir="/m",
    max_value=10,
    clock_offset_ms=5,
    supervisor_pid=1,
    started_ms=2,
)


PROGRAM = """
import sys
from pathlib import Path
from shards.host.board import *
board = Board.open(Path(sys.argv[1]))
{code}
print("done", flush=True)
sys.stdin.read()
"""


@contextmanager
def in_another_process(board: Board, code: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs `code` on the board and then waits; killed at the end, after it was done."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(code=code), str(board.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[4],
    )
    try:
        yield process
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
