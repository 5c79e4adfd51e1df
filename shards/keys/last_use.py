"""The last-use table that `eviction` reads, as a file of the run directory that all processes of a store map."""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from shards.files import safe_files
from shards.host.board import Board, BoardError
from shards.keys.eviction import STAMPS, record_use, stamp_at

NAME: Final = "stamps"
"""The name of the file."""


def create_last_use_table(run_dir: Path, now_ms: int) -> None:
    """Create the table in `run_dir`, with `now_ms`, steady time, as the last use of all keys.

    Replaces an older table. Processes that have mapped it keep the old one. Raises `OSError`.
    """
    temporary = run_dir / f"{NAME}.new"
    temporary.unlink(missing_ok=True)
    temporary.touch(0o600, exist_ok=False)
    temporary.write_bytes(array("I", [stamp_at(now_ms)]) * STAMPS)
    temporary.rename(run_dir / NAME)


def open_last_use_table(board: Board) -> memoryview[int] | None:
    """Map the table of the run that `board` belongs to; return its words, or None if the store evicts nothing.

    Changes are seen by all processes at once. Raises `BoardError` if something else is in its place.
    """
    if board.facts.on_full != "evict":
        return None
    path = board.path.parent / NAME
    try:
        fd = safe_files.open_regular(path, os.O_RDWR)
        try:
            return memoryview(mmap.mmap(fd, 4 * STAMPS)).cast("I")
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        raise BoardError(f"the table of last uses, {path}, cannot be used: {error}") from None


def open_use_recorder(board: Board) -> Callable[[bytes, int], None] | None:
    """Return what records a use: a function of the key and of the steady time in milliseconds, for readers of the maps.

    None if the store evicts nothing. Raises `BoardError`.
    """
    words = open_last_use_table(board)
    return None if words is None else partial(record_use, words)
