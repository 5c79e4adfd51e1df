"""The table of stamps that `eviction` reads, as a file in the run directory that all processes of a store map."""

from __future__ import annotations

import mmap
import os
from array import array
from pathlib import Path
from typing import Final

from shards.host.board import Board
from shards.keys.eviction import STAMPS, stamp_at

NAME: Final = "stamps"


def create_last_use_table(run_dir: Path, now_ms: int) -> None:
    """Make the table in `run_dir` anew: all keys were used at `now_ms`. Who has an older one mapped keeps that.

    Raises `OSError`.
    """
    temporary = run_dir / f"{NAME}.new"
    temporary.unlink(missing_ok=True)
    temporary.touch(0o600, exist_ok=False)
    temporary.write_bytes(array("I", [stamp_at(now_ms)]) * STAMPS)
    temporary.rename(run_dir / NAME)


def open_last_use_table(board: Board) -> memoryview[int] | None:
    """The words of the table; None if the store evicts nothing. Raises `OSError`."""
    if board.facts.on_full != "evict":
        return None
    fd = os.open(board.path.parent / NAME, os.O_RDWR | os.O_CLOEXEC)
    try:
        return memoryview(mmap.mmap(fd, 4 * STAMPS)).cast("I")
    finally:
        os.close(fd)
