"""What each shard of a store is doing, as any process can see it: its row of the board, and the lock of its life."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from shards.files import locks
from shards.host.board import Board, ProcessRow

_STATES: Final = {ProcessRow.STARTING: "starting", ProcessRow.UP: "up", ProcessRow.STOPPING: "stopping"}


class ShardStates:
    """The states of all shards. A shard holds a lock on its own file for life: a lock that is free means it is dead."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._locks: dict[int, int] = {}  # shard to descriptor, kept open

    def read_state(self, index: int) -> str:
        """Return starting, up, stopping, down, or given_up (the supervisor does not restart it). Raises `OSError`."""
        row = self._board.shards[index]
        if row.given_up:
            return "given_up"
        return _STATES.get(row.state, "starting") if self._is_alive(index) else "down"

    def read_all(self) -> list[str]:
        """Return the state of every shard, in order. Raises `OSError`."""
        return [self.read_state(index) for index in range(self._board.facts.shards)]

    def _is_alive(self, index: int) -> bool:
        if index not in self._locks:
            try:
                path = Path(self._board.facts.lock_dir) / f"shard-{index}"
                self._locks[index] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # it was never started
                return False
        return locks.is_held(self._locks[index])
