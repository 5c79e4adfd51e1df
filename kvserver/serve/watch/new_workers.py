"""Finds web workers and gateways that came up since the last look. Gunicorn, their parent, reports deaths alone."""

from __future__ import annotations

from collections.abc import Iterator

from shards.host.board import Board, ProcessRow


class NewWorkers:
    """Compares the board with what it showed at the last look. The first look finds nothing: all of it is the start."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._known: set[tuple[str, int]] | None = None

    def find_new(self) -> list[tuple[str, int]]:
        """Return kind and pid of each process that is up and was not up at the last call."""
        present = set(self._list_up())
        new = sorted(present - self._known) if self._known is not None else []
        self._known = present
        return new

    def _list_up(self) -> Iterator[tuple[str, int]]:
        for kind, rows in (("web worker", self._board.workers), ("gateway", self._board.gateways)):
            for row in rows:
                if row.pid and row.state == ProcessRow.UP:
                    yield kind, row.pid
