"""A new board, and further handles on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shards.host.board import Board
from tests.unit.shards.host.tools import FACTS


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board.create(tmp_path / "board", FACTS)
    made.install()
    yield made
    made.close()


@pytest.fixture
def opened(board: Board) -> Iterator[Callable[[], Board]]:
    """Opens the board once more, as another process would."""
    others: list[Board] = []

    def open_() -> Board:
        others.append(Board.open(board.path))
        return others[-1]

    yield open_
    for other in others:
        other.close()
