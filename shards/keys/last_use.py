"""The table of stamps that `eviction` reads, as a file in the run directory that all processes of a store map."""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from shards.host.board import Board
from shards.keys.eviction import STAMPS, note_use, stamp

NAME: Final = "stamps"


def make_stamps(run_dir: Path, now_ms: int) -> None:
    """Make the table in `run_dir` anew: all keys were used at `now_ms`. Who has an older one mapped keeps that.

    Raises `OSError`.
    """
    temporary = run_dir / f"{NAME}.new"
    temporary.unlink(missing_ok=True)
    temporary.touch(0o600, exist_ok=False)
    temporary.write_bytes(array("I", [stamp(now_ms)]) * STAMPS)
    temporary.rename(run_dir / NAME)


def open_stamps(board: Board) -> memoryview[int] | None:
    """The words of the table; None if the store evicts nothing. Raises `OSError`."""
    if board.facts.on_full != "evict":
        return None
    fd = os.open(board.path.parent / NAME, os.O_RDWR | os.O_CLOEXEC)
    try:
        return memoryview(mmap.mmap(fd, 4 * STAMPS)).cast("I")
    finally:
        os.close(fd)


def open_use_recorder(board: Board) -> Callable[[bytes, int], None] | None:
    """Return what records a use: a function of the key and of the steady time in milliseconds, for readers of the maps.

    None if the store evicts nothing. Raises `OSError`.
    """
    stamps = open_stamps(board)
    return None if stamps is None else partial(note_use, stamps)
